"""A status page's webhook: each text for the public, sent once as JSON.

Its address is a secret, so the standard library's client is used: it logs nothing.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPException

from pydantic import SecretStr

from keepwell.errors import ConfigurationError, KeepwellError, ServiceUnavailable

_HINT = "Check incident.status_webhook_url_file; meanwhile copy the text to the status page by hand."


class _Unled(urllib.request.HTTPRedirectHandler):
    """Follows nobody: behind a redirect, a POST would arrive as a GET without its text, and look like a success."""

    def redirect_request(self, *_: object) -> None:
        """None, so that the redirect is the answer."""


_OPENER = urllib.request.build_opener(_Unled)


def post_status(address: SecretStr, document: Mapping[str, object], *, timeout_seconds: float = 10) -> None:
    """Send one document.

    Args:
        address: Of the webhook.
        document: As JSON takes it.
        timeout_seconds: Per step.

    Raises:
        ConfigurationError: The address is none of http or https.
        ServiceUnavailable: It did not answer, or answered that it cannot serve now.
        KeepwellError: It refused; a retry would not help.
    """
    url = address.get_secret_value()
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError("The status page's webhook has no http address.", hint=_HINT)
    body = json.dumps(document, ensure_ascii=False).encode()
    try:
        request = urllib.request.Request(  # noqa: S310 - http and https only, checked above
            url, data=body, headers={"Content-Type": "application/json; charset=utf-8"}, method="POST"
        )
        with _OPENER.open(request, timeout=timeout_seconds) as answer:
            answer.read(1024)
    except urllib.error.HTTPError as error:
        error.close()
        message = f"The status page's webhook answered HTTP {error.code}."
        if error.code == HTTPStatus.TOO_MANY_REQUESTS or error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise ServiceUnavailable(message, hint=_HINT) from None
        raise KeepwellError(message, hint=_HINT) from None
    except (OSError, HTTPException, ValueError) as error:
        # From None, because these carry the address.
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        raise ServiceUnavailable(
            f"The status page's webhook did not answer: {type(cause).__name__}.", hint=_HINT
        ) from None
