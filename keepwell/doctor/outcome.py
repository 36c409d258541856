"""Turning what a check met into a finding."""

from collections.abc import Callable, Iterable, Iterator

from keepwell.errors import KeepwellError, TransientError
from keepwell.verdict import Finding, Verdict


def ok(name: str, message: str, *, hint: str = "") -> Finding:
    """All is well."""
    return Finding(name=name, verdict=Verdict.OK, message=message, hint=hint)


def warn(name: str, message: str, *, hint: str) -> Finding:
    """Not wrong yet, or not fully covered."""
    return Finding(name=name, verdict=Verdict.WARN, message=message, hint=hint)


def alert(name: str, message: str, *, hint: str) -> Finding:
    """Wrong."""
    return Finding(name=name, verdict=Verdict.ALERT, message=message, hint=hint)


def not_checked(name: str, message: str, *, hint: str = "") -> Finding:
    """The check could not run, which may hide anything."""
    return Finding(name=name, verdict=Verdict.UNKNOWN, message=message, hint=hint)


def not_applicable(name: str, message: str, *, hint: str = "") -> Finding:
    """By configuration there is nothing to check; the message says which."""
    return Finding(name=name, verdict=Verdict.NOT_APPLICABLE, message=message, hint=hint)


def from_error(name: str, error: KeepwellError) -> Finding:
    """An error inside a check: unknown when it may pass, alert when it says that something is wrong."""
    verdict = Verdict.UNKNOWN if isinstance(error, TransientError) else Verdict.ALERT
    return Finding(name=name, verdict=verdict, message=error.message, hint=error.hint)


def guarded(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of one check; its error becomes a finding, so that the next check still runs."""
    try:
        yield from check()
    except KeepwellError as error:
        yield from_error(name, error)
