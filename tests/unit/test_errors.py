import pickle

import pytest

from keepwell import errors
from keepwell.errors import CommandFailed, KeepwellError, PartialFailure

TRANSIENT = {errors.TransientError, errors.ServiceUnavailable, errors.LockTimeout, errors.Throttled, errors.Abandoned}


def _every_kind() -> list[type[KeepwellError]]:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, KeepwellError)]
    return sorted(kinds, key=lambda kind: kind.__name__)


def _make(kind: type[KeepwellError]) -> KeepwellError:
    if issubclass(kind, CommandFailed):
        return kind("message", exit_code=3, hint="hint")
    if issubclass(kind, PartialFailure):
        return kind("message", outcomes={"a": "b"}, hint="hint")
    return kind("message", hint="hint")


@pytest.mark.parametrize("kind", _every_kind())
def test_only_transient_errors_are_retried(kind: type[KeepwellError]) -> None:
    assert errors.is_transient(_make(kind)) is (kind in TRANSIENT)


@pytest.mark.parametrize("kind", _every_kind())
def test_an_error_survives_pickling_whole(kind: type[KeepwellError]) -> None:
    error = _make(kind)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


def test_the_hint_is_part_of_the_text_when_there_is_one() -> None:
    assert str(KeepwellError("It broke.", hint="Mend it.")) == "It broke. Hint: Mend it."
    assert str(KeepwellError("It broke.")) == "It broke."


def test_errors_of_others_are_never_retried() -> None:
    assert not errors.is_transient(TimeoutError())
