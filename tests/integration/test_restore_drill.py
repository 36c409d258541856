"""A drill on real servers: sets are restored from the bucket and timed, and every damage done to a copy is found."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from backup_sets import back_up_and_prove
from real_servers import Server, bucket_settings, build_platform, fresh_database

from deployments.local.objectstore import RunningObjectStore
from keepwell.backup import read_back, rehearsal
from keepwell.backup.catalogue import read_entry
from keepwell.drill.checker import try_damage, try_damages
from keepwell.drill.documents import read_history
from keepwell.drill.rehearsing import (
    DrillPlan,
    begin_drill,
    check_checker,
    conclude_drill,
    rehearse,
    without_live_server,
)
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.store import Store
from keepwell.progress import silent
from keepwell.settings import DamageKind, DrillSettings, Platform, SealingSettings
from keepwell.verdict import Verdict

SOURCE = (
    "CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL, joined timestamptz DEFAULT now())",
    "INSERT INTO people SELECT n, 'somebody called ' || md5(n::text) FROM generate_series(1, 300) n",
    "CREATE TABLE notes AS SELECT 'a note of ' || md5((-n)::text) AS words FROM generate_series(1, 300) n",
)


@dataclass(frozen=True)
class Stored:
    """A platform with two proven sets."""

    platform: Platform
    store: Store
    older: str
    newest: str

    @property
    def objects(self) -> list[tuple[str, int]]:
        return [(found.key, found.size_bytes) for found in self.store.list_objects("")]


@pytest.fixture(scope="module")
def stored(
    servers: Callable[[int], Server], objectstore: RunningObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stored]:
    server = servers(17)
    with fresh_database(server) as database:
        with server.connect(database) as connection:
            for statement in SOURCE:
                connection.execute(statement)
        platform = build_platform(server, database, bucket_settings(objectstore), tmp_path_factory.mktemp("spool"))
        older, newest = back_up_and_prove(platform).backup_id, back_up_and_prove(platform).backup_id
        yield Stored(platform, open_store(platform), older, newest)


def test_a_drill_restores_measures_and_sees_the_checker_turn_red(stored: Stored) -> None:
    platform, store = stored.platform, stored.store
    plan = begin_drill(platform, kind="monthly", seed=7)
    assert plan.chosen == {"newest": stored.newest, "by lot": stored.older}
    rehearsals = tuple(rehearse(platform, store, plan, chosen, silent) for chosen in plan.chosen)
    before = stored.objects
    damages = check_checker(platform, store, plan, rehearsals[0], silent)
    assert stored.objects == before, "what is damaged is a copy"
    drill = conclude_drill(platform, store, plan, rehearsals, damages)
    told = {outcome.kind: (outcome.verdict, outcome.message) for outcome in drill.damages}
    assert list(told) == list(platform.drill.damages)
    assert {verdict for verdict, _ in told.values()} == {Verdict.OK}, told
    assert {outcome.kind: outcome.detected_at for outcome in damages if outcome.kind != "objects swapped"} == {
        "bit flipped": "readable",
        "object dropped": "uploaded",
        "stream cut": "complete",
        "row altered": "equal",
        "manifest forged": "manifest",
        "wrong key": "readable",
    }
    assert drill.verdict is Verdict.OK, drill
    for one in drill.rehearsals:
        assert one.reached == "serving"
        assert one.phases is not None
        assert one.phases.indexes is not None
        assert one.rto_seconds == pytest.approx(one.phases.total)
        assert one.bytes_per_second is not None
    recovery = drill.recovery
    assert recovery.rpo_seconds is not None
    assert 0 < recovery.rpo_seconds < 3600
    assert recovery.proven_sets == 2
    assert recovery.live_bytes is not None
    assert recovery.rto_at_live_size_seconds == pytest.approx(recovery.rto_seconds, rel=0.5)
    assert [target.verdict for target in drill.targets] == [Verdict.OK] * 4
    assert read_history(store).drills[-1] == drill
    assert read_entry(store, stored.newest).is_proven("serving")


BLINDFOLDS: dict[DamageKind, Callable[[pytest.MonkeyPatch], None]] = {
    "bit flipped": lambda patch: patch.setattr(read_back, "check_readable", _find_nothing),
    "object dropped": lambda patch: patch.setattr(read_back, "check_uploaded", _find_nothing),
    "objects swapped": lambda patch: _blind(patch, "check_readable", "check_uploaded"),
    "stream cut": lambda patch: patch.setattr(read_back, "check_streams", _find_nothing),
    "row altered": lambda patch: patch.setattr(rehearsal, "_compare_table", lambda *_: []),
    "manifest forged": lambda patch: patch.setattr("keepwell.sealing._signed_by", lambda *_: True),
    "wrong key": lambda patch: patch.setattr(read_back, "check_readable", _find_nothing),
}


def _find_nothing(*_: object, **__: object) -> list[Any]:
    return []


def _blind(patch: pytest.MonkeyPatch, *checks: str) -> None:
    for check in checks:
        patch.setattr(read_back, check, _find_nothing)


@pytest.mark.parametrize("kind", DrillSettings().damages)
def test_a_blind_checker_fails_the_drill(stored: Stored, kind: DamageKind, monkeypatch: pytest.MonkeyPatch) -> None:
    BLINDFOLDS[kind](monkeypatch)
    platform = without_live_server(stored.platform)
    outcome = try_damage(platform, stored.store, stored.newest, kind, seed=7, progress=silent)
    assert outcome.verdict is Verdict.ALERT, outcome
    assert "NOT FOUND" in outcome.message or "Found only at" in outcome.message


def test_the_same_seed_does_the_same_damage(stored: Stored) -> None:
    def what(seed: int) -> str:
        return try_damage(
            without_live_server(stored.platform), stored.store, stored.newest, "bit flipped", seed=seed, progress=silent
        ).what

    assert what(11) == what(11)
    assert len({what(seed) for seed in range(4)}) > 1


def test_a_drill_needs_no_live_server_and_says_that_it_was_not_asked(stored: Stored) -> None:
    gone = without_live_server(stored.platform)
    plan = begin_drill(gone, kind="monthly", seed=7)
    newest = rehearse(gone, stored.store, plan, "newest", silent)
    assert newest.verdict is Verdict.OK
    drill = conclude_drill(gone, stored.store, plan, (newest,), ())
    assert drill.recovery.live_bytes is None
    assert drill.verdict is Verdict.UNKNOWN
    assert "How large the live databases are is not known" in drill.findings[0].message


def test_a_damaged_set_fails_its_rehearsal_and_is_no_base_for_damage(stored: Stored) -> None:
    plan = begin_drill(stored.platform, kind="monthly", seed=7)
    key = f"backups/{stored.older}/globals.sql.age"
    content = stored.store.get_bytes(key)
    stored.store.put_bytes(key, content[:-1] + bytes([content[-1] ^ 1]))
    try:
        rehearsed = rehearse(stored.platform, stored.store, plan, "by lot", silent)
    finally:
        stored.store.put_bytes(key, content)
    assert (rehearsed.verdict, rehearsed.rto_seconds) == (Verdict.ALERT, None)
    assert "globals.sql" in rehearsed.message
    assert check_checker(stored.platform, stored.store, plan, rehearsed, silent) == ()
    back_to_good = rehearse(stored.platform, stored.store, plan, "by lot", silent)
    assert back_to_good.verdict is Verdict.OK


def test_a_set_that_vanished_meanwhile_is_told(stored: Stored) -> None:
    plan = begin_drill(stored.platform, kind="monthly", seed=7)
    gone = DrillPlan(
        plan.drill_id, plan.kind, plan.seed, type(plan.sets)("20200101T000000Z-abcdef", None), 0, plan.started_at
    )
    rehearsed = rehearse(stored.platform, stored.store, gone, "newest", silent)
    assert rehearsed.verdict is Verdict.UNKNOWN
    assert "no manifest" in rehearsed.message


def test_what_is_neither_sealed_nor_signed_says_which_damage_cannot_be_told(
    stored: Stored, server: Server, database: str, objectstore: RunningObjectStore, tmp_path_factory: Any
) -> None:
    with server.connect(database) as connection:
        connection.execute(SOURCE[0])
    platform = build_platform(server, database, bucket_settings(objectstore), tmp_path_factory.mktemp("spool"))
    kinds = ("manifest forged", "wrong key", "stream cut", "row altered")
    platform = platform.model_copy(
        update={"sealing": SealingSettings(mode="none"), "drill": DrillSettings(damages=kinds)}
    )
    proof = back_up_and_prove(platform)
    outcomes = try_damages(without_live_server(platform), open_store(platform), proof.backup_id, 1, silent)
    assert {outcome.verdict for outcome in outcomes} == {Verdict.NOT_APPLICABLE}
    assert [outcome.message for outcome in outcomes] == [
        "Manifests are not signed here (sealing.mode), so that a forged one is not to be told.",
        "The set is not sealed (sealing.mode), so that it opens without a key.",
        "No table of the set has a row.",
        "No table of the set has a row.",
    ]
