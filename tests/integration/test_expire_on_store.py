"""Expiring sets in a real object store, by the console, under the real interlock."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from backup_sets import back_up_and_prove, prove
from real_servers import make_sealing
from stored_sets import DATA, assert_whole_or_unlisted, keys_of, put_history
from typer.testing import CliRunner, Result

from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.expire import apply_plan, read_expiring, read_plan
from keepwell.cli import console
from keepwell.cli.main import app
from keepwell.errors import Busy
from keepwell.evidence import read_last_evidence
from keepwell.holding import hold_platform, hold_sets
from keepwell.interlock import Procedure
from keepwell.objectstore.store import Store, open_store
from keepwell.settings import Platform
from keepwell.verdict import Verdict


@pytest.fixture
def sets(store: Store) -> list[str]:
    """A fresh set, one to keep, and two that are due, the oldest last."""
    return put_history(store, datetime.now(UTC).replace(microsecond=0), 0.1, 1, 20, 31, 32)


@pytest.fixture
def keepwell(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The console, for this platform."""
    monkeypatch.setattr(console, "load_platform", lambda name: platform)
    return lambda *words, **options: CliRunner().invoke(app, ["backup", *words], **options)


def data_of(result: Result) -> dict[str, Any]:
    envelope = json.loads(result.stdout)
    data: dict[str, Any] = envelope["data"]
    return data


def listed(store: Store) -> list[str]:
    return [entry.backup_id for entry in read_catalogue(store)]


def at_once(platform: Platform) -> Platform:
    return platform.model_copy(update={"backup": platform.backup.model_copy(update={"interlock_wait_seconds": 0})})


def test_a_plan_is_shown_approved_and_applied(keepwell: Callable[..., Result], store: Store, sets: list[str]) -> None:
    shown = keepwell("expire", "--plan", "--json")
    plan = data_of(shown)
    assert (shown.exit_code, listed(store)) == (0, sets)
    assert [one["backup_id"] for one in plan["remove"]] == [sets[4], sets[3]]
    assert plan["remove"][0]["reasons"] == [{"rule": "expired", "words": "proven, 32 d old, and no rule keeps it"}]
    assert [one["backup_id"] for one in plan["keep"]] == sets[:3]
    assert plan["plan"] in json.loads(shown.stdout)["hint"]

    unasked = keepwell("expire")
    assert (unasked.exit_code, listed(store)) == (1, sets)
    assert f"--approve {plan['plan']}" in unasked.stderr
    other = keepwell("expire", "--approve", "0123456789ab")
    assert (other.exit_code, listed(store)) == (1, sets)
    assert "nothing was removed" in other.stderr

    applied = keepwell("expire", "--approve", plan["plan"], "--json")
    assert applied.exit_code == 0, applied.stdout
    assert [(one["backup_id"], one["result"]) for one in data_of(applied)["removals"]] == [
        (sets[4], "removed"),
        (sets[3], "removed"),
    ]
    assert listed(store) == sets[:3]
    assert [stored.key for stored in store.list_objects(layout.EXPIRING)] == []
    assert (keys_of(store, sets[3]), keys_of(store, sets[4])) == ([], [])
    evidence = read_last_evidence(store, "BK-2")
    assert evidence is not None
    assert (evidence.verdict, evidence.numbers["sets_removed"]) == (Verdict.OK, 2)

    again = keepwell("expire")
    assert again.exit_code == 0
    assert "0 sets go" in again.stdout


