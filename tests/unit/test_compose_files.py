"""Each service of the production stack is kept small and apart; what a compose file forgets is found here."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.production.compose.roles import ROLES

FOLDER = Path(__file__).resolve().parents[2] / "deployments/production/compose"
# Those that make services of their own; the other overlays change one, or add.
WITH_SERVICES = ("compose.yaml", "compose.scaled.yaml", "compose.tls.yaml")
OVERLAYS = sorted(path.name for path in FOLDER.glob("compose.*.yaml"))
ENDING = {"prepare", "register", "migrate"}
# It serves nobody: when its process ends, it is started anew.
UNASKED = {"services"}
READING_THE_PLATFORM = {"worker", "register"}
LOOPBACK = re.compile(r"\$\{STACK_(TLS_)?ADDRESS:-127\.0\.0\.1\}:\$\{STACK_(TLS_)?PORT:-\d+\}:\d+")


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return found


def whole_services() -> dict[str, dict[str, Any]]:
    """Every service that a file defines, not one that it only adds to."""
    return {
        name: service
        for file in WITH_SERVICES
        for name, service in read(file)["services"].items()
        if "image" in service
    }


def find_faults(name: str, service: dict[str, Any]) -> list[str]:
    """What is wrong with a service, in words."""
    environment = service.get("environment", {})
    volumes = [str(volume) for volume in service.get("volumes", [])]
    wrong = {
        "can write to its image": service.get("read_only") is not True,
        "keeps capabilities": service.get("cap_drop") != ["ALL"] or "cap_add" in service,
        "can gain privileges": "no-new-privileges:true" not in service.get("security_opt", []),
        "is privileged": service.get("privileged", False) or service.get("user") in ("root", "0"),
        "shares the machine's network": service.get("network_mode") == "host",
        "takes all memory": "mem_limit" not in service,
        "takes all processors": "cpus" not in service,
        "takes all process numbers": "pids_limit" not in service,
        "fills the disk with its log": not service.get("logging", {}).get("options", {}).get("max-size"),
        "does not come back": service.get("restart") != ("no" if name in ENDING else "unless-stopped"),
        "is not asked whether it serves": name not in ENDING | UNASKED and "healthcheck" not in service,
        "is published": any(not LOOPBACK.fullmatch(port) for port in service.get("ports", [])),
        "has the engine's socket": any("docker.sock" in volume for volume in volumes),
        "reads the platform's secrets": name not in READING_THE_PLATFORM
        and any("/etc/keepwell:" in v for v in volumes),
        "shows a password": any("PASSWORD" in key and not key.endswith("_FILE") for key in environment),
        "shows a login": any(key.endswith("AUTH_STRING") for key in environment),
    }
    return [fault for fault, found in wrong.items() if found]


@pytest.mark.parametrize("name", whole_services())
def test_each_service_is_small_and_kept_apart(name: str) -> None:
    assert find_faults(name, whole_services()[name]) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"read_only": False}, "can write to its image"),
        ({"cap_add": ["SYS_ADMIN"]}, "keeps capabilities"),
        ({"security_opt": []}, "can gain privileges"),
        ({"user": "root"}, "is privileged"),
        ({"network_mode": "host"}, "shares the machine's network"),
        ({"logging": {"driver": "json-file"}}, "fills the disk with its log"),
        ({"restart": "no"}, "does not come back"),
        ({"ports": ["4200:4200"]}, "is published"),
        ({"ports": ["${STACK_ADDRESS:-0.0.0.0}:${STACK_PORT:-4200}:4200"]}, "is published"),
        ({"volumes": ["/var/run/docker.sock:/var/run/docker.sock"]}, "has the engine's socket"),
        ({"volumes": ["/etc/keepwell:/etc/keepwell:ro"]}, "reads the platform's secrets"),
        ({"environment": {"POSTGRES_PASSWORD": "x"}}, "shows a password"),
        ({"environment": {"PREFECT_SERVER_API_AUTH_STRING": "x"}}, "shows a login"),
    ],
)
def test_a_careless_change_is_found(change: dict[str, Any], fault: str) -> None:
    assert find_faults("server", whole_services()["server"] | change) == [fault]


@pytest.mark.parametrize("key", ["mem_limit", "cpus", "pids_limit", "healthcheck", "logging", "cap_drop"])
def test_a_limit_that_is_left_out_is_found(key: str) -> None:
    server = whole_services()["server"]
    assert len(find_faults("server", {name: value for name, value in server.items() if name != key})) == 1


def test_the_database_has_no_way_out() -> None:
    stack = read("compose.yaml")
    assert stack["networks"]["orchestrator"] == {"internal": True}
    assert stack["services"]["database"]["networks"] == ["orchestrator"]
    assert "orchestrator" not in stack["services"]["worker"]["networks"]


def test_every_role_is_one_that_the_image_knows() -> None:
    commands = {
        name: service["command"] for name, service in whole_services().items() if "keepwell" in service["image"]
    }
    assert {command[0] for command in commands.values()} == {*ROLES, "prepare"}


def test_several_servers_forget_what_one_forgets() -> None:
    one = read("compose.yaml")["services"]["server"]["environment"]
    several = read("compose.scaled.yaml")["services"]["services"]["environment"]
    kept = {key: value for key, value in one.items() if "RETENTION" in key or "VACUUM" in key or "ANALYTICS" in key}
    assert len(kept) == 4
    assert several | kept == several


def test_every_setting_is_told_in_one_place_with_the_same_default() -> None:
    told = dict(
        line.split("=", 1) for line in (FOLDER / ".env").read_text().splitlines() if line and not line.startswith("#")
    )
    asked = [
        match
        for name in ("compose.yaml", *OVERLAYS)
        for match in re.findall(r"\$\{(\w+):([-?])([^}]*)\}", (FOLDER / name).read_text())
    ]
    defaults = {name: default for name, sign, default in asked if sign == "-" and not name.startswith("STACK_TLS")}
    assert defaults == {name: value for name, value in told.items() if name.startswith("STACK_")}
