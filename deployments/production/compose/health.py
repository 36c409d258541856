"""Whether something of this container answers: `python -m deployments.production.compose.health URL`, for compose.

With the standard library alone, since it is asked every half minute.
"""

import sys
import urllib.error
import urllib.request

_ANSWER_SECONDS = 8


def main(arguments: list[str]) -> int:
    """Exit code 0 for a good answer; what is wrong is told to whoever inspects the container."""
    (address,) = arguments
    try:
        with urllib.request.urlopen(address, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310 - compose names it
            return 0 if answer.status == 200 else 1
    except (urllib.error.URLError, TimeoutError) as error:
        sys.stdout.write(f"{address}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