@pytest.mark.parametrize(("answer", "left"), [("n\n", 5), ("y\n", 3)])
def test_on_a_terminal_it_asks(
    answer: str,
    left: int,
    *,
    keepwell: Callable[..., Result],
    store: Store,
    sets: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(console, "is_interactive", lambda: True)
    result = keepwell("expire", input=answer)
    assert result.exit_code == 0, result.stderr
    assert "Remove 2 of 5 sets?" in result.stderr
    assert sets[4] in result.stderr
    assert len(listed(store)) == left


def test_without_a_fresh_proven_set_it_is_red_and_asks_nothing(
    keepwell: Callable[..., Result], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "is_interactive", lambda: True)
    sets = put_history(store, datetime.now(UTC).replace(microsecond=0), 31, 32, 33, 34)
    for words in (("expire",), ("expire", "--plan"), ("expire", "--approve", "4f53cda18c2b")):
        result = keepwell(*words)
        assert result.exit_code == 1
        assert "Remove" not in result.stderr
    assert "nothing goes without a fresh proven set" in keepwell("expire").stdout
    assert listed(store) == sets


def test_a_pin_is_shown_and_keeps_its_set(keepwell: Callable[..., Result], store: Store, sets: list[str]) -> None:
    old = sets[3]
    pinned = keepwell("pin", old, "--reason", "before the [migration]", "--json")
    assert (pinned.exit_code, data_of(pinned)["reason"]) == (0, "before the [migration]")
    said = f"{old} is pinned since {datetime.now(UTC):%Y-%m-%d %H:}"
    assert said in keepwell("list").stdout
    assert data_of(keepwell("list", "--json"))["backups"][3]["pin"].endswith("before the [migration]")
    assert "It is pinned since" in keepwell("show", old).stdout
    assert [one["backup_id"] for one in data_of(keepwell("expire", "--plan", "--json"))["remove"]] == [sets[4]]
    assert keepwell("unpin", old).exit_code == 0
    assert keepwell("unpin", old).exit_code == 1
    assert data_of(keepwell("list", "--json"))["backups"][3]["pin"] is None
    assert len(data_of(keepwell("expire", "--plan", "--json"))["remove"]) == 2


def test_a_real_set_is_as_good_after_others_beside_it_went(
    platform: Platform, store: Store, server: Any, keepwell: Callable[..., Result]
) -> None:
    with server.connect(platform.database.name) as connection:
        connection.execute("CREATE TABLE people AS SELECT n AS id, md5(n::text) FROM generate_series(1, 500) n")
    proof = back_up_and_prove(platform)
    old = put_history(store, datetime.now(UTC).replace(microsecond=0), 31, 32, 33, 34)
    plan = data_of(keepwell("expire", "--plan", "--json"))["plan"]
    assert keepwell("expire", "--approve", plan).exit_code == 0
    assert listed(store) == [proof.backup_id, old[0], old[1]]
    assert prove(platform, proof.backup_id).reached == "serving"


def test_sets_signed_by_a_key_that_was_rotated_away_stay(
    platform: Platform, store: Store, keepwell: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    old = put_history(store, now, 40, 41, 800)
    rotated = platform.model_copy(update={"sealing": make_sealing()})
    put_history(open_store(rotated), now, 0.1, 50)
    monkeypatch.setattr(console, "load_platform", lambda name: rotated)
    plan = data_of(keepwell("expire", "--plan", "--json"))
    assert {one["backup_id"] for one in plan["keep"] if one["state"] == "not readable"} == set(old)
    assert keepwell("expire", "--approve", plan["plan"]).exit_code == 0
    assert set(old) < set(listed(store))


# Refusals, as a store answers them on the wire.


@dataclass(frozen=True)
class _Http:
    status_code: int


@pytest.fixture
def refusing(platform: Platform, store: Store) -> Callable[[str], Store]:
    """A store that refuses to delete whatever ends so, object by object, and deletes the rest of each call."""

    def refuse(ending: str) -> Store:
        def answer(params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]] | None:
            keys = re.findall(r"<Key>(.*?)</Key>", params["body"].decode())
            refused = [key for key in keys if key.endswith(ending)]
            if not refused:
                return None
            store.delete(key.removeprefix(store.key("")) for key in keys if key not in refused)
            errors = [{"Key": key, "Code": "AccessDenied", "Message": "The object is locked."} for key in refused]
            return _Http(200), {"Errors": errors, "ResponseMetadata": {"HTTPStatusCode": 200}}

        def answer_one(params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]] | None:
            if not params["url_path"].endswith(ending):
                return None
            return _Http(403), {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}

        opened = open_store(platform)
        opened.client.meta.events.register("before-call.s3.DeleteObjects", answer)
        opened.client.meta.events.register("before-call.s3.DeleteObject", answer_one)
        return opened

    return refuse


def expire(platform: Platform, store: Store) -> tuple[Verdict, dict[str, str]]:
    now = datetime.now(UTC)
    expiry = apply_plan(platform, store, read_plan(platform, store, now).digest, now)
    return expiry.verdict, {removal.backup_id: removal.result.value for removal in expiry.removals}


def test_a_set_whose_manifest_is_locked_stays_whole_and_listed(
    platform: Platform, store: Store, sets: list[str], refusing: Callable[[str], Store]
) -> None:
    whole = keys_of(store, sets[4])
    outcome = expire(platform, refusing(layout.manifest_key(sets[4])))
    assert outcome == (Verdict.ALERT, {sets[4]: "refused", sets[3]: "removed"})
    assert keys_of(store, sets[4]) == whole
    assert listed(store) == [*sets[:3], sets[4]]
    assert_whole_or_unlisted(store)
    assert expire(platform, store) == (Verdict.OK, {sets[4]: "removed"})


