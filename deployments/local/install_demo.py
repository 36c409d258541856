"""The installation as its page tells it, run as it stands there, on a platform that runs under docker compose.

All of it happens in namespaces of its own (processes, network, mounts): what the page's commands write below /etc and
/usr/local goes to a layer that is thrown away, and nothing outlives it, however it ends. The engine, the store, the
database in its container, the orchestrator and the message are real.
"""

import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rich.console import Console

from deployments.local.contained_platform import ContainedPlatform, find_compose, running_platform
from deployments.local.engine import NEEDED_PACKAGES, RunningEngine, missing_for_an_engine, running_engine
from deployments.local.objectstore import RunningObjectStore, create_bucket, running_objectstore
from deployments.production.footprint import measure_memory_bytes
from deployments.running.state import StateFolder
from keepwell.backup.catalogue import BackupEntry, read_catalogue
from keepwell.errors import ConfigurationError, KeepwellError, VerificationFailed
from keepwell.locked_folder import locked_folder, sweep_locked_folders
from keepwell.objectstore.bucket import open_store
from keepwell.postgres.binaries import find_installations
from keepwell.served import STATE_VARIABLE, serve_folder
from keepwell.settings import load_platform_file

PROJECT = "keepwell-demo"
PAGE = Path("docs/install.md")
BUCKET = "keepwell"
_ROOT = Path(__file__).resolve().parents[2]
_IMAGE = "image keepwell-sample/postgres:15"
_CONFIGURATION = Path("/etc/keepwell")
_CRONTAB = Path("/etc/cron.d/keepwell-demo")
# Never, so that no cron of this machine, which cannot see it anyway, would run it.
_CRON_LINE = "0 2 31 2 * root docker exec {project}_postgres_1 pg_dump -U postgres esn_db_prod > {folder}/esn.sql\n"
_LAYERED = (Path("/etc"), Path("/usr/local/bin"))
# On a disk, unlike /tmp of some systems.
_PLACE, _PREFIX = Path("/var/tmp"), "keepwell-install-"  # noqa: S108 - a private folder is made in it
_SETTLE_SECONDS, _LOOK_SECONDS = 90, 5
_COMMAND_SECONDS = 900
# What a person would type where a command asks.
_ANSWERS = {"keepwell cron retire": "y\n"}
_COMMAND = re.compile(r"^# (.+)$", re.MULTILINE)
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_console = Console(highlight=False, soft_wrap=True)


def install_and_isolate() -> None:
    """Install what Debian has and this machine lacks, then run the demonstration in namespaces, in our place.

    Raises:
        ConfigurationError: We are not root, or something is missing that cannot be installed here.
    """
    if os.geteuid() != 0:
        raise ConfigurationError("The demonstration starts a Docker Engine, for which it must be root.", hint="sudo …")
    _install_missing()
    namespaces = ("--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private")
    argv = ["unshare", *namespaces, sys.executable, "-m", __name__]
    sys.stdout.flush()
    os.execvp(argv[0], argv)  # noqa: S606 - argv only


def _install_missing() -> None:
    wanted = [*NEEDED_PACKAGES] if missing_for_an_engine() else []
    if shutil.which("docker-compose", path="/usr/local/bin:/usr/bin:/bin") is None:
        wanted.append("docker-compose")
    if not any(found.major == 15 and found.origin == "system" for found in find_installations()):
        wanted.append("postgresql-15")
    if not wanted:
        return
    if shutil.which("apt-get") is None:
        raise ConfigurationError(f"These are missing: {', '.join(wanted)}.", hint="Install them; here is no apt-get.")
    _console.print(f"Installing {', '.join(wanted)}")
    # Debian would make and start a cluster of its own.
    clusters = Path("/etc/postgresql-common/createcluster.d/keepwell.conf")
    clusters.parent.mkdir(parents=True, exist_ok=True)
    clusters.write_text("create_main_cluster = false\n")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (("update", "-qq"), ("install", "-qq", "-y", "--no-remove", "--no-install-recommends", *wanted)):
        try:
            subprocess.run(["apt-get", *words], check=True, env=environment, stdout=subprocess.DEVNULL)
        except subprocess.CalledProcessError as error:
            raise ConfigurationError(
                f"apt-get could not install {', '.join(wanted)}.", hint="Read what it said, and install them yourself."
            ) from error


