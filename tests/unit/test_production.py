"""What `keepwell serve` would run: secure by default, bounded, and found by the console."""

import os
import resource
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.production import footprint, limits
from deployments.production.__main__ import app
from deployments.production.stack import ServeOptions, plan_stack
from deployments.production.systemd_unit import render_unit
from deployments.running import orchestrator, postgres_cluster
from deployments.running.parts import Part
from deployments.running.ports import HOST, find_free_port
from deployments.running.state import MARKER_VARIABLE, StateFolder
from keepwell.cli.main import app as console
from keepwell.errors import ConfigurationError
from keepwell.postgres.binaries import Binaries
from keepwell.served import STATE_VARIABLE, read_served, serve_folder
from keepwell.settings import CONFIG_VARIABLE

INSTALLATION = Binaries(Path("/usr/lib/postgresql/15/bin"), (15, 18), "system")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateFolder:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(postgres_cluster, "choose_installation", lambda _: INSTALLATION)
    return StateFolder.at(serve_folder())


def prepare(state: StateFolder, **wanted: object) -> dict[str, Part]:
    """The parts of a stack that was asked for so, by name."""
    options = ServeOptions("/etc/keepwell", **{"port": find_free_port()} | wanted)  # type: ignore[arg-type]
    plan = plan_stack(options)
    plan.prepare(state, plan.options)
    return {part.name: part for part in plan.read_parts(state)}


class TestParts:
    def test_no_secret_is_on_a_command_line_and_each_process_is_marked(self, state: StateFolder) -> None:
        parts = prepare(state)
        secrets = [path.read_text().strip().split(":")[-1] for path in (state.folder / "secrets").iterdir()]
        assert len(secrets) == 2
        for one in parts.values():
            command = one.build()
            assert not [secret for secret in secrets if any(secret in argument for argument in command.argv)]
            assert command.environment[MARKER_VARIABLE] == str(state.folder)

    def test_the_login_is_made_at_random_private_and_the_same_at_the_next_start(self, state: StateFolder) -> None:
        prepare(state)
        made = orchestrator.read_login(state)
        assert made.startswith("keepwell:")
        assert len(made) > 40
        assert orchestrator.login_file(state).stat().st_mode & 0o777 == 0o600
        prepare(state)
        assert orchestrator.read_login(state) == made

    @pytest.mark.parametrize("holds", ["", "\n", "keepwell", "keepwell:"])
    def test_a_login_without_a_password_opens_no_server(self, holds: str, state: StateFolder) -> None:
        prepare(state)
        orchestrator.login_file(state).write_text(holds)
        with pytest.raises(ConfigurationError, match="holds no login"):
            orchestrator.read_login(state)

    def test_everything_listens_on_loopback_unless_asked(self, state: StateFolder) -> None:
        parts = prepare(state)
        assert parts[orchestrator.SERVER].build().argv[-4:-2] == ("--host", HOST)
        assert f"listen_addresses={HOST}" in " ".join(parts[orchestrator.DATABASE_PART].build().argv)
        asked = prepare(state, listen="0.0.0.0")
        assert asked[orchestrator.SERVER].build().argv[-4:-2] == ("--host", "0.0.0.0")
        assert f"listen_addresses={HOST}" in " ".join(asked[orchestrator.DATABASE_PART].build().argv)
        # Programs of this machine still go by loopback.
        assert HOST in asked[orchestrator.WORKER].build().environment["PREFECT_API_URL"]

    def test_prefect_takes_login_csrf_and_retentions_as_they_are_meant(self, state: StateFolder) -> None:
        environment = prepare(state)[orchestrator.SERVER].build().environment
        asked = (
            "from prefect.settings import get_current_settings as s; r = s().server;"
            "print(bool(r.api.auth_string), r.api.csrf_protection_enabled, r.analytics_enabled,"
            " sorted(r.services.db_vacuum.enabled), r.services.db_vacuum.retention_period.total_seconds(),"
            " r.events.retention_period.total_seconds(), r.services.late_runs.loop_seconds)"
        )
        base = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        said = subprocess.run(
            [sys.executable, "-c", asked], env=base | dict(environment), capture_output=True, text=True, check=True
        )
        days = [timedelta(days=count).total_seconds() for count in (90, 14)]
        assert said.stdout.split("\n")[0] == f"True True False ['events', 'flow_runs'] {days[0]} {days[1]} 30.0"

    def test_servers_are_asked_again_and_tried_for_ever(self, state: StateFolder) -> None:
        parts = prepare(state, workers=2)
        servers = [one for one in parts.values() if not one.is_step]
        assert len(servers) == 4
        assert all(one.check_seconds > 0 for one in servers)
        assert plan_stack().patience.most_quick_failures is None

    def test_each_worker_has_a_name_of_its_own(self, state: StateFolder) -> None:
        parts = prepare(state, workers=3)
        names = {parts[name].build().argv[-1] for name in parts if name.startswith(orchestrator.WORKER)}
        assert names == {f"{socket.gethostname()}-{number}" for number in (1, 2, 3)}

    def test_runs_read_the_platforms_that_were_there_when_it_was_started(self, state: StateFolder) -> None:
        environment = prepare(state)[orchestrator.WORKER].build().environment
        assert environment[CONFIG_VARIABLE] == "/etc/keepwell"
        assert environment[STATE_VARIABLE] == str(state.folder.parent)

    def test_a_port_that_is_taken_is_refused(self, state: StateFolder) -> None:
        with socket.create_server((HOST, 0)) as other, pytest.raises(ConfigurationError, match="listens on port"):
            prepare(state, port=other.getsockname()[1])

    def test_an_address_that_is_not_ours_is_refused(self, state: StateFolder) -> None:
        with pytest.raises(ConfigurationError, match=r"192\.0\.2\.7"):
            prepare(state, listen="192.0.2.7")

    def test_how_it_is_reached_is_told_to_nobody_else(self, state: StateFolder) -> None:
        prepare(state)
        served = read_served()
        assert served is not None
        assert served.read_login() == orchestrator.read_login(state)
        assert (state.folder / "served.json").stat().st_mode & 0o777 == 0o600
        assert orchestrator.read_login(state) not in (state.folder / "served.json").read_text()


