"""Both generations of compose understand the production stack's files, alone and with every overlay."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from compose_programs import fetch_second_generation, find_first_generation

pytestmark = pytest.mark.composed
FOLDER = Path(__file__).resolve().parents[2] / "deployments/production/compose"
OVERLAYS = sorted(path.name for path in FOLDER.glob("compose.*.yaml"))
NEEDED = {"STACK_PLATFORM_NETWORK": "esn_default", "STACK_CERTIFICATES": "/etc/keepwell/tls"}


def configure(program: Path | None, *files: str, **settings: str) -> subprocess.CompletedProcess[str]:
    assert program is not None, "docker-compose of Debian is not installed"
    environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "COMPOSE_FILE": ":".join(files)} | settings
    return subprocess.run(
        [program, "config"], cwd=FOLDER, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize("find", [find_first_generation, fetch_second_generation])
@pytest.mark.parametrize("overlays", [[], *([name] for name in OVERLAYS), OVERLAYS], ids="+".join)
def test_the_files_are_understood(find: Callable[[], Path | None], overlays: list[str]) -> None:
    ended = configure(find(), "compose.yaml", *overlays, **NEEDED)
    assert ended.returncode == 0, ended.stderr
    services = yaml.safe_load(ended.stdout)["services"]
    assert {"prepare", "database", "server", "register", "worker"} <= services.keys()
    # An overlay takes nothing away of what keeps a service apart.
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name


@pytest.mark.parametrize("find", [find_first_generation, fetch_second_generation])
def test_a_setting_that_an_overlay_needs_is_asked_for(find: Callable[[], Path | None]) -> None:
    ended = configure(find(), "compose.yaml", "compose.platform.yaml")
    assert ended.returncode != 0
    assert "name the network of the platform" in ended.stderr