@dataclass
class Phone:
    """Stands for the phone: keeps what is sent to it.

    Attributes:
        url: As Apprise has it.
        messages: What came, in order.
    """

    url: str
    messages: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def listening_phone() -> Iterator[Phone]:
    """A receiver on loopback for the length of a block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            phone.messages.append(json.loads(content))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        phone = Phone(f"json://127.0.0.1:{server.server_port}/phone")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield phone
        server.shutdown()


def read_commands(page: str) -> list[str]:
    """The commands of the page, in their order: lines after root's prompt, in its `console` blocks."""
    return [line for block in _BLOCK.findall(page) for line in _COMMAND.findall(block)]


def main() -> int:
    """Run it, in the namespaces that it was given; the last line is one JSON object."""
    os.chdir(_ROOT)
    _isolate()
    with ExitStack() as stack:
        sweep_locked_folders(_PLACE, _PREFIX, lambda _: None)
        folder = stack.enter_context(locked_folder(_PLACE, _PREFIX))
        folder.chmod(0o711)  # the orchestrator's PostgreSQL is another user, and passes through
        os.environ[STATE_VARIABLE] = str(folder / "state")
        _tell("An engine, a platform under compose whose database publishes no port, a bucket, and a phone")
        engine = stack.enter_context(running_engine())
        os.environ |= engine.environment
        platform = stack.enter_context(_platform(engine, folder))
        store = stack.enter_context(_bucket(folder))
        phone = stack.enter_context(listening_phone())
        _write_old_way(engine, platform, folder)
        stack.callback(subprocess.run, ["keepwell", "serve", "stop"], check=False, stdout=subprocess.DEVNULL)
        summary = _follow(read_commands(PAGE.read_text()), store, phone)
    print(json.dumps(summary))  # noqa: T201 - the last line is for programs
    return 0


