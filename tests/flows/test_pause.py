"""Pausing and resuming on a real server: what is switched, what stays, and what the hourly check makes of it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL
from typer.testing import CliRunner

from deployments.deployment_file import read_deployment_file
from deployments.register import register
from flows.resume_platform import resume_platform
from keepwell import pausing
from keepwell.backup.freshness import ScheduleFacts
from keepwell.cli.main import app
from keepwell.errors import KeepwellError, VerificationFailed
from keepwell.orchestrator import Orchestrator
from tasks import platforms, schedule_steps

PLATFORM = 'name = "{}"\n[database]\nname = "d"\nuser = "u"\n[bucket]\nname = "b"\n'
# Everything that a platform has, but for what must go on in a pause, and what only a person starts.
OFF = {spec.name for spec in read_deployment_file().deployments if spec.per_platform} - {
    "check-backups",
    "recover-from-disaster",
    "remind-of-incidents",
    "restore-backup",
    "resume-platform",
}
SWITCHED = (*(f"{name}/shop" for name in OFF), pausing.expiry_name("shop"))


@pytest.fixture
def orchestrator() -> Iterator[Orchestrator]:
    with Orchestrator(str(PREFECT_API_URL.value()), None) as client:
        yield client


@pytest.fixture
def prefect() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as connected:
        yield connected


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("blog", "shop"):
        (tmp_path / f"{name}.toml").write_text(PLATFORM.format(name))
    monkeypatch.setenv("KEEPWELL_CONFIG", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
    register()
    yield tmp_path
    with get_client(sync_client=True) as client:
        for name in ("blog", "shop"):
            if client.read_variable_by_name(pausing.variable_name(name)):
                client.delete_variable_by_name(pausing.variable_name(name))
            for automation in client.read_automations_by_name(pausing.expiry_name(name)):
                client.delete_automation(automation.id)
        for one in client.read_deployments():
            if f"platform:{one.name}" in one.tags and one.name in ("blog", "shop"):
                client.delete_deployment(one.id)


def paused(prefect: SyncPrefectClient, platform: str = "shop") -> set[str]:
    return {
        prefect.read_flow(one.flow_id).name for one in prefect.read_deployments() if one.name == platform and one.paused
    }


def expiry_is_on(prefect: SyncPrefectClient, platform: str = "shop") -> bool:
    (one,) = prefect.read_automations_by_name(pausing.expiry_name(platform))
    return one.enabled


def planned_ends(prefect: SyncPrefectClient, platform: str = "shop") -> list[datetime]:
    runs = prefect.read_flow_runs()
    return [
        run.state.state_details.scheduled_time
        for run in runs
        if run.state is not None
        and run.state.is_scheduled()
        and run.state.state_details.scheduled_time is not None
        and prefect.read_flow(run.flow_id).name == "resume-platform"
        and run.parameters == {"platform": platform}
    ]


def test_everything_that_starts_by_itself_is_off_and_comes_back(
    orchestrator: Orchestrator, prefect: SyncPrefectClient
) -> None:
    now = datetime.now(UTC)
    until = now + timedelta(hours=3)
    done = pausing.pause(orchestrator, "shop", until=until, now=now)
    assert done.switched == tuple(sorted(SWITCHED))
    assert paused(prefect) == OFF
    assert not expiry_is_on(prefect)
    assert planned_ends(prefect) == [until]
    assert paused(prefect, "blog") == set()
    assert expiry_is_on(prefect, "blog")

    # Prolonged: since when stays, and one end alone is planned.
    longer = pausing.pause(orchestrator, "shop", until=until + timedelta(hours=1), now=now + timedelta(hours=1))
    assert (longer.since, longer.switched) == (now, done.switched)
    assert planned_ends(prefect) == [until + timedelta(hours=1)]

    ended = pausing.resume(orchestrator, "shop", now=now + timedelta(hours=2))
    assert ended.switched == done.switched
    assert paused(prefect) == set()
    assert expiry_is_on(prefect)
    assert planned_ends(prefect) == []
    record = pausing.read_pause(orchestrator, "shop")
    assert not record.is_on
    assert record.covers(now + timedelta(hours=1))
    again = pausing.resume(orchestrator, "shop", now=now)
    assert (again.since, again.switched) == (None, ())


def test_what_was_off_before_stays_off(orchestrator: Orchestrator, prefect: SyncPrefectClient) -> None:
    prefect.pause_deployment(prefect.read_deployment_by_name("verify-backups/shop").id)
    now = datetime.now(UTC)
    done = pausing.pause(orchestrator, "shop", until=None, now=now)
    assert done.still_off == ("verify-backups/shop",)
    pausing.pause(orchestrator, "shop", until=None, now=now)
    pausing.resume(orchestrator, "shop", now=now)
    assert paused(prefect) == {"verify-backups"}


def test_a_pause_that_was_cut_short_is_ended_like_any_other(
    orchestrator: Orchestrator, prefect: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise ConnectionResetError

    with monkeypatch.context() as killed:
        killed.setattr(Orchestrator, "switch_automation", die)
        with pytest.raises(ConnectionResetError):
            pausing.pause(orchestrator, "shop", until=None, now=datetime.now(UTC))
    assert paused(prefect)
    pausing.resume(orchestrator, "shop", now=datetime.now(UTC))
    assert paused(prefect) == set()
    assert expiry_is_on(prefect)


def test_what_is_still_on_after_all_is_not_called_paused(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Orchestrator, "switch_automation", lambda *_, **__: None)
    with pytest.raises(VerificationFailed, match="not paused whole: keepwell: expire old sets of shop"):
        pausing.pause(orchestrator, "shop", until=None, now=datetime.now(UTC))
    with pytest.raises(KeepwellError, match="Nothing is registered for nowhere"):
        pausing.pause(orchestrator, "nowhere", until=None, now=datetime.now(UTC))


def test_a_run_that_has_begun_is_told(orchestrator: Orchestrator, prefect: SyncPrefectClient) -> None:
    from prefect.states import Running

    run = prefect.create_flow_run_from_deployment(prefect.read_deployment_by_name("backup-and-verify/shop").id)
    prefect.set_flow_run_state(run.id, Running(), force=True)
    done = pausing.pause(orchestrator, "shop", until=None, now=datetime.now(UTC))
    assert [told.rpartition(", ")[2] for told in done.at_work] == ["running"]
    prefect.delete_flow_run(run.id)


def test_it_ends_at_its_time_by_a_run_and_not_before(
    orchestrator: Orchestrator, prefect: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    pausing.pause(orchestrator, "shop", until=now + timedelta(hours=1), now=now)
    resume_platform("shop")
    assert paused(prefect)
    # As if the hour had passed.
    pausing.pause(orchestrator, "shop", until=now - timedelta(seconds=1), now=now)
    resume_platform("shop")
    assert paused(prefect) == set()


def test_the_check_knows_of_it_and_owes_no_night_to_it(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platforms, "load_platform", lambda name: None)
    monkeypatch.setattr(platforms.redaction, "hide", lambda platform: None)
    read = schedule_steps.read_schedule.fn
    now = datetime.now(UTC)
    pausing.pause(orchestrator, "shop", until=now + timedelta(hours=1), now=now)
    facts = read("shop")
    assert isinstance(facts, ScheduleFacts)
    assert facts.paused is not None
    assert (facts.active, facts.paused.until) == (False, now + timedelta(hours=1))
    pausing.resume(orchestrator, "shop", now=datetime.now(UTC))
    facts = read("shop")
    assert isinstance(facts, ScheduleFacts)
    assert (facts.active, facts.paused) == (True, None)


def test_a_pause_that_was_ended_in_prefect_s_own_pages_hides_no_missed_night(
    orchestrator: Orchestrator, prefect: SyncPrefectClient
) -> None:
    now = datetime.now(UTC)
    pausing.pause(orchestrator, "shop", until=None, now=now)
    prefect.resume_deployment(prefect.read_deployment_by_name("backup-and-verify/shop").id)
    later = now + timedelta(days=3)
    assert len(schedule_steps._read(prefect, "shop", later).expected) >= 2
    # Nor does a new pause or its end say afterwards that it held all the time.
    assert pausing.pause(orchestrator, "shop", until=None, now=later).since == later
    prefect.resume_deployment(prefect.read_deployment_by_name("backup-and-verify/shop").id)
    pausing.resume(orchestrator, "shop", now=later)
    assert len(schedule_steps._read(prefect, "shop", later).expected) >= 2


def test_a_pause_that_was_refused_hides_no_missed_night(orchestrator: Orchestrator, prefect: SyncPrefectClient) -> None:
    now = datetime.now(UTC)
    prefect.delete_deployment(prefect.read_deployment_by_name("resume-platform/shop").id)
    with pytest.raises(KeepwellError, match="could end the pause of shop"):
        pausing.pause(orchestrator, "shop", until=now + timedelta(hours=3), now=now)
    assert paused(prefect) == set()
    assert not pausing.read_pause(orchestrator, "shop").is_on
    assert len(schedule_steps._read(prefect, "shop", now + timedelta(days=3)).expected) >= 2


def test_an_end_that_was_cut_short_still_owes_no_night_of_the_pause(
    orchestrator: Orchestrator, prefect: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise ConnectionResetError

    now = datetime.now(UTC)
    pausing.pause(orchestrator, "shop", until=None, now=now)
    with monkeypatch.context() as killed:
        killed.setattr(Orchestrator, "switch_automation", die)
        with pytest.raises(ConnectionResetError):
            pausing.resume(orchestrator, "shop", now=now + timedelta(days=3))
    assert paused(prefect) == set()
    pausing.resume(orchestrator, "shop", now=now + timedelta(days=4))
    record = pausing.read_pause(orchestrator, "shop")
    assert not record.is_on
    assert [record.covers(now + timedelta(days=days)) for days in (2, 3.5)] == [True, False]


def test_a_registration_takes_no_pause_over_that_does_not_hold(
    orchestrator: Orchestrator, prefect: SyncPrefectClient
) -> None:
    pausing.pause(orchestrator, "shop", until=None, now=datetime.now(UTC))
    prefect.resume_deployment(prefect.read_deployment_by_name("backup-and-verify/shop").id)
    prefect.delete_deployment(prefect.read_deployment_by_name("verify-backups/shop").id)
    register()
    assert paused(prefect) == OFF - {"backup-and-verify", "verify-backups"}


def test_a_registration_ends_no_pause(orchestrator: Orchestrator, prefect: SyncPrefectClient) -> None:
    pausing.pause(orchestrator, "shop", until=None, now=datetime.now(UTC))
    prefect.delete_deployment(prefect.read_deployment_by_name("verify-backups/shop").id)
    register()
    assert paused(prefect) == OFF
    assert not expiry_is_on(prefect)
    pausing.resume(orchestrator, "shop", now=datetime.now(UTC))
    assert paused(prefect) == set()


def test_the_console_pauses_and_resumes_all(prefect: SyncPrefectClient) -> None:
    result = CliRunner().invoke(app, ["pause", "--until", "2d", "--json"])
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert [one["platform"] for one in document["data"]["platforms"]] == ["blog", "shop"]
    assert document["hint"] == "Undo it: keepwell resume"
    assert paused(prefect)
    assert paused(prefect, "blog")
    result = CliRunner().invoke(app, ["resume", "--platform", "shop"])
    assert result.exit_code == 0, result.stderr
    assert "shop is resumed; it was paused since" in result.stdout
    assert (bool(paused(prefect)), bool(paused(prefect, "blog"))) == (False, True)
    assert CliRunner().invoke(app, ["pause", "--until", "yesterday"]).exit_code == 1
