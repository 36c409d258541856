"""Secrets stay out of whatever the orchestrator stores: run logs, tracebacks, state messages, artifacts.

Log records are redacted by a filter on every handler, Prefect's API handler among them: a filter on a logger would
miss what its children log. A state message is made from the exception, so exceptions are scrubbed before they leave a
step or a flow. The filter is installed here rather than by PREFECT_LOGGING_SETTINGS_PATH, because it must also work for
whoever forgot to set that, and because the secrets are only known once a platform was loaded.
"""

import base64
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from functools import wraps
from typing import ParamSpec, TypeVar
from urllib.parse import quote, quote_plus, unquote, urlsplit

from pydantic import BaseModel, SecretStr

from keepwell.errors import KeepwellError
from keepwell.settings import Platform

HIDDEN = "********"
# Shorter ones are found in ordinary words, and hide nothing from anybody.
_SHORTEST = 6
# A part of an address counts as a token when it is long and does not read like a word.
_TOKEN = re.compile(r"^(?=.*(\d|[a-z][A-Z])).{8,}$")
# Secrets that no platform file names: our access to the orchestrator, and what the store's client takes by itself.
_ENVIRONMENT = (
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)

P = ParamSpec("P")
R = TypeVar("R")

_known: set[str] = set()
_pattern: re.Pattern[str] | None = None


def hide(platform: Platform) -> None:
    """Redact a platform's secrets from now on, in every log handler that there is."""
    global _pattern  # noqa: PLW0603 - logging is one per process, and so is what must not get into it
    _known.update(collect_secrets(platform))
    _pattern = re.compile("|".join(map(re.escape, sorted(_known, key=len, reverse=True)))) if _known else None
    for handler in log_handlers():
        if not any(isinstance(installed, RedactingFilter) for installed in handler.filters):
            handler.addFilter(RedactingFilter())


def redact(text: str) -> str:
    """The text without any secret that is known so far."""
    return _pattern.sub(HIDDEN, text) if _pattern else text


def collect_secrets(platform: Platform) -> frozenset[str]:
    """Every secret of a platform and of our environment, in every form in which it could show."""
    values = set(_walk(platform)) | {os.environ[name] for name in _ENVIRONMENT if os.environ.get(name)}
    pieces = values | {piece for value in values for piece in _pieces(value)}
    return frozenset(form for piece in pieces for form in _forms(piece) if len(form) >= _SHORTEST)


class RedactingFilter(logging.Filter):
    """Redacts a record's message and its traceback; a record without a secret is left as it is."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, without secrets."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # a faulty log call: its parts are all that there is
            message = f"{record.msg} {record.args}"
        clean = redact(message)
        if clean != message:
            record.msg, record.args = clean, None
        if record.exc_info and not record.exc_text:
            text = logging.Formatter().formatException(record.exc_info)
            if redact(text) != text:
                # A formatter takes the text when there is no exception to format.
                record.exc_text, record.exc_info = redact(text), None
        elif record.exc_text:
            record.exc_text = redact(record.exc_text)
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        return True


def scrubbed(function: Callable[P, R]) -> Callable[P, R]:
    """Let no exception leave a function with a secret in it; stands below `@flow` or `@task`."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            clean = scrub(error)
            if clean is error:
                raise
            raise clean from None

    return call


def scrub(error: Exception) -> Exception:
    """An exception without secrets, its causes too: itself where it could be cleaned, else one of ours in its place."""
    for link in _chain(error):
        link.args = tuple(redact(arg) if isinstance(arg, str) else arg for arg in link.args)
        if isinstance(link, KeepwellError):
            for name, value in vars(link).items():
                setattr(link, name, _redact_value(value))
    if all(_is_clean(link) for link in _chain(error)):
        return error
    return KeepwellError(redact(f"{type(error).__name__}: {error}"), hint="Its secrets were taken out.")


def log_handlers() -> Iterator[logging.Handler]:
    """Every handler of this process, whatever it is attached to."""
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    for logger in loggers:
        if isinstance(logger, logging.Logger):
            yield from logger.handlers


def _redact_value(value: object) -> object:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {_redact_value(key): _redact_value(entry) for key, entry in value.items()}
    return value


def _is_clean(error: BaseException) -> bool:
    shown = f"{error}\n{error!r}\n{getattr(error, '__notes__', '')}"
    return redact(shown) == shown


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting += [link.__cause__, link.__context__]
        if isinstance(link, BaseExceptionGroup):
            waiting += link.exceptions


def _walk(value: object) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _walk(getattr(value, name))
    elif isinstance(value, tuple | list):
        for entry in value:
            yield from _walk(entry)


def _pieces(secret: str) -> Iterator[str]:
    """The parts of an address or of `user:password` that are secrets by themselves."""
    if "://" not in secret:
        yield secret.partition(":")[2]
        return
    try:
        address = urlsplit(secret)
    except ValueError:
        return
    user, _, password = address.netloc.rpartition("@")[0].partition(":")
    yield unquote(password)
    for part in (user, *re.split(r"[/&=;,]", f"{address.path}/{address.query}"), *address.netloc.split("@")[:1]):
        if _TOKEN.match(part) and part != address.netloc:
            yield unquote(part)


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield quote(secret)
    yield quote(secret, safe="")
    yield quote_plus(secret)
    yield json.dumps(secret)[1:-1]
    yield repr(secret)[1:-1]
    yield base64.b64encode(secret.encode()).decode()
