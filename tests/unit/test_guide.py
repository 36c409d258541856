import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from keepwell.guide import GuideItem, Standing, count_standings, read_guide

ROOT = Path(__file__).parents[2]
COUNTS = {
    "DAILY": 5, "WEEKLY": 5, "MONTHLY": 6, "QUARTERLY": 5, "MON": 4, "DB": 9, "SEC": 3, "PERF": 4,
    "BK": 5, "DR": 4, "LOG": 5, "TRB": 4, "INC": 3, "DEP": 3, "TOOL": 1,
}  # fmt: skip
AUTOMATED = [item for item in read_guide() if item.standing is Standing.AUTOMATED]


def test_every_item_of_the_guide_stands_there_once() -> None:
    ids = [item.id for item in read_guide()]
    assert sorted(ids) == sorted(f"{kind}-{n}" for kind, count in COUNTS.items() for n in range(1, count + 1))


def test_items_of_one_section_stand_together() -> None:
    sections = [item.section for item in read_guide()]
    runs = [name for i, name in enumerate(sections) if i == 0 or sections[i - 1] != name]
    assert Counter(runs).most_common(1)[0][1] == 1


def test_what_this_release_automates() -> None:
    backups = {"BK-1", "BK-2", "BK-3", "BK-4", "BK-5", "DAILY-5", "MONTHLY-6", "DB-6"}
    disasters = {"DR-1", "DR-2", "DR-3", "DR-4", "QUARTERLY-4"}
    assert {item.id for item in AUTOMATED} == backups | disasters


@pytest.mark.parametrize("item", AUTOMATED, ids=lambda item: item.id)
def test_automated_items_have_a_test_in_which_they_turn_red(item: GuideItem) -> None:
    for path in item.tests:
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("item", [item for item in AUTOMATED if item.flow], ids=lambda item: item.id)
def test_automated_items_have_a_flow_and_a_deployment_of_its_name(item: GuideItem) -> None:
    module = ROOT / "flows" / f"{item.flow}.py"
    assert re.search(rf"^def {item.flow}\(", module.read_text(), re.MULTILINE)
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    entrypoints = {deployment["name"]: deployment["entrypoint"] for deployment in deployments}
    assert item.deployment is not None
    assert item.flow in entrypoints[item.deployment]
    assert item.deployment == item.flow.replace("_", "-") if item.flow else False


@pytest.mark.parametrize("item", [item for item in AUTOMATED if item.command], ids=lambda item: item.id)
def test_automated_items_have_a_command_that_is_there(item: GuideItem) -> None:
    from typer.testing import CliRunner

    from keepwell.cli.main import app

    assert item.command is not None
    program, *words = item.command.split()
    assert program == "keepwell"
    assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0


def test_items_done_by_hand_name_no_command_that_does_not_exist() -> None:
    from typer.testing import CliRunner

    from keepwell.cli.main import app

    named = {m for item in read_guide() for m in re.findall(r"`keepwell ([a-z -]+?)(?: --[a-z]+)?`", item.by_hand)}
    for words in named:
        # A flow's name is no command; `run` itself is.
        argv = ["run"] if words.startswith("run ") else words.split()
        assert CliRunner().invoke(app, [*argv, "--help"]).exit_code == 0, words


@pytest.mark.parametrize(
    "changes",
    [
        {"standing": "automated"},
        {"standing": "automated", "flow": "f", "deployment": "f"},
        {"standing": "automated", "flow": "f", "tests": ["t.py"]},
        {"standing": "by_hand"},
        {"standing": "planned", "flow": "f"},
        {"standing": "planned", "tests": ["t.py"]},
        {"id": "BK-0"},
        {"greener": True},
    ],
)
def test_an_item_that_contradicts_itself_is_refused(changes: dict[str, object]) -> None:
    item = {"id": "BK-9", "section": "s", "words": "w", "standing": "planned"}
    GuideItem.model_validate(item)
    with pytest.raises(ValidationError):
        GuideItem.model_validate(item | changes)


def test_two_items_of_one_id_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    item = '[[item]]\nid = "BK-1"\nsection = "s"\nwords = "w"\nstanding = "planned"\n'
    (tmp_path / "guide.toml").write_text(item * 2)
    monkeypatch.setattr("keepwell.guide.resources.files", lambda _: tmp_path)
    with pytest.raises(ValueError, match="BK-1"):
        read_guide.__wrapped__()


def test_counts_name_every_standing() -> None:
    assert count_standings([]) == dict.fromkeys(Standing, 0)
    assert sum(count_standings(read_guide()).values()) == sum(COUNTS.values())


def test_the_data_file_travels_with_the_package() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    assert "*.toml" in patterns
