"""What goes wrong with a restore: it is told, the live database is as it was, and everybody is let in again."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from backup_sets import copy_set, part_of, replace_content
from psycopg import sql
from pydantic import SecretStr
from real_servers import Server, bucket_settings, build_platform, fresh_database
from restored_platforms import MISFORTUNE, Stricken, approve, backed_up, drop_all

from deployments.local.objectstore import RunningObjectStore
from keepwell.approval import Decision
from keepwell.errors import (
    Busy,
    KeepwellError,
    LockTimeout,
    PreconditionFailed,
    ServiceUnavailable,
    VerificationFailed,
)
from keepwell.evidence import read_last_evidence
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.bucket import open_store
from keepwell.postgres.databases import read_databases
from keepwell.progress import Step, silent
from keepwell.restore.apply import ITEM, apply_restore, is_approved, plan_case
from keepwell.restore.journal import StepName, read_case_ids, read_journal
from keepwell.restore.plan import Mode
from keepwell.restore.standing import Standing
from keepwell.restore.status import read_status
from keepwell.settings import OrchestratorSettings, RestoreSettings
from keepwell.verdict import Verdict


@pytest.fixture(scope="module")
def server(servers: Callable[[int], Server]) -> Server:
    return servers(17)


@pytest.fixture(scope="module")
def shared(
    server: Server, objectstore: RunningObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stricken]:
    """One platform for all of them, since none of them comes to a swap."""
    with fresh_database(server) as name:
        built = build_platform(server, name, bucket_settings(objectstore), tmp_path_factory.mktemp("spool"))
        platform = built.model_copy(update={"restore": RestoreSettings(fence_seconds=1)})
        made = Stricken(server, platform, open_store(platform), backed_up(server, platform))
        made.execute(MISFORTUNE, name)
        yield made
        drop_all(made)


@pytest.fixture
def stricken(shared: Stricken) -> Iterator[Stricken]:
    """The platform, whose live database must be as it was when the test is over; copies beside it are dropped."""
    yield shared
    assert shared.names()[shared.live], "nobody is let into the live database"
    assert shared.ids() == (60, 1)
    with shared.server.connect() as connection:
        for name in set(shared.names()) - {shared.live}:
            connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


def test_an_approval_that_does_not_count_changes_nothing(stricken: Stricken) -> None:
    planned = stricken.plan()
    good = approve(planned.subject)
    before = (stricken.names(), read_case_ids(stricken.store))
    with hold_platform(stricken.platform, stricken.store, Procedure.SWAP):
        for approval, says in (
            (None, "needs an approval"),
            (approve(planned.subject, digest="0" * 12), "given for plan 000000000000"),
            (approve(planned.subject, typed="another"), "the word that was typed"),
            (good.model_copy(update={"decision": Decision.REFUSED}), "refused by Ada"),
        ):
            with pytest.raises(KeepwellError, match=says):
                apply_restore(stricken.platform, stricken.store, planned, approval, silent)
        other = replace(planned, name="elsewhere")
        with pytest.raises(PreconditionFailed, match="void"):
            apply_restore(stricken.platform, stricken.store, other, good, silent)
    assert (stricken.names(), read_case_ids(stricken.store)) == before


def test_two_at_once_wait_for_one_another_and_the_second_says_who_is_at_work(stricken: Stricken) -> None:
    impatient = stricken.platform.backup.model_copy(update={"interlock_wait_seconds": 0})
    platform = stricken.platform.model_copy(update={"backup": impatient})
    for held in (Procedure.SWAP, Procedure.RESTORE, Procedure.BACKUP):
        with (
            hold_platform(stricken.platform, stricken.store, held),
            pytest.raises(Busy, match=f"A swap cannot start: {held.named} is at work"),
        ):
            stricken.apply(stricken.plan(), platform=platform)


def test_a_damaged_set_is_found_before_anything_is_swapped(stricken: Stricken) -> None:
    copied = copy_set(stricken.store, stricken.backup_id)
    people = part_of(copied, "public.people")
    replace_content(
        stricken.store, copied, people, lambda content: content.replace(b"person 7\n", b"person 8\n"), rebuild=True
    )
    planned = stricken.plan(which=copied.backup_id, allow_unproven=True)
    with pytest.raises(VerificationFailed, match="people"):
        stricken.apply(planned)
    assert stricken.names() == {stricken.live: True}
    case = read_status(stricken.platform, stricken.store).cases[0]
    assert case.state is not None
    assert case.state.standing is Standing.FAILED
    evidence = read_last_evidence(stricken.store, ITEM)
    assert evidence is not None
    assert evidence.verdict is Verdict.ALERT
    assert any("explicit demand" in finding.message for finding in evidence.findings)


def test_a_connection_that_is_lost_while_it_restores_fails_it_and_its_case_goes_on(stricken: Stricken) -> None:
    planned = stricken.plan(Mode.BESIDE)

    def cut(step: Step) -> None:
        if step.stage == "comparing":
            with stricken.server.connect() as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keepwell restore'"
                )

    with pytest.raises(KeepwellError):
        stricken.apply(planned, progress=cut)
    assert stricken.names() == {stricken.live: True}
    case_id = read_case_ids(stricken.store)[0]
    again = plan_case(stricken.platform, stricken.store, case_id, datetime.now(UTC))
    outcome = stricken.apply(again, case_id=case_id)
    assert (outcome.case_id, stricken.ids(outcome.database)) == (case_id, (100, 0))


def test_a_case_goes_on_with_its_own_plan_only(stricken: Stricken) -> None:
    outcome = stricken.apply(stricken.plan(Mode.BESIDE))
    with pytest.raises(PreconditionFailed, match="of another plan"):
        stricken.apply(replace(outcome.plan, name="elsewhere"), case_id=outcome.case_id)
    with pytest.raises(PreconditionFailed, match="exists already"):
        stricken.apply(outcome.plan)


def test_a_session_that_does_not_end_stops_the_swap_and_everybody_is_let_in_again(stricken: Stricken) -> None:
    planned = stricken.plan()
    with stricken.server.connect(stricken.live) as stuck:
        pid = stuck.info.backend_pid
        os.kill(pid, signal.SIGSTOP)  # the server asks it to end, and it cannot
        try:
            with pytest.raises(LockTimeout, match=f"did not end within 1 s; one is process {pid}"):
                stricken.apply(planned)
        finally:
            os.kill(pid, signal.SIGCONT)
    assert stricken.names() == {stricken.live: True, planned.name: True}
    case = read_status(stricken.platform, stricken.store).cases[0]
    assert case.state is not None
    assert case.state.standing is Standing.BESIDE
    assert f"restore apply --case {case.case.case_id}" in case.state.advice


def test_a_transaction_that_is_prepared_meanwhile_stops_the_swap(stricken: Stricken) -> None:
    planned = stricken.plan()

    def prepare(step: Step) -> None:
        if step.stage == "restoring":
            with stricken.server.connect(stricken.live) as connection:
                connection.execute("BEGIN; INSERT INTO people VALUES (3000, 'in between'); PREPARE TRANSACTION 'mid'")

    try:
        with pytest.raises(PreconditionFailed, match=r"prepared transactions \(mid\) meanwhile"):
            stricken.apply(planned, progress=prepare)
        assert stricken.names() == {stricken.live: True, planned.name: True}
        assert "prepared transactions" in [
            finding.name for finding in stricken.plan().findings if finding.verdict is Verdict.ALERT
        ]
    finally:
        with stricken.server.connect(stricken.live) as connection:
            connection.execute("ROLLBACK PREPARED 'mid'")


def test_a_slot_that_is_made_meanwhile_stops_the_swap(stricken: Stricken) -> None:
    planned = stricken.plan()

    def make_slot(step: Step) -> None:
        if step.stage == "restoring":
            with stricken.server.connect(stricken.live) as connection:
                connection.execute("SELECT pg_create_logical_replication_slot('in_between', 'test_decoding')")

    try:
        with pytest.raises(PreconditionFailed, match=r"replication slots \(in_between\) meanwhile"):
            stricken.apply(planned, progress=make_slot)
        assert stricken.names() == {stricken.live: True, planned.name: True}
    finally:
        stricken.execute("SELECT pg_drop_replication_slot('in_between')")


def test_an_approval_that_is_old_is_not_reused_and_a_new_one_is_in_the_journal(stricken: Stricken) -> None:
    def stop(step: Step) -> None:
        if step.stage.startswith("shutting"):
            raise KeepwellError("Stopped by the test.")

    planned = stricken.plan()
    with pytest.raises(KeepwellError, match="Stopped"):
        stricken.apply(planned, progress=stop)
    platform, store = stricken.platform, stricken.store
    case_id = read_case_ids(store)[0]
    now = datetime.now(UTC)
    again = plan_case(platform, store, case_id, now)
    assert is_approved(platform, store, again, case_id, now)
    weeks_later = now + timedelta(weeks=3)
    assert not is_approved(platform, store, again, case_id, weeks_later)
    impatient = platform.model_copy(update={"orchestrator": OrchestratorSettings(approval_hours=1e-9)})
    with hold_platform(platform, store, Procedure.SWAP) as hold:
        with pytest.raises(PreconditionFailed, match="needs an approval"):
            apply_restore(impatient, store, again, None, silent, case_id=case_id)
        new = approve(again.subject)
        with pytest.raises(KeepwellError, match="Stopped"):
            apply_restore(impatient, store, again, new, stop, case_id=case_id, hold=hold)
    assert read_journal(store, case_id).approval == new


def test_a_place_that_was_lost_is_noticed_before_anybody_is_shut_out(stricken: Stricken) -> None:
    planned = stricken.plan()

    def lose(step: Step) -> None:
        if step.stage == "restoring":
            stricken.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'keepwell interlock%'"
            )

    with (
        pytest.raises(ServiceUnavailable),
        hold_platform(stricken.platform, stricken.store, Procedure.SWAP) as hold,
    ):
        apply_restore(stricken.platform, stricken.store, planned, approve(planned.subject), lose, hold=hold)
    assert stricken.names() == {stricken.live: True, planned.name: True}
    journal = read_journal(stricken.store, read_case_ids(stricken.store)[0])
    assert StepName.FENCING not in [one.step for one in journal.steps]


def test_a_wrong_answer_to_a_smoke_query_stops_the_swap(stricken: Stricken) -> None:
    query = stricken.platform.backup.smoke_queries[0].model_copy(
        update={"name": "the last order", "sql": "SELECT max(id) FROM people", "at_least": 1000.0}
    )
    backup = stricken.platform.backup.model_copy(update={"smoke_queries": (query,)})
    platform = stricken.platform.model_copy(update={"backup": backup})
    planned = stricken.plan()
    with pytest.raises(VerificationFailed, match="answered 100, less than 1000"):
        stricken.apply(planned, platform=platform)
    assert stricken.names() == {stricken.live: True, planned.name: True}


def test_with_the_bucket_silent_status_goes_by_the_databases_names(stricken: Stricken) -> None:
    live = stricken.live
    silent_bucket = stricken.platform.bucket.model_copy(update={"endpoint_url": "http://127.0.0.1:9"})
    platform = stricken.platform.model_copy(update={"bucket": silent_bucket})
    stricken.execute("ALTER DATABASE {} ALLOW_CONNECTIONS false")
    try:
        found = {finding.name: finding for finding in read_status(platform, open_store(platform)).findings}
    finally:
        with stricken.server.connect() as connection:
            statement = found["live database"].hint.partition(": ")[2]
            connection.execute(statement.encode())
    assert found["journals"].verdict is Verdict.UNKNOWN
    assert found["live database"].verdict is Verdict.ALERT
    with stricken.server.connect() as connection:
        assert [one.open for one in read_databases(connection) if one.name == live] == [True]


def test_with_the_server_silent_status_says_what_it_cannot_tell(stricken: Stricken) -> None:
    nowhere = stricken.platform.database.model_copy(update={"port": 9, "password": SecretStr("x")})
    platform = stricken.platform.model_copy(update={"database": nowhere})
    found = read_status(platform, stricken.store)
    assert found.verdict is Verdict.UNKNOWN
    assert all(one.state is None for one in found.cases)


def test_with_the_server_down_a_recovery_goes_on_by_the_lease_alone_and_says_so(stricken: Stricken) -> None:
    database = stricken.platform.database.model_copy(update={"port": 9})
    backup = stricken.platform.backup.model_copy(update={"interlock_wait_seconds": 0})
    platform = stricken.platform.model_copy(update={"database": database, "backup": backup})
    told: list[KeepwellError] = []
    with pytest.raises(ServiceUnavailable), hold_platform(platform, stricken.store, Procedure.SWAP):
        pass
    with hold_platform(platform, stricken.store, Procedure.SWAP, on_lease_alone=told.append) as hold:
        assert hold.lease_alone
        assert len(told) == 1
        # It binds whoever comes by the server's own locks as well, once that is up again.
        others = stricken.platform.model_copy(update={"backup": backup})
        for other in (platform, others):
            with (
                pytest.raises(Busy, match="a swap holds the store's lease"),
                hold_platform(other, stricken.store, Procedure.RESTORE, on_lease_alone=told.append),
            ):
                pass
    with hold_platform(platform, stricken.store, Procedure.RESTORE, on_lease_alone=told.append):
        pass