class TestCommands:
    def test_help_names_every_word(self) -> None:
        said = CliRunner().invoke(app, ["--help"]).stdout
        for word in ("--detach", "--listen", "--port", "--workers", "--json", "status", "reload", "stop", "unit"):
            assert word in said
        assert "serve" in CliRunner().invoke(console, ["--help"]).stdout

    def test_nothing_is_started_where_no_platform_is_described(
        self, state: StateFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path / "missing.toml"))
        error = CliRunner().invoke(app, ["--detach"]).exception
        assert isinstance(error, ConfigurationError)
        assert "keepwell init" in error.hint
        assert not state.folder.exists()

    def test_a_name_is_no_address_to_listen_on(
        self, state: StateFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path))
        error = CliRunner().invoke(app, ["--listen", "everywhere"]).exception
        assert isinstance(error, ConfigurationError)
        assert not state.folder.exists()

    def test_a_stack_that_does_not_run_is_told_with_exit_code_1(self) -> None:
        result = CliRunner().invoke(app, ["status", "--json"])
        assert result.exit_code == 1
        assert '"running": false' in result.stdout
        assert CliRunner().invoke(app, ["stop"]).exit_code == 0


class TestUnit:
    def test_it_names_this_installation_and_an_unprivileged_user(self) -> None:
        text = render_unit(programs=Path("/opt/keepwell/.venv/bin"))
        assert "ExecStart=/opt/keepwell/.venv/bin/keepwell serve\n" in text
        assert "\nUser=keepwell\n" in text
        assert "@USER@" not in text
        for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet=", "MemoryMax=2G"):
            assert f"\n{line}\n" in text

    @pytest.mark.parametrize("user", ["root", "", "a b", "x\nUser=root"])
    def test_root_and_what_is_no_name_are_refused(self, user: str) -> None:
        with pytest.raises(ConfigurationError, match="cannot run as"):
            render_unit(user)

    @pytest.mark.parametrize("folder", ["/opt/with space", "/opt/100%", "/opt/a\nExecStart=/bin/sh"])
    def test_a_folder_that_would_say_something_else_is_refused(self, folder: str) -> None:
        with pytest.raises(ConfigurationError, match="no unit can name"):
            render_unit(programs=Path(folder))

    @pytest.mark.systemd
    def test_systemd_finds_nothing_wrong_with_it(self, tmp_path: Path) -> None:
        program = tmp_path / "keepwell"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        unit = tmp_path / "keepwell.service"
        unit.write_text(render_unit("daemon", programs=tmp_path))
        verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
        assert (verified.returncode, verified.stderr) == (0, "")
        # The check is able to find something.
        unit.write_text(unit.read_text().replace("ProtectSystem=strict", "ProtectSystem=somewhat"))
        verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
        assert "somewhat" in verified.stderr


class TestStandingBack:
    def test_it_is_inherited_and_never_taken_back(self) -> None:
        asked = (
            "import os, resource\nfrom deployments.production.limits import stand_back\nstand_back(); stand_back()\n"
            "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', "
            "'import os, resource; print(os.getpriority(os.PRIO_PROCESS, 0), "
            'open("/proc/self/oom_score_adj").read().strip(), resource.getrlimit(resource.RLIMIT_CORE)[1])\'],'
            "capture_output=True, text=True).stdout)"
        )
        said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
        nice, score, core = map(int, said.split())
        assert nice >= limits.NICE
        assert score >= limits.OUT_OF_MEMORY_SCORE
        assert core == 0
        assert resource.getrlimit(resource.RLIMIT_CORE)  # ours is as it was


class TestFootprint:
    def test_what_bears_the_mark_is_counted_and_nothing_else(self, state: StateFolder) -> None:
        state.prepare()
        assert footprint.measure_memory_bytes(state) == 0
        busy = "x = bytearray(30_000_000)\nfor i in range(0, len(x), 4096): x[i] = 1\n"
        busy += "import os\nwhile sum(os.times()[:2]) < 0.3: pass\nprint(1, flush=True); input()"
        environment = os.environ | {MARKER_VARIABLE: str(state.folder)}
        # A grandchild without the mark, as PostgreSQL's processes are.
        launcher = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], env={})"
        argv = [sys.executable, "-c", launcher, busy]
        with subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
            assert one.stdout is not None
            one.stdout.readline()
            assert footprint.measure_memory_bytes(state) > 30_000_000
            assert footprint.measure_processor_seconds(state) >= 0.25
            one.communicate(b"\n")
        assert footprint.measure_memory_bytes(state) == 0