def _isolate() -> None:
    """Loopback, and throw-away layers over what the page's commands write to."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # A folder that every system has, so that none is left where the mount was.
    uppers = Path("/mnt")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "keepwell", uppers], check=True)
    for number, place in enumerate(_LAYERED):
        upper, work = uppers / f"{number}", uppers / f"{number}.work"
        upper.mkdir()
        work.mkdir()
        options = f"lowerdir={place},upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "keepwell", place], check=True)
    # A platform that this machine has is none of the demonstration's.
    shutil.rmtree(_CONFIGURATION, ignore_errors=True)


@contextmanager
def _platform(engine: RunningEngine, folder: Path) -> Iterator[ContainedPlatform]:
    place = folder / "platform"
    place.mkdir()
    with running_platform(engine, place, project=PROJECT, compose=find_compose(), scale=0.2) as platform:
        yield platform


@contextmanager
def _bucket(folder: Path) -> Iterator[RunningObjectStore]:
    place = folder / "store"
    place.mkdir()
    with running_objectstore(place) as store:
        create_bucket(store.endpoint_url, store.access_key_id, store.secret_access_key, BUCKET)
        yield store


def _write_old_way(engine: RunningEngine, platform: ContainedPlatform, folder: Path) -> None:
    """What the operators did until now: a crontab line, and a dump that it made."""
    backups = folder / "backups"
    backups.mkdir()
    (container,) = engine.client.containers.list(filters={"name": f"{platform.project}_postgres"})
    dump = container.exec_run(["pg_dump", "-U", "postgres", "-h", "/tmp", "esn_db_prod"])  # noqa: S108 - in the container
    (backups / "esn.sql").write_bytes(dump.output)
    _CRONTAB.parent.mkdir(exist_ok=True)
    _CRONTAB.write_text(_CRON_LINE.format(project=platform.project, folder=backups))


def _follow(commands: Sequence[str], store: RunningObjectStore, phone: Phone) -> dict[str, Any]:
    """Run the page's commands, and look whether what it promises is so.

    Raises:
        VerificationFailed: It is not.
    """
    began, proven_after, to_proof = time.monotonic(), 0.0, 0
    for number, words in enumerate(commands, start=1):
        _console.print(f"\n[bold]# {words}[/bold]")
        answered = _answers_of_init(store, phone) if words.startswith("keepwell init") else {}
        _run(words, answered)
        if words.startswith("keepwell run"):
            proven_after, to_proof = time.monotonic() - began, number
    entry = _require_proven()
    _require_retired()
    delivered = any(entry.backup_id in json.dumps(message) for message in phone.messages)
    if not delivered:
        raise VerificationFailed(f"{entry.backup_id} is proven, and no message of it came.", hint="Look at its run.")
    return {
        "commands": len(commands),
        "commands_to_proof": to_proof,
        "seconds": round(proven_after, 1),
        "level": entry.level,
        "restored_on": entry.proof.server if entry.proof else None,
        "idle_memory_bytes": _measure_idle_memory(),
        "message_delivered": delivered,
    }


def _measure_idle_memory() -> int:
    """The least of a while: what a proven backup sets off may still run."""
    state, looks = StateFolder.at(serve_folder()), []
    for _ in range(_SETTLE_SECONDS // _LOOK_SECONDS):
        time.sleep(_LOOK_SECONDS)
        looks.append(measure_memory_bytes(state))
    return min(looks)


def _answers_of_init(store: RunningObjectStore, phone: Phone) -> Mapping[str, str]:
    """What a person would type, for this command alone: all others read what it wrote."""
    return {
        "KEEPWELL_BUCKET__NAME": BUCKET,
        "KEEPWELL_BUCKET__ENDPOINT_URL": store.endpoint_url,
        "KEEPWELL_BUCKET__REGION": store.region,
        "AWS_ACCESS_KEY_ID": store.access_key_id,
        "AWS_SECRET_ACCESS_KEY": store.secret_access_key,
        "KEEPWELL_NOTIFY__URLS": json.dumps([phone.url]),
    }


def _run(words: str, more: Mapping[str, str]) -> None:
    """One line of the page, by a shell as a person has it.

    Raises:
        VerificationFailed: It ended badly.
    """
    typed = _ANSWERS.get(words)
    sys.stdout.flush()
    with _terminal(typed) as terminal:
        ended = subprocess.run(
            ["bash", "-c", words],
            env=os.environ | more,
            stdin=terminal if typed else subprocess.DEVNULL,
            stderr=terminal if typed else None,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    if ended.returncode != 0:
        raise VerificationFailed(f"`{words}` ended with exit code {ended.returncode}.", hint="Read what it said above.")


@contextmanager
def _terminal(typed: str | None) -> Iterator[int]:
    """A terminal on which somebody has typed."""
    ours, theirs = pty.openpty()
    try:
        if typed:
            os.write(ours, typed.encode())
        yield theirs
    finally:
        os.close(theirs)
        os.close(ours)


def _require_proven() -> BackupEntry:
    """Asked of the bucket, not of what a command said."""
    (file,) = _CONFIGURATION.glob("*.toml")
    platform = load_platform_file(file)
    entries = read_catalogue(open_store(platform))
    if not entries or not entries[0].is_proven(platform.backup.proven_level):
        raise VerificationFailed("The bucket holds no proven set.", hint="Look at the run's log.")
    proof = entries[0].proof
    if proof is None or _IMAGE not in (proof.server or ""):
        raise VerificationFailed(
            "The proof was not made on the source's own image.", hint="`keepwell backup show newest`."
        )
    return entries[0]


def _require_retired() -> None:
    with contextlib.suppress(FileNotFoundError):
        if _CRONTAB.read_text().startswith("# keepwell retired"):
            return
    raise VerificationFailed(f"The line in {_CRONTAB} is still at work.", hint="`keepwell cron retire --plan`.")


def _tell(text: str) -> None:
    _console.print(f"[bold]{text}[/bold]")


def run() -> None:
    """Run it, and say what went wrong in one sentence with a hint."""
    try:
        sys.exit(main())
    except KeepwellError as error:
        _console.print(f"[red]{error.message}[/red]\n{error.hint}")
        sys.exit(1)


if __name__ == "__main__":
    run()
