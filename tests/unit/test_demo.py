"""How the demonstration ends: with one JSON object and nothing left, or with an error and the logs that explain it."""

import json
from pathlib import Path

import pytest
from backup_documents import a_manifest, a_proof

from deployments.local import demo, story
from deployments.local.stack import StackOptions
from deployments.running.lifecycle import StackReport
from deployments.running.state import StateFolder
from keepwell.errors import VerificationFailed
from keepwell.verdict import Finding, Verdict

MANIFEST = a_manifest()
PART = MANIFEST.parts[0]
DAMAGE = Finding(name=PART.name, verdict=Verdict.ALERT, message="It cannot be decompressed.")


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    return StateFolder.at(tmp_path / "demo")


@pytest.fixture(autouse=True)
def engine(state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack of log files only, a run that completes, and damage that is found."""

    def start(*_: object, **__: object) -> StackReport:
        state.prepare()
        state.log("prefect-worker").write_text("what the worker said")
        return StackReport(Verdict.OK, {}, "")

    monkeypatch.setattr(story, "bring_up", start)
    monkeypatch.setattr(demo, "run_keepwell", lambda *_: 0)
    monkeypatch.setattr(demo, "load_platform_file", lambda _: None)
    monkeypatch.setattr(demo, "open_store", lambda _: None)
    monkeypatch.setattr(demo, "_newest", lambda _: (MANIFEST, a_proof()))
    found = a_proof(reached="uploaded", stopped_by=Verdict.ALERT, findings=(DAMAGE,))
    monkeypatch.setattr(demo, "_damage_and_verify", lambda *_: (PART, found))


def run(state: StateFolder, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    code = demo.run_demo(state, StackOptions())
    return code, capsys.readouterr().out.splitlines()


def assert_logs_are_kept(state: StateFolder, said: list[str]) -> None:
    assert state.log("prefect-worker").read_text() == "what the worker said"
    assert any(line.endswith(f"its logs are in {state.folder / 'logs'}") for line in said)


def test_a_good_end_is_one_json_object_and_leaves_nothing(
    state: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run(state, capsys)
    assert code == 0
    assert json.loads(said[-1]) == {
        "backup_id": MANIFEST.backup_id,
        "level": "L6",
        "tables": 1,
        "rows": 100,
        "bytes_source": 12_000_000,
        "bytes_stored": MANIFEST.stored_bytes,
        "seconds_backup": 3.0,
        "seconds_proof": 60.0,
        "damaged_copy_detected": True,
    }
    assert {path.suffix for path in state.folder.iterdir()} == {".lock"}


def test_a_run_that_fails_keeps_the_logs(
    state: StateFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "run_keepwell", lambda *_: 1)
    code, said = run(state, capsys)
    assert code == 1
    assert_logs_are_kept(state, said)


def test_a_part_that_does_not_start_keeps_the_logs_that_its_hint_names(
    state: StateFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start = story.bring_up

    def fail(*arguments: object, **options: object) -> StackReport:
        start(*arguments, **options)  # type: ignore[arg-type]
        return StackReport(Verdict.ALERT, {}, f"redis ended: read {state.log('redis')}.")

    monkeypatch.setattr(story, "bring_up", fail)
    code, said = run(state, capsys)
    assert code == 1
    assert f"redis ended: read {state.log('redis')}." in said
    assert_logs_are_kept(state, said)


@pytest.mark.parametrize(
    "proof",
    [
        a_proof(),
        # Something was found, and it was not what had been damaged.
        a_proof(
            reached="uploaded", stopped_by=Verdict.ALERT, findings=(DAMAGE.model_copy(update={"name": "globals.sql"}),)
        ),
    ],
)
def test_damage_that_is_not_found_is_a_failure(
    proof: object, state: StateFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "_damage_and_verify", lambda *_: (PART, proof))
    code, said = run(state, capsys)
    assert code == 1
    assert json.loads(said[-1])["damaged_copy_detected"] is False
    assert_logs_are_kept(state, said)


def test_a_set_that_fell_short_is_a_failure(
    state: StateFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "_newest", lambda _: (MANIFEST, a_proof(reached="sound", stopped_by=Verdict.ALERT)))
    code, said = run(state, capsys)
    assert code == 1
    assert json.loads(said[-1])["level"] == "L5"
    assert_logs_are_kept(state, said)


@pytest.mark.parametrize("error", [VerificationFailed("The bucket holds no proven set."), KeyboardInterrupt()])
def test_a_story_that_breaks_off_keeps_the_logs(
    error: BaseException, state: StateFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def break_off(_: object) -> None:
        raise error

    monkeypatch.setattr(demo, "_newest", break_off)
    with pytest.raises(type(error)):
        demo.run_demo(state, StackOptions())
    assert_logs_are_kept(state, capsys.readouterr().out.splitlines())


def test_the_next_demonstration_begins_with_nothing_of_the_last(
    state: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    state.prepare()
    state.log("of-the-last").write_text("x")
    (state.folder / "production").mkdir()
    assert run(state, capsys)[0] == 0
    assert {path.suffix for path in state.folder.iterdir()} == {".lock"}
