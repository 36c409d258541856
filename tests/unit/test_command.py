import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from waiting import wait_until

from keepwell import command
from keepwell.command import Command
from keepwell.errors import CommandFailed, ConfigurationError, ServiceUnavailable


def test_standard_output_comes_back_whole() -> None:
    assert command.run(Command(("printf", "a\\nb"))) == b"a\nb"


def test_a_failing_program_is_named_with_what_it_said() -> None:
    with pytest.raises(CommandFailed, match="sh ended with exit code 3: no way") as caught:
        command.run(Command(("sh", "-c", "echo no way >&2; exit 3")))
    assert caught.value.exit_code == 3


def test_a_program_ended_by_a_signal_says_which() -> None:
    with pytest.raises(CommandFailed, match="signal 9"):
        command.run(Command(("sh", "-c", "kill -9 $$")))


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(ConfigurationError, match="no-such-program"):
        command.run(Command(("no-such-program",)))


def test_a_program_that_takes_too_long_is_stopped() -> None:
    began = time.monotonic()
    with pytest.raises(ServiceUnavailable, match="did not end within"):
        command.run(Command(("sleep", "60")), timeout_seconds=0.2)
    assert time.monotonic() - began < 10


def test_nothing_of_our_environment_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    seen = command.run(Command(("env",), {"OURS": "1"})).decode()
    assert "hush" not in seen
    assert "OURS=1" in seen


def test_the_environment_never_shows() -> None:
    assert "hush" not in repr(Command(("a", "b"), {"PGPASSWORD": "hush"}))
    assert str(Command(("a", "b"), {"PGPASSWORD": "hush"})) == "a b"


def test_standard_input_is_empty_unless_given(tmp_path: Path) -> None:
    assert command.run(Command(("cat",)), timeout_seconds=10) == b""
    given = tmp_path / "given"
    given.write_bytes(b"text")
    with given.open("rb") as stream:
        assert command.run(Command(("cat",)), stdin=stream) == b"text"


def test_stopping_twice_does_no_harm() -> None:
    process = command.start(Command(("sleep", "60")))
    command.stop(process)
    command.stop(process)
    assert process.returncode is not None


def test_a_program_that_ignores_politeness_is_killed() -> None:
    process = command.start(
        Command(("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done")), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    command.stop(process, grace_seconds=0.2)
    assert process.returncode == -signal.SIGKILL


def test_the_end_of_standard_error_is_kept() -> None:
    process = command.start(Command(("sh", "-c", "seq 1 20000 >&2")))
    tail = command.StderrTail(process)
    process.wait()
    said = tail.read()
    command.stop(process)
    assert said.endswith(b"20000\n")
    assert len(said) <= 4_000


@pytest.mark.parametrize("death_signal", [signal.SIGKILL, signal.SIGQUIT])
def test_a_child_dies_with_its_killed_parent(death_signal: signal.Signals) -> None:
    """Also where the parent ignores that signal, as whatever a script starts in its background does."""
    script = textwrap.dedent(f"""
        import signal
        from keepwell import command
        from keepwell.command import Command
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)
        child = command.start(Command(("sleep", "60")), death_signal=signal.{death_signal.name})
        print(child.pid, flush=True)
        child.wait()
    """)
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    wait_until(lambda: Path(f"/proc/{child}/comm").read_text().strip() == "sleep")
    parent.kill()
    parent.communicate()
    wait_until(lambda: not _lives(child))


def test_a_child_whose_parent_was_killed_before_it_could_ask_for_the_signal_never_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as if the parent had been another one
    with pytest.raises(CommandFailed):
        command.run(Command(("touch", str(tmp_path / "begun"))))
    assert not (tmp_path / "begun").exists()


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z" and os.path.exists(f"/proc/{pid}")  # noqa: PTH110
