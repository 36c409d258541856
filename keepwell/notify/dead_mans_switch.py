"""The outside watcher that alerts when we fall silent: asked after a proven backup only.

Its address is a secret. The standard library's client is used because it logs nothing, whereas httpx writes every
address it asks to its log.
"""

import time
import urllib.error
import urllib.request
from http import HTTPStatus
from http.client import HTTPException

from keepwell.errors import ConfigurationError, KeepwellError, ServiceUnavailable
from keepwell.settings import Platform

_HINT = "Check notify.dead_mans_switch_url_file, and that this machine may reach the service."


def ping_dead_mans_switch(
    platform: Platform, *, tries: int = 3, pause_seconds: float = 2, timeout_seconds: float = 10
) -> bool:
    """Tell the outside watcher that a proven backup exists.

    Args:
        platform: Whose switch.
        tries: At most so many, because a lost ping is a false alarm at night; only for errors that may pass.
        pause_seconds: Between them, doubling.
        timeout_seconds: Per step of each try.

    Returns:
        False when no switch is configured.

    Raises:
        ConfigurationError: The address is none of http or https.
        ServiceUnavailable: It did not answer, or answered that it cannot serve now, each time.
        KeepwellError: It refused; a retry would not help.
    """
    if platform.notify.dead_mans_switch_url is None:
        return False
    url = platform.notify.dead_mans_switch_url.get_secret_value()
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError("The dead-man's switch has no http address.", hint=_HINT)
    for attempt in range(1, tries + 1):
        try:
            _ask(url, timeout_seconds)
        except ServiceUnavailable:
            if attempt == tries:
                raise
            time.sleep(pause_seconds * 2 ** (attempt - 1))
        else:
            break
    return True


def _ask(url: str, timeout_seconds: float) -> None:
    try:
        with urllib.request.urlopen(url, timeout=timeout_seconds) as answer:  # noqa: S310 - http and https only, checked above
            answer.read(1024)
    except urllib.error.HTTPError as error:
        error.close()
        message = f"The dead-man's switch answered HTTP {error.code}."
        if error.code == HTTPStatus.TOO_MANY_REQUESTS or error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise ServiceUnavailable(message, hint="It alerts by itself when it stays silent.") from None
        raise KeepwellError(message, hint=_HINT) from None
    except (OSError, HTTPException, ValueError) as error:
        # From None, because these carry the address.
        raise ServiceUnavailable(f"The dead-man's switch did not answer: {_kind(error)}.", hint=_HINT) from None


def _kind(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return type(cause).__name__
