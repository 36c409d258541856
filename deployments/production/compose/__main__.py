"""What the image runs: `python -m deployments.production.compose ROLE [ARGUMENTS…]`.

`prepare` makes the passwords of the stack; every other role becomes the program that `roles.py` says, once what it
speaks to listens. Compose waits for that only at the first start: after the engine, or the machine, came back, all
containers start at once.
"""

import argparse
import os
import socket
import sys
import time
from collections.abc import Sequence

from deployments.production.compose.passwords import LOGIN, Passwords
from deployments.production.compose.roles import ROLES, become, build_call
from keepwell.errors import KeepwellError, ServiceUnavailable

_PREPARE = "prepare"
_WAIT_SECONDS = 120.0
_POLL_SECONDS = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns only from `prepare`, and when something is wrong."""
    parser = argparse.ArgumentParser(prog="keepwell's image", description=(__doc__ or "").split("\n")[0])
    roles = parser.add_subparsers(dest="role", required=True, metavar="ROLE")
    prepare = roles.add_parser(_PREPARE, help="make the passwords that are not there yet")
    prepare.add_argument("--new-login", action="store_true", help=f"replace {LOGIN}")
    for role in ROLES:
        roles.add_parser(role, help="become it; arguments go to its program", add_help=False)
    options, rest = parser.parse_known_args(arguments)
    try:
        if options.role == _PREPARE:
            return _prepare(new_login=options.new_login)
        call = build_call(options.role, rest, os.environ, Passwords().read)
        for host, port in call.waits_for:
            wait_for(host, port)
    except KeepwellError as error:
        sys.stderr.write(f"{options.role}: {error.message}\n   hint: {error.hint}\n")
        return 2 if isinstance(error, ServiceUnavailable) else 1
    become(call)
    return 1


def _prepare(*, new_login: bool) -> int:
    passwords = Passwords()
    made = passwords.make_missing()
    if new_login and LOGIN not in made:
        passwords.renew_login()
        made.append(LOGIN)
    sys.stdout.write(f"Made: {', '.join(made)}.\n" if made else "Every password is there.\n")
    return 0


def wait_for(host: str, port: int, *, limit_seconds: float = _WAIT_SECONDS) -> None:
    """Until somebody listens there.

    Raises:
        ServiceUnavailable: Nobody did for that long.
    """
    deadline = time.monotonic() + limit_seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=_POLL_SECONDS).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise ServiceUnavailable(
                    f"{host}:{port} has not listened for {limit_seconds:.0f} s: {error}.",
                    hint=f"docker compose logs {host}",
                ) from error
            time.sleep(_POLL_SECONDS)
        else:
            return


if __name__ == "__main__":
    sys.exit(main())
