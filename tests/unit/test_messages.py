"""What people read at night, word by word: tests/cases/messages.txt. ACCEPT_MESSAGES=1 writes it anew, to be read."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from backup_documents import a_manifest, a_proof

from keepwell.backup.catalogue import BackupEntry
from keepwell.backup.freshness import (
    FreshnessLimits,
    Notice,
    RunFacts,
    ScheduleFacts,
    SetFacts,
    Unanswered,
    judge_backups,
    judge_schedule,
)
from keepwell.backup.report import (
    FailureFacts,
    build_check_message,
    build_failure_message,
    build_first_message,
    describe_safety,
)
from keepwell.errors import LockTimeout, PreconditionFailed
from keepwell.notify import Message, render_body

GOLDEN = Path(__file__).parent.parent / "cases" / "messages.txt"
NOW = datetime(2026, 3, 2, 3, 15, tzinfo=UTC)
MANIFEST, PROOF = a_manifest(NOW - timedelta(hours=25)), a_proof(NOW - timedelta(hours=25))
SAFE = describe_safety([BackupEntry(MANIFEST.backup_id, MANIFEST, "", PROOF, PROOF)], "equal")
LIMITS = FreshnessLimits("esn", timedelta(hours=26), "equal")
PROVEN = SetFacts(MANIFEST.backup_id, MANIFEST.snapshot_at, 1000, "serving", True, False, True, True)


def failure(
    cause: str, *, state: str = "Failed", command: str = "keepwell run backup-and-verify --platform esn"
) -> Message:
    facts = FailureFacts(
        platform="esn",
        procedure="backup-and-verify",
        run_name="backup-and-verify/esn",
        state=state,
        cause=cause,
        safe=SAFE,
        next_command=command,
        run_url="http://127.0.0.1:4200/runs/flow-run/1",
        since=NOW,
    )
    return build_failure_message(facts)


def check(sets: list[SetFacts], schedule: ScheduleFacts | Unanswered, notice: Notice, now: datetime = NOW) -> Message:
    findings = judge_backups(sets, LIMITS, now) + judge_schedule(schedule, LIMITS, now)
    since = None if notice is Notice.RECOVERED else NOW - timedelta(days=1 if notice is Notice.STILL_BAD else 0)
    return build_check_message(findings, notice, platform="esn", safe=SAFE, bad_since=since)


def messages() -> Iterator[tuple[str, Message]]:
    for watched, told in ((True, "watched"), (False, "not watched")):
        yield (
            f"the first proven backup, {told}",
            build_first_message(MANIFEST, PROOF, platform="esn", is_watched=watched, is_oldest=True),
        )
    yield (
        "the first proven backup, with older sets",
        build_first_message(MANIFEST, PROOF, platform="esn", is_watched=True, is_oldest=False),
    )
    denied = PreconditionFailed(
        "The role reader may not read public.events.", hint='GRANT pg_read_all_data TO "reader".'
    )
    yield "a backup that was refused", failure(f"Flow run encountered an exception: PreconditionFailed: {denied}")
    locked = LockTimeout("The backup let go, because session 7 has waited 60 s.", hint="Move the migration.")
    yield "a backup that gave way", failure(f"Flow run encountered an exception: LockTimeout: {locked}")
    yield "a killed backup", failure("The process fell silent: it was killed, or its machine is gone.", state="Crashed")
    late = "It was due 2026-03-02 02:00 UTC and has not started. Is a worker of its pool up?"
    yield "a backup that does not begin", failure(late, state="Late")
    running = ScheduleFacts(deployed=True, active=True, next_at=NOW + timedelta(hours=23))
    aged = [SetFacts(*(("old", NOW - timedelta(hours=30), 1000, "serving", True, False, True, True)))]
    yield "a check: too old", check(aged, running, Notice.TURNED_BAD)
    yield "a check: still", check(aged, running, Notice.STILL_BAD)
    yield "a check: over", check([PROVEN], running, Notice.RECOVERED)
    asleep = ScheduleFacts(deployed=True, active=False)
    yield "a check: nothing starts it", check([PROVEN], asleep, Notice.TURNED_BAD)
    waiting = RunFacts(NOW - timedelta(hours=1), None, "SCHEDULED")
    yield "a check: late", check([PROVEN], ScheduleFacts(True, True, next_at=NOW, runs=(waiting,)), Notice.TURNED_BAD)
    yield "a check: nobody answers", check([PROVEN], Unanswered("no answer from the API."), Notice.TURNED_BAD)
    damaged = SetFacts(MANIFEST.backup_id, MANIFEST.snapshot_at, 1000, "uploaded", False, True, True, True)
    yield "a check: damaged", check([damaged, PROVEN], running, Notice.TURNED_BAD)


def render(name: str, message: Message) -> str:
    return f"=== {name} ({message.verdict})\n{message.title}\n\n{render_body(message)}\n"


def test_every_message_says_what_it_said_when_somebody_last_read_it() -> None:
    written = "\n".join(render(name, message) for name, message in messages())
    if os.environ.get("ACCEPT_MESSAGES"):
        GOLDEN.write_text(written)
    assert written == GOLDEN.read_text()


@pytest.mark.parametrize(("name", "message"), [*messages()])
def test_a_message_says_what_is_safe_since_when_and_what_to_do_next(name: str, message: Message) -> None:
    body = render_body(message)
    assert message.title.startswith("esn: ")
    assert "the data as of" in message.still_safe
    assert message.next_command
    if message.verdict != "ok":
        assert "\nSince: 2026-03-0" in body
        assert any(word in message.next_command for word in ("keepwell ", "Resume", "worker"))
    assert len(message.title) < 60