def test_a_row_is_shown_until_the_store_gives_up_the_last_object(
    platform: Platform,
    store: Store,
    sets: list[str],
    refusing: Callable[[str], Store],
    keepwell: Callable[..., Result],
) -> None:
    outcome = expire(platform, refusing(f"{sets[4]}/{DATA[0]}"))
    assert outcome == (Verdict.ALERT, {sets[4]: "refused", sets[3]: "removed"})
    assert keys_of(store, sets[4]) == [layout.set_folder(sets[4]) + DATA[0]]
    assert read_expiring(store) == {sets[4]: 1}
    assert f"{sets[4]} is being removed: 1 objects are still there" in keepwell("list").stdout
    assert data_of(keepwell("list", "--json"))["expiring"] == {sets[4]: 1}
    assert expire(platform, store) == (Verdict.OK, {sets[4]: "removed"})
    assert read_expiring(store) == {}


@pytest.mark.parametrize(
    ("status", "answer", "keeps"),
    [
        (200, {"Status": "Enabled"}, True),
        (200, {"Status": "Suspended"}, False),
        (200, {}, False),
        (403, {"Error": {"Code": "AccessDenied"}}, None),
        (501, {"Error": {"Code": "NotImplemented"}}, None),
    ],
)
def test_whether_the_bucket_keeps_versions_is_asked_and_may_stay_unknown(
    status: int, answer: dict[str, Any], keeps: bool | None, store: Store
) -> None:
    assert store.keeps_versions() in (False, None)  # the store of these tests keeps none
    said = (_Http(status), answer | {"ResponseMetadata": {"HTTPStatusCode": status}})
    store.client.meta.events.register("before-call.s3.GetBucketVersioning", lambda **_: said)
    assert store.keeps_versions() is keeps


# The interlock: nothing is written, restored, verified or pinned meanwhile.


@contextmanager
def held_elsewhere(platform: Platform, procedure: Procedure) -> Iterator[None]:
    """Somebody else at work."""
    store = open_store(platform)
    with hold_sets(platform, store) if procedure is Procedure.VERIFY else hold_platform(platform, store, procedure):
        yield


@pytest.mark.parametrize("procedure", list(Procedure))
def test_nothing_expires_while_others_are_at_work(
    procedure: Procedure, platform: Platform, store: Store, sets: list[str], keepwell: Callable[..., Result]
) -> None:
    plan = data_of(keepwell("expire", "--plan", "--json"))["plan"]
    hurried = at_once(platform)
    with (
        held_elsewhere(platform, procedure),
        pytest.raises(Busy, match=f"An expiry cannot start: {procedure.named}"),
        hold_platform(hurried, store, Procedure.EXPIRE),
    ):
        pytest.fail("both hold the platform")
    assert keepwell("expire", "--approve", plan).exit_code == 0
    assert listed(store) == sets[:3]


def test_nothing_is_verified_or_pinned_while_sets_expire(
    platform: Platform, store: Store, sets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hurried = at_once(platform)
    monkeypatch.setattr(console, "load_platform", lambda name: hurried)
    with hold_platform(platform, store, Procedure.EXPIRE):
        for words in (["verify", sets[0]], ["pin", sets[4]]):
            result = CliRunner().invoke(app, ["backup", *words])
            assert result.exit_code == 1
            assert "A verification cannot start: an expiry holds the store's lease" in result.stderr
    assert CliRunner().invoke(app, ["backup", "pin", sets[4]]).exit_code == 0


def test_sets_can_be_read_side_by_side_and_during_a_backup(platform: Platform, store: Store) -> None:
    hurried = at_once(platform)
    with hold_platform(platform, store, Procedure.BACKUP), hold_sets(hurried, store), hold_sets(hurried, store):
        pass
    with hold_sets(platform, store), hold_platform(hurried, store, Procedure.RESTORE):
        pass


def test_of_an_expiry_and_a_reader_that_come_at_once_the_expiry_gives_way(
    platform: Platform, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader's lease is written between the expiry's look at the leases and its own lease."""
    from keepwell import holding

    monkeypatch.setattr(holding, "_POLL_SECONDS", 0.05)
    order: list[str] = []
    reading, done = threading.Event(), threading.Event()

    def read() -> None:
        with hold_sets(platform, open_store(platform)):
            reading.set()
            done.wait(20)
            order.append("read")

    reader = threading.Thread(target=read)
    keep_lease = holding.keep_lease

    def late_lease(store: Store, procedure: str, *rest: str) -> Any:
        if procedure == Procedure.EXPIRE and not reading.is_set():
            reader.start()
            assert reading.wait(20)
        elif procedure == Procedure.EXPIRE:
            order.append("the expiry tried again")
        return keep_lease(store, procedure, *rest)

    monkeypatch.setattr(holding, "keep_lease", late_lease)
    threading.Timer(1.0, done.set).start()
    with hold_platform(platform, store, Procedure.EXPIRE):
        order.append("expire")
    reader.join()
    assert order[0] == "read"
    assert order[-1] == "expire"
