"""Registrations on a real server: a platform comes and goes, its schedules move, an earlier release is taken over."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import AwaitingConcurrencySlot, Completed

from deployments.deployment_file import POOL, read_deployment_file
from deployments.register import main, plan, register
from flows.backup_and_verify import backup_and_verify
from keepwell.errors import ConfigurationError, PreconditionFailed

PLATFORM = 'name = "{}"\n[database]\nname = "d"\nuser = "u"\n[bucket]\nname = "b"\n'


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as connected:
        yield connected


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two platforms, without any secret: a registration needs none."""
    for name in ("blog", "shop"):
        (tmp_path / f"{name}.toml").write_text(PLATFORM.format(name))
    monkeypatch.setenv("KEEPWELL_CONFIG", str(tmp_path))
    return tmp_path


def names(client: SyncPrefectClient) -> set[str]:
    return {
        f"{client.read_flow(one.flow_id).name}/{one.name}"
        for one in client.read_deployments()
        if "keepwell" in one.tags
    }


def queues(client: SyncPrefectClient) -> dict[str, int | None]:
    return {one.name: one.concurrency_limit for one in client.read_work_queues(work_pool_name=POOL)}


def crons(client: SyncPrefectClient, name: str) -> dict[str, tuple[str, str]]:
    found = client.read_deployment_by_name(name).schedules
    return {str(one.slug): (one.schedule.cron, str(one.schedule.timezone)) for one in found}  # type: ignore[union-attr]


def make_first_release(client: SyncPrefectClient) -> tuple[UUID, UUID, UUID]:
    """As it was then: one deployment for all, a night that is switched off, a run that ended and one that waits."""
    deployment = client.create_deployment(
        client.create_flow(backup_and_verify),
        "backup-and-verify",
        tags=["keepwell", "watched"],
        parameters={"platform": "shop"},
        schedules=[
            DeploymentScheduleCreate(
                schedule=CronSchedule(cron="0 2 * * *", timezone="UTC"), slug="nightly-shop", active=False
            )
        ],
        work_pool_name=POOL,
        work_queue_name="procedures",
    )
    ended = client.create_flow_run_from_deployment(deployment)
    client.set_flow_run_state(ended.id, Completed(), force=True)
    waiting = client.create_flow_run_from_deployment(deployment)
    client.set_flow_run_state(waiting.id, AwaitingConcurrencySlot(), force=True)
    return deployment, ended.id, waiting.id


def test_a_platform_comes_and_goes(folder: Path, client: SyncPrefectClient) -> None:
    assert register().platforms == ("blog", "shop")
    assert {"backup-and-verify/blog", "backup-and-verify/shop", "report-failure/report-failure"} <= names(client)
    assert queues(client) | {"watch": 4, "platform-blog": 2, "platform-shop": 2} == queues(client)

    (folder / "blog.toml").unlink()
    planned = plan()
    assert planned.made == ()
    assert "backup-and-verify/blog" in planned.gone.names
    assert "backup-and-verify/blog" in names(client), "a plan does nothing"
    removed = register().removed
    assert removed == planned.gone.names
    assert not any(name.endswith("/blog") for name in names(client))
    assert "platform-blog" not in queues(client)
    assert not [one for one in client.read_automations() if " of blog " in one.name]
    assert register().removed == ()


def test_one_platform_by_name_leaves_the_others_alone(folder: Path, client: SyncPrefectClient) -> None:
    register()
    (folder / "blog.toml").unlink()
    assert register(["shop"]).removed == ()
    assert "backup-and-verify/blog" in names(client)
    with pytest.raises(ConfigurationError, match="no platform's name"):
        register(["Not One"])


def test_schedules_move_with_their_file(folder: Path, client: SyncPrefectClient) -> None:
    text = 'timezone = "Europe/Rome"\n[platform.shop]\nbackup-and-verify = "30 3 * * *"\n'
    (folder / "schedules.toml").write_text(text)
    register()
    assert crons(client, "backup-and-verify/shop") == {"own": ("30 3 * * *", "Europe/Rome")}
    assert crons(client, "backup-and-verify/blog") == {"nightly": ("0 2 * * *", "UTC")}
    (folder / "schedules.toml").write_text(text.replace("30 3", "45 3"))
    register()
    assert crons(client, "backup-and-verify/shop") == {"own": ("45 3 * * *", "Europe/Rome")}
    (folder / "schedules.toml").write_text(text.replace("shop", "shpo"))
    with pytest.raises(ConfigurationError, match=r"unknown key platform\.shpo"):
        register()
    (folder / "schedules.toml").unlink()
    register()
    assert crons(client, "backup-and-verify/shop") == {"nightly": ("0 2 * * *", "UTC")}


def test_the_first_release_is_taken_over(folder: Path, client: SyncPrefectClient) -> None:
    for name in (*plan().gone.names, *names(client)):
        if "/" in name:
            client.delete_deployment(client.read_deployment_by_name(name).id)
    _, ended, waiting = make_first_release(client)
    with pytest.raises(PreconditionFailed, match="backup-and-verify/backup-and-verify, of an earlier release"):
        register(["shop"])

    registered = register()
    assert "backup-and-verify/backup-and-verify" in registered.removed
    assert "queue procedures" in registered.removed
    assert "backup-and-verify/backup-and-verify" not in names(client)
    # What ended stays to be seen, and nothing waits for a deployment that is gone.
    assert client.read_flow_run(ended).state.is_completed()  # type: ignore[union-attr]
    assert client.read_flow_run(waiting).state.is_cancelled()  # type: ignore[union-attr]
    (nightly,) = client.read_deployment_by_name("backup-and-verify/shop").schedules
    assert (nightly.slug, nightly.active) == ("nightly", False)
    (nightly,) = client.read_deployment_by_name("backup-and-verify/blog").schedules
    assert nightly.active
    client.delete_deployment(client.read_deployment_by_name("backup-and-verify/shop").id)


def test_the_command_says_what_it_would_do_and_did(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register()
    (folder / "blog.toml").unlink()
    assert main(["--plan"]) == 0
    assert "  remove  backup-and-verify/blog\n" in capsys.readouterr().out
    assert main([]) == 0
    told = capsys.readouterr().out
    specs = read_deployment_file().deployments
    counted = f"{len(specs)} deployments, {sum(len(spec.schedules) for spec in specs)} schedules"
    assert f"Registered for shop: 1 work pools, 2 work queues, {counted}, 4 automations." in told
    assert "Removed: queue platform-blog" in told
    (folder / "schedules.toml").write_text("[every]")
    assert main([]) == 1
    assert "unknown key every" in capsys.readouterr().err
