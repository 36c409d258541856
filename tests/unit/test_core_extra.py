"""The `core` extra suffices for the console: everything that it does not bring is made unimportable."""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# The project's layers above the console come with its source, and what they need does not.
ABOVE = {"flows", "tasks", "deployments", "sample"}
IMPORT_EVERYTHING = """
import importlib, json, pkgutil, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None
import keepwell
for module in pkgutil.walk_packages(keepwell.__path__, "keepwell."):
    importlib.import_module(module.name)
from keepwell.cli.main import run
sys.argv[1:] = ["guide", "--json"]
run()
"""


def brought_by(wanted: str) -> set[str]:
    """Names of the distributions that a requirement brings, itself included."""
    waiting, seen = [Requirement(wanted)], set[tuple[str, str]]()
    while waiting:
        requirement = waiting.pop()
        for extra in {"", *requirement.extras}:
            key = (canonicalize_name(requirement.name), extra)
            if key in seen:
                continue
            try:
                needed = requires(requirement.name) or []
            except PackageNotFoundError:
                continue  # for another system
            seen.add(key)
            further = map(Requirement, needed)
            waiting += [one for one in further if one.marker is None or one.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen}


def test_every_module_of_the_console_can_be_imported_with_the_core_extra_alone() -> None:
    core = brought_by("keepwell[core]")
    assert {"psycopg", "boto3", "zstandard", "typer"} <= core
    assert not core & {"prefect", "pandas", "sqlalchemy", "fastapi"}
    others = {
        module
        for module, distributions in packages_distributions().items()
        if not core & {canonicalize_name(name) for name in distributions}
    }
    assert {"prefect", "sqlalchemy"} <= others
    ended = import_without(others)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["schema"] == "keepwell.guide/1"
    assert import_without(others | {"zstandard"}).returncode != 0


def import_without(modules: set[str]) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-c", IMPORT_EVERYTHING, json.dumps(sorted(modules | ABOVE))]
    return subprocess.run(call, capture_output=True, text=True, check=False)
