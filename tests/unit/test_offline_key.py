import hashlib
import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from backup_documents import a_manifest, a_part, a_proof, documents
from memory_store import MemoryStore
from real_servers import SEALING

from keepwell import sealing
from keepwell.drill.documents import drill_key, read_first_moment
from keepwell.drill.offline_key import (
    QUARTER,
    TRIALS,
    OfflineKeyTrial,
    Trials,
    build_key_message,
    judge_offline_key,
    read_trials,
    skip_offline_key,
    try_offline_key,
)
from keepwell.errors import PreconditionFailed
from keepwell.settings import BackupSettings, Platform
from keepwell.verdict import Verdict

NOW = datetime(2026, 11, 1, 5, 0, tzinfo=UTC)


def trial(days: float, outcome: str, message: str = "it was so") -> OfflineKeyTrial:
    at = NOW - timedelta(days=days)
    return OfflineKeyTrial(
        trial_id=f"{at:%Y%m%dT%H%M%SZ}-abcdef",
        platform="esn",
        tried_at=at,
        outcome=outcome,  # type: ignore[arg-type]
        message=message,
        recipient=None if outcome == "skipped" else "age1offline",
    )


def judge(
    *trials: OfflineKeyTrial,
    since: float = 300,
    sealed: bool = True,
    recipients: tuple[str, ...] = ("age1offline",),
    unreadable: tuple[str, ...] = (),
) -> tuple[Verdict, str]:
    finding = judge_offline_key(
        Trials(trials, unreadable),
        sealed=sealed,
        recipients=recipients,
        since=NOW - timedelta(days=since),
        now=NOW,
    )
    return finding.verdict, finding.message


def test_a_key_that_opened_a_set_this_quarter_is_fine() -> None:
    assert judge(trial(40, "opened")) == (
        Verdict.OK,
        "The offline key opened a set on 2026-09-22; it is due on 2026-12-23.",
    )
    assert judge(trial(40, "opened"), trial(10, "skipped"))[0] is Verdict.OK
    assert judge(trial(60, "failed"), trial(40, "opened"))[0] is Verdict.OK


def test_a_first_quarter_without_a_trial_is_no_fault() -> None:
    assert judge(since=20)[0] is Verdict.OK


def test_a_key_that_sets_are_no_longer_sealed_for_counts_as_not_tried() -> None:
    verdict, message = judge(trial(40, "opened"), recipients=("age1another",))
    assert verdict is Verdict.WARN
    assert "never tried" in message


def test_a_trial_that_cannot_be_read_is_told_until_a_later_one_opened() -> None:
    unreadable = (f"{TRIALS}{NOW - timedelta(days=30):%Y%m%dT%H%M%SZ}-abcdef.json",)
    assert judge(trial(40, "opened"), unreadable=unreadable)[0] is Verdict.WARN
    assert judge(trial(40, "opened"), trial(20, "opened"), unreadable=unreadable)[0] is Verdict.OK
    assert judge(since=20, unreadable=unreadable)[0] is Verdict.WARN


def test_a_trial_under_another_one_s_name_does_not_count() -> None:
    store = MemoryStore()
    one = trial(120, "opened")
    store.put_signed(f"{TRIALS}{one.trial_id}.json", one.to_json())
    later = f"{TRIALS}{trial(1, 'opened').trial_id}.json"
    store.put_signed(later, one.to_json())
    assert read_trials(store) == Trials((one,), (later,))  # type: ignore[arg-type]


def test_the_first_quarter_begins_with_the_first_drill_of_all() -> None:
    store = MemoryStore()
    assert read_first_moment(store) is None  # type: ignore[arg-type]
    for day in range(40):
        store.put_bytes(drill_key(f"{NOW + timedelta(days=day):%Y%m%dT%H%M%SZ}-0d0d0d"), b"{")
    assert read_first_moment(store) == NOW  # type: ignore[arg-type]


def test_once_the_quarter_is_over_it_is_asked_for_and_a_skip_is_told() -> None:
    assert judge()[0] is Verdict.WARN
    assert "never tried" in judge()[1]
    verdict, message = judge(trial(120, "opened"), trial(20, "skipped", "Ada is on leave"))
    assert verdict is Verdict.WARN
    assert "skipped on 2026-10-12: Ada is on leave" in message


def test_whoever_has_it_is_asked_while_it_is_due_and_not_before() -> None:
    at = {"sealed": True, "recipients": ("age1offline",), "since": NOW - timedelta(days=300), "now": NOW}
    asked = build_key_message("esn", [judge_offline_key(Trials(), **at)])  # type: ignore[arg-type]
    assert asked is not None
    assert asked.next_command == "keepwell drill offline-key --platform esn"
    tried = Trials((trial(5, "opened"),))
    assert build_key_message("esn", [judge_offline_key(tried, **at)]) is None  # type: ignore[arg-type]
    assert build_key_message("esn", []) is None


