"""One tree of errors, so that callers can tell what a retry would help.

KeepwellError(message, *, hint)
├─ ConfigurationError     settings are wrong                       never retried
├─ PreconditionFailed     a gate said no; nothing was changed      never retried
│   ├─ Busy               another procedure holds the interlock
│   └─ Refused            a person was asked and said no
├─ TransientError         the same call may succeed later          retried
│   ├─ ServiceUnavailable
│   ├─ LockTimeout
│   ├─ Throttled
│   └─ Abandoned          something else of the same run failed
├─ CommandFailed          a program ended non-zero: redacted argv, end of stderr
├─ AccessDenied           the server knows us, or not, and said no  never retried
├─ VerificationFailed     it ran; the evidence is wrong            never retried, pages someone
└─ PartialFailure         some of several items failed
"""

from collections.abc import Mapping


class KeepwellError(Exception):
    """A clear sentence for the operator, with what to do next.

    Args:
        message: What is wrong, one sentence; never holds a secret.
        hint: What to do about it, one sentence; may be empty when the message already says it.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} Hint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        """Keep keyword-only arguments when the orchestrator pickles an exception."""
        return (_rebuild, (type(self), self.__dict__ | {"args": self.args}))


def _rebuild(kind: type[KeepwellError], state: Mapping[str, object]) -> KeepwellError:
    error = kind.__new__(kind)
    error.__dict__.update({name: value for name, value in state.items() if name != "args"})
    error.args = state["args"]  # type: ignore[assignment]
    return error


class ConfigurationError(KeepwellError):
    """Settings are missing or contradict one another."""


class PreconditionFailed(KeepwellError):
    """A gate said no before anything was changed."""


class Busy(PreconditionFailed):
    """Another procedure that may not overlap is at work on this platform."""


class Refused(PreconditionFailed):
    """A person was asked for approval and said no."""


class TransientError(KeepwellError):
    """The same call may succeed later."""


class ServiceUnavailable(TransientError):
    """A server does not answer, or answers that it cannot serve now."""


class LockTimeout(TransientError):
    """A lock of the database was not granted in time."""


class Throttled(TransientError):
    """A service asked us to slow down."""


class Abandoned(TransientError):
    """Ended because something else of the same run failed, which tells more."""


class CommandFailed(KeepwellError):
    """A program ended with a non-zero exit code, or by a signal.

    Args:
        message: Redacted command and the end of its standard error.
        exit_code: As the operating system gave it; negative is a signal.
        hint: What to do about it.
    """

    def __init__(self, message: str, *, exit_code: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class AccessDenied(KeepwellError):
    """Credentials or privileges do not suffice."""


class VerificationFailed(KeepwellError):
    """The procedure ran to its end and its evidence is wrong."""


class PartialFailure(KeepwellError):
    """Some items of a batch failed.

    Args:
        message: How many of how many failed.
        outcomes: Item to what became of it; only the failed ones.
        hint: What to do about it.
    """

    def __init__(self, message: str, *, outcomes: Mapping[str, str], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.outcomes = dict(outcomes)


def is_transient(error: BaseException) -> bool:
    """Whether a retry of the same call may succeed: the one rule behind every retry."""
    return isinstance(error, TransientError)
