"""The rest of a full drill, beside the restored database: uploaded files, Redis, the application on top, and telling.

Everything lies in the drill's own folder and on servers of its own. The application gets a network that holds loopback
alone, so that it cannot mail or charge real people; where a machine cannot make one, it is not started.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from keepwell import command
from keepwell.backup.cache_keys import LoadedKeys, load_keys
from keepwell.backup.restore_uploads import restore_uploads
from keepwell.backup.scratch_restore import ScratchRestore
from keepwell.backup.spool import CACHE_SCRATCH, open_scratch
from keepwell.cache import Comparison, KeyLoader, choose_cache_program, find_cache_programs, throwaway_cache
from keepwell.command import Command
from keepwell.drill.documents import APPLICATION, Stage
from keepwell.drill.enclosed import HOST, Case, Told
from keepwell.errors import CommandFailed, KeepwellError, ServiceUnavailable, TransientError, VerificationFailed
from keepwell.notify import Message, send
from keepwell.objectstore.store import Store
from keepwell.postgres.isolation import isolate_program
from keepwell.progress import Progress, Step
from keepwell.settings import Platform
from keepwell.smoke import smoke_paths
from keepwell.verdict import Verdict, worst

DATABASE_PORT, CACHE_PORT = 5432, 6379
_SOCKET_NAME = ".s.PGSQL.5432"
_STARTING_SECONDS = 60
# A network that leads nowhere, and a list of processes that ends as a whole: whatever the application started and left
# behind ends with the one that asks it for pages.
_WALLS = ("unshare", "--net", "--pid", "--fork", "--kill-child")
_WALLS_OF_OUR_OWN = ("unshare", "--user", "--map-root-user", *_WALLS[1:])


@dataclass(frozen=True)
class _Done:
    """What a stage came to.

    Attributes:
        message: One sentence.
        verdict: How it stands.
        value: What later stages use.
    """

    message: str
    verdict: Verdict = Verdict.OK
    value: Path | None = None


@dataclass
class WholePlatform:
    """What is restored beside the database while its scratch server runs, stage by stage.

    Attributes:
        platform: Whose; its `[drill]` says how the application starts.
        store: Its folder in the bucket.
        progress: Told how far it is.
        stages: What came of each so far.
    """

    platform: Platform
    store: Store
    progress: Progress
    stages: list[Stage]

    def restore(self, scratch: ScratchRestore) -> None:
        """Restore the rest of the set and let the application answer; for `climb_ladder`, while the server is up.

        Raises:
            TransientError: The store went away.
        """
        if not any(True for _ in scratch.targets):
            return  # the database itself did not restore, and that is what the drill says
        with ExitStack() as stack:
            uploads = self._do("uploaded files", lambda: self._restore_uploads(scratch))
            cache = self._do("redis", lambda: self._restore_cache(scratch, stack))
            self._do(APPLICATION, lambda: self._run_application(scratch, uploads.value, cache.value))

    def _do(self, name: str, work: Callable[[], _Done]) -> _Done:
        """One stage, timed; what is wrong is told, and the next one is tried all the same."""
        self.progress(Step(f"restoring: {name}"))
        started = time.monotonic()
        try:
            done = work()
        except TransientError:
            raise
        except KeepwellError as error:
            verdict = Verdict.ALERT if isinstance(error, VerificationFailed) else Verdict.UNKNOWN
            done = _Done(str(error), verdict)
        seconds = time.monotonic() - started
        self.stages.append(Stage(name=name, verdict=done.verdict, message=done.message, seconds=seconds))
        return done

    def _restore_uploads(self, scratch: ScratchRestore) -> _Done:
        if scratch.manifest.uploads is None:
            return _Done("The set holds no uploaded files.", Verdict.NOT_APPLICABLE)
        folder = scratch.spool / "uploads"
        restored = restore_uploads(self.store, scratch.manifest.backup_id, folder, self.progress)
        return _Done(f"{restored.files:,} files, each compared with its hash.", value=folder)

    def _restore_cache(self, scratch: ScratchRestore, stack: ExitStack) -> _Done:
        expected = scratch.manifest.cache
        if expected is None:
            return _Done("The set holds no keys of Redis.", Verdict.NOT_APPLICABLE)
        configured = self.platform.redis.server_program if self.platform.redis else None
        program = choose_cache_program(find_cache_programs(configured), expected.product)
        if program is None:
            return _Done("There is no redis-server or valkey-server here to restore into.", Verdict.UNKNOWN)
        folder = stack.enter_context(open_scratch(scratch.spool, CACHE_SCRATCH))
        isolation = isolate_program(str(program.path), folder)
        databases = max([0, *map(int, expected.databases)]) + 1
        server = stack.enter_context(throwaway_cache(program, folder, databases=databases, isolation=isolation))
        loader = KeyLoader(server, int(time.time() * 1000))
        stack.callback(loader.close)
        loaded = load_keys(scratch.manifest, scratch.reader, loader, self.progress)
        return _Done(_tell_keys(loaded), worst([Verdict.OK, *(one.verdict for one in loaded.findings)]), Path(server))

    def _run_application(self, scratch: ScratchRestore, uploads: Path | None, cache: Path | None) -> _Done:
        settings = self.platform.drill
        if not settings.application_command:
            message = "drill.application_command names none, so whether it would work on what came back is not known."
            return _Done(message, Verdict.WARN)
        missing = [stage.name for stage in self.stages if stage.verdict in (Verdict.ALERT, Verdict.UNKNOWN)]
        if missing:
            # It might help itself to the real ones.
            return _Done(f"Not started: {' and '.join(missing)} did not come back for it.", Verdict.UNKNOWN)
        walls = _WALLS if os.geteuid() == 0 else _WALLS_OF_OUR_OWN
        if shutil.which(walls[0]) is None or not command.succeeds((*walls, "true")):
            message = "This machine makes no network of its own for it, so the application was not started."
            return _Done(message, Verdict.UNKNOWN)
        place = conninfo_to_dict(next(target.conninfo for database, target in scratch.targets if database.is_main))
        files = uploads or _make(scratch.spool / "no-uploads")
        words = describe_place(place, files, cache, settings.application_port)
        case = Case(
            argv=tuple(_fill(word, words) for word in settings.application_command),
            environment=dict(_fill(one, words).split("=", 1) for one in settings.application_environment),
            folder=_make(scratch.spool / "application"),
            log=scratch.spool / "application.log",
            port=settings.application_port,
            paths=smoke_paths(self.platform.restore),
            wait_seconds=self.platform.restore.smoke_wait_seconds,
            relays={DATABASE_PORT: Path(str(place["host"])) / _SOCKET_NAME} | ({CACHE_PORT: cache} if cache else {}),
        )
        return _judge(_run(case, walls, scratch.spool))


def _judge(told: Told) -> _Done:
    wrong = [f"{path}: {fault}" for path, fault in told.faults.items() if fault]
    if not wrong:
        return _Done(f"Answered {', '.join(told.faults)} as it should, without a network.")
    ended = f" It had ended with exit code {told.exit_code}." if told.exit_code is not None else ""
    return _Done(f"The application does not serve: {'; '.join(wrong)}.{ended}", Verdict.ALERT)


def _tell_keys(loaded: LoadedKeys) -> str:
    results = loaded.results
    told = (
        f"{results.get(Comparison.EQUAL, 0):,} keys loaded and equal in type, expiry and value, "
        f"{results.get(Comparison.EXPIRED, 0):,} had expired meanwhile."
    )
    return " ".join([told, *(one.message for one in loaded.findings[:1])])


def rehearse_telling(platform: Platform, drill_id: str) -> Stage:
    """Tell every channel that this is a drill, so that they are known to work when it is none."""
    started = time.monotonic()
    message = Message(
        title=f"DRILL: {platform.name} is NOT down",
        cause=f"This is part of the restore drill {drill_id}. In a disaster, the first message would come this way.",
        still_safe="Everything. Nothing happened.",
        next_command="Nothing. If somebody who should have got this did not, mend notify.urls.",
        verdict=Verdict.OK,
    )
    outcomes = send(platform.notify, message).outcomes
    refused = [f"{one.channel} {one.reason}" for one in outcomes if not one.delivered]
    if not outcomes:
        verdict, told = Verdict.WARN, "No channel is configured (notify.urls), so in a disaster nobody would be told."
    elif refused:
        verdict, told = (
            Verdict.ALERT,
            f"{len(refused)} of {len(outcomes)} channels took no message: {'; '.join(refused)}.",
        )
    else:
        verdict, told = Verdict.OK, f"{len(outcomes)} channels took a message that is marked as a drill."
    return Stage(name="communication", verdict=verdict, message=told, seconds=time.monotonic() - started)


def describe_place(place: Mapping[str, object], uploads: Path, cache: Path | None, port: int) -> dict[str, str]:
    """What an application's call and variables may name in braces.

    Args:
        place: Of the restored main database, as libpq knows it.
        uploads: Folder of the restored files, or an empty one: never none, which could be taken for the real one.
        cache: Socket of the restored Redis; None where there is none.
        port: Where the application is to answer.
    """
    return {
        "port": str(port),
        "database_url": f"postgresql://{place['user']}@{HOST}:{DATABASE_PORT}/{place['dbname']}",
        "redis_url": f"redis://{HOST}:{CACHE_PORT}/0" if cache else "",
        "uploads": str(uploads),
    }


def _fill(text: str, words: Mapping[str, str]) -> str:
    """By hand: a brace that is none of ours stays as it is."""
    for name, value in words.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def _make(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    return folder


def _run(case: Case, walls: tuple[str, ...], spool: Path) -> Told:
    """Run the case behind walls; one that is not done in time is stopped, and that is an answer too.

    Raises:
        KeepwellError: The application could not be started in there.
    """
    document = spool / "application.json"
    document.touch(mode=0o600)
    document.write_text(case.model_dump_json(), encoding="utf-8")
    # Not as a prefix: our child is the one that is told of our death, and it takes all that is behind the walls along.
    argv = (*walls, sys.executable, "-m", "keepwell.drill.enclosed", str(document))
    call = Command(argv, name=Path(case.argv[0]).name)
    try:
        answer = command.run(call, timeout_seconds=case.wait_seconds + _STARTING_SECONDS)
    except ServiceUnavailable:
        fault = f"did not answer within {case.wait_seconds:.0f} s, and was stopped"
        return Told(faults={one.path: fault for one in case.paths}, exit_code=None)
    except CommandFailed as error:
        raise KeepwellError("The application could not be started.", hint=error.message) from error
    return Told.model_validate_json(answer)