def test_a_key_that_does_not_open_the_newest_set_is_an_alert() -> None:
    assert judge(trial(40, "opened"), trial(2, "failed"), trial(1, "skipped"))[0] is Verdict.ALERT


def test_where_nothing_is_sealed_there_is_no_key() -> None:
    assert judge(sealed=False)[0] is Verdict.NOT_APPLICABLE


@pytest.fixture
def offline() -> sealing.x25519.Identity:
    return sealing.parse_identity(sealing.make_identity()[0])


@pytest.fixture
def platform() -> Platform:
    return Platform.model_construct(name="esn", sealing=SEALING, backup=BackupSettings())


@pytest.fixture
def put_set(offline: sealing.x25519.Identity) -> Callable[..., MemoryStore]:
    """A store with a proven set that one object of is sealed for the offline key, and maybe damaged."""

    def put(*, sealed_for: sealing.x25519.Identity | None = None, damage: bytes = b"") -> MemoryStore:
        own = sealing.load_seal(SEALING)
        store, target = MemoryStore(), io.BytesIO()
        sealing.encrypt(io.BytesIO(b"roles"), target, [(sealed_for or offline).to_public(), own.recipients[0]])
        stored = target.getvalue() + damage
        part = a_part("globals.sql.age").model_copy(
            update={
                "size_bytes": len(stored),
                "encryption": "age",
                "compression": None,
                "content_sha256": hashlib.sha256(b"roles").hexdigest(),
            }
        )
        manifest = a_manifest().model_copy(update={"parts": (part,)})
        store.objects = documents(manifest, a_proof())
        store.objects[f"backups/{manifest.backup_id}/globals.sql.age"] = stored
        store.seal = own  # type: ignore[misc]
        store.keeping = None  # type: ignore[attr-defined]
        return store

    return put


def test_the_offline_key_opens_the_newest_proven_set_and_that_is_kept(
    put_set: Callable[..., MemoryStore], platform: Platform, offline: sealing.x25519.Identity
) -> None:
    store = put_set()
    tried = try_offline_key(platform, store, offline, NOW)  # type: ignore[arg-type]
    assert (tried.outcome, tried.part, tried.recipient) == ("opened", "globals.sql.age", sealing.public_of(offline))
    skip_offline_key(platform, store, "Ada is on leave", NOW + QUARTER)  # type: ignore[arg-type]
    assert [one.outcome for one in read_trials(store).trials] == ["opened", "skipped"]  # type: ignore[arg-type]
    assert str(offline) not in "".join(map(repr, store.objects.values()))


def test_a_key_that_does_not_open_it_fails_and_so_does_a_damaged_object(
    put_set: Callable[..., MemoryStore], platform: Platform, offline: sealing.x25519.Identity
) -> None:
    stranger = sealing.parse_identity(sealing.make_identity()[0])
    for store in (put_set(sealed_for=stranger), put_set(damage=b"\0")):
        tried = try_offline_key(platform, store, offline, NOW)  # type: ignore[arg-type]
        assert tried.outcome == "failed"
        assert judge(*read_trials(store).trials)[0] is Verdict.ALERT  # type: ignore[arg-type]


def test_this_machine_s_own_key_says_nothing(put_set: Callable[..., MemoryStore], platform: Platform) -> None:
    store = put_set()
    with pytest.raises(PreconditionFailed, match="the key that this machine has"):
        try_offline_key(platform, store, store.seal.identities[0], NOW)  # type: ignore[arg-type]
    assert read_trials(store) == Trials()  # type: ignore[arg-type]


def test_what_cannot_be_tried_is_refused(
    put_set: Callable[..., MemoryStore], platform: Platform, offline: sealing.x25519.Identity
) -> None:
    with pytest.raises(PreconditionFailed, match="no proven backup set"):
        try_offline_key(platform, MemoryStore(), offline, NOW)  # type: ignore[arg-type]
    unsealed = MemoryStore()
    unsealed.objects = documents(a_manifest(), a_proof())
    with pytest.raises(PreconditionFailed, match="not sealed"):
        try_offline_key(platform, unsealed, offline, NOW)  # type: ignore[arg-type]
    with pytest.raises(PreconditionFailed, match="for a reason"):
        skip_offline_key(platform, put_set(), " ", NOW)  # type: ignore[arg-type]
