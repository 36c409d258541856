import shlex
import sys
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from prefect import Flow
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.events.actions import RunDeployment
from prefect.events.schemas.automations import EventTrigger
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.callables import parameter_schema

from deployments import register
from deployments.automations import build_automations
from deployments.deployment_file import DEPLOYMENT_FILE, HEARTBEAT_SECONDS, POOL, DeploymentSpec, read_deployment_file
from deployments.upserts import build_schedules
from deployments.wanted import plan_deployments
from keepwell.errors import ConfigurationError
from keepwell.guide import read_guide
from keepwell.orchestrator import REGISTER_COMMAND, REGISTER_HINT, WORK_POOL
from keepwell.schedules import ScheduleFile

ROOT = DEPLOYMENT_FILE.parent
DEPLOYMENTS = {spec.name: spec for spec in read_deployment_file().deployments}


def flow_of(spec: DeploymentSpec) -> Flow:
    found = getattr(import_module(f"flows.{spec.flow}"), spec.flow)
    assert isinstance(found, Flow)
    return found


@pytest.mark.parametrize("spec", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
def test_each_deployment_bears_its_flow_s_name_and_knows_its_parameters(spec: DeploymentSpec) -> None:
    flow = flow_of(spec)
    assert flow.name == spec.name
    assert set(spec.parameters) <= set(parameter_schema(flow.fn).properties)
    if spec.per_platform:
        flow.validate_parameters(spec.parameters | {"platform": "esn"})


@pytest.mark.parametrize("spec", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
def test_the_run_form_explains_every_parameter(spec: DeploymentSpec) -> None:
    for name, described in parameter_schema(flow_of(spec).fn).model_dump_for_openapi()["properties"].items():
        assert described.get("description"), name


@pytest.mark.parametrize("spec", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
def test_a_flow_keeps_no_result_and_says_what_it_does(spec: DeploymentSpec) -> None:
    flow = flow_of(spec)
    assert flow.persist_result is False
    assert not flow.log_prints
    assert flow.description


def test_prefect_reads_the_same_file() -> None:
    model = PrefectYamlModel.model_validate(yaml.safe_load(DEPLOYMENT_FILE.read_text()))
    assert [deployment.name for deployment in model.deployments] == list(DEPLOYMENTS)


def test_every_flow_is_deployed() -> None:
    files = {path.stem.replace("_", "-") for path in (ROOT / "flows").glob("[a-z]*.py")}
    assert files == set(DEPLOYMENTS)


def test_the_guide_s_deployments_exist() -> None:
    named = {item.deployment for item in read_guide() if item.deployment}
    assert named <= set(DEPLOYMENTS)


def write_changed(folder: Path, change: str, into: str) -> Path:
    text = DEPLOYMENT_FILE.read_text()
    assert change in text
    changed = folder / "prefect.yaml"
    changed.write_text(text.replace(change, into, 1))
    return changed


@pytest.mark.parametrize(
    ("change", "into", "says"),
    [
        ("    schedules:\n", "    schedule:\n", "schedules"),
        ("enforce_parameter_schema: true", "enforce_parameters_schema: true", "enforce_parameter"),
        ("collision_strategy: ENQUEUE", "collision_strategy: CANCEL_NEW", "collision_strategy"),
        ('cron: "0 2 * * *"', 'cron: "0 2 * *"', "cron"),
        ('FREQUENCY: "30"}', 'FREQUENCY: "30", PASSWORD: x}', "job_variables.env.PASSWORD"),
        ('FREQUENCY: "30"}', 'FREQUENCY: "180"}', "job_variables.env.PREFECT_FLOWS_HEARTBEAT_FREQUENCY"),
        ('{PREFECT_FLOWS_HEARTBEAT_FREQUENCY: "30"}', "{}", "job_variables.env"),
        ("work_queue_name: watch", "work_queue_name: elsewhere", "work_queue_name"),
        ("tags: [keepwell, report]", "tags: [keepwell, report, watched]", "report itself"),
        ("entrypoint: flows.report_failure.", "entrypoint: flows.check_backups.", "report_failure"),
        ("name: keepwell\npull: []", "name: keepwell\npull: [{prefect.deployments.steps.git_clone: {}}]", "pull"),
    ],
)
def test_what_prefect_would_pass_over_is_refused(tmp_path: Path, change: str, into: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        read_deployment_file(write_changed(tmp_path, change, into))


def test_what_was_switched_off_stays_off() -> None:
    schedules = DEPLOYMENTS["backup-and-verify"].schedules
    assert [one.active for one in build_schedules(schedules, frozenset())] == [True]
    assert [(one.slug, one.active) for one in build_schedules(schedules, frozenset({"nightly"}))] == [
        ("nightly", False)
    ]


PLATFORMS = ("blog", "esn")
IDS = {one.full_name: uuid4() for one in plan_deployments(list(DEPLOYMENTS.values()), PLATFORMS, ScheduleFile())}


def test_sets_expire_after_proven_backups_only_and_for_the_same_platform() -> None:
    *_, expire = build_automations(IDS, PLATFORMS)
    trigger, (action,) = expire.trigger, expire.actions
    assert isinstance(trigger, EventTrigger)
    assert trigger.expect == {"prefect.flow-run.Completed", "prefect.flow-run.SecondFailed"}
    assert trigger.match_related.model_dump() == {  # type: ignore[union-attr]
        "prefect.resource.id": f"prefect.deployment.{IDS['backup-and-verify/esn']}",
        "prefect.resource.role": "deployment",
    }
    assert isinstance(action, RunDeployment)
    assert action.deployment_id == IDS["expire-backups/esn"]
    assert action.parameters == {"platform": "esn"}


def test_automations_watch_only_what_cannot_report_itself() -> None:
    for automation in build_automations(IDS, PLATFORMS)[: -len(PLATFORMS)]:
        related = automation.trigger.match_related.model_dump()  # type: ignore[union-attr]
        assert related["prefect.resource.id"] == "prefect.tag.watched"
        assert automation.trigger.for_each == {"prefect.resource.id"}  # type: ignore[union-attr]


@pytest.mark.parametrize("spec", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
def test_a_run_beats_several_times_before_it_is_taken_for_dead(spec: DeploymentSpec) -> None:
    silent, *_ = build_automations(IDS, PLATFORMS)
    beat = int(spec.work_pool.job_variables.env.PREFECT_FLOWS_HEARTBEAT_FREQUENCY)
    assert beat == HEARTBEAT_SECONDS
    assert silent.trigger.within.total_seconds() >= 3 * beat  # type: ignore[union-attr]


def test_what_the_console_tells_people_to_type_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[list[str]] = []

    def note(platforms: list[str]) -> register.Registered:
        registered.append(platforms)
        return register.Registered(1, 2, 4, 3, 3)

    monkeypatch.setattr(register, "register", note)
    interpreter, *words = shlex.split(REGISTER_COMMAND)
    assert (interpreter, words[:2]) == ("python", ["-m", register.__name__])
    assert register.main(words[2:]) == 0
    assert registered == [[]]
    assert f"`{REGISTER_COMMAND}`" in REGISTER_HINT
    assert WORK_POOL == POOL


@pytest.mark.parametrize("arguments", [[], ["--plan"]])
def test_without_a_server_s_name_nothing_is_registered_with_one_made_for_it(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def begin(**_: object) -> None:
        raise AssertionError("Prefect's client would start a server of its own.")

    monkeypatch.setattr(register, "get_client", begin)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert register.main(arguments) == 1
    assert capsys.readouterr().err.splitlines() == [
        "register: PREFECT_API_URL names no server, so there is nothing to register with.",
        "   hint: Where `keepwell serve` runs: `keepwell serve reload`. For a server of your own, set it.",
    ]


@pytest.mark.parametrize("folder", ["flows", "tasks", "deployments"])
def test_no_file_bears_the_name_of_an_importable_package(folder: str) -> None:
    elsewhere = [place for place in sys.path if Path(place or ".").resolve() not in {ROOT, ROOT / folder}]
    names = [path.stem for path in (ROOT / folder).rglob("*.py") if not path.stem.startswith("__")]
    assert names
    shadowing = [
        name for name in names if name in sys.stdlib_module_names or PathFinder.find_spec(name, elsewhere) is not None
    ]
    assert not shadowing
