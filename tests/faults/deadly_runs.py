"""A platform whose runs die: its bucket, its database, its temporary folders, and what must hold after each death."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from backup_sets import prove
from real_servers import Server, build_platform, fresh_database
from waiting import wait_until

from keepwell.backup import layout
from keepwell.backup.catalogue import BackupEntry, read_catalogue, read_manifest
from keepwell.backup.read_back import check_uploaded
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.store import Store
from keepwell.postgres.advisory_locks import AdvisoryLocks
from keepwell.settings import BucketSettings, Platform, RedisSettings, UploadsSettings

SCRIPT = Path(__file__).parent / "runs_that_die.py"
_GONE_SECONDS = 20


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code (-9 when it was killed), what it did, which set it wrote, and that set's level."""

    status: int
    effects: tuple[str, ...]
    wrote: str | None
    reached: str | None


@dataclass
class Doomed:
    """A platform of its own, whose runs are forks of one process.

    Attributes:
        proven: Ids of the sets that were proven, none of which may ever be lost.
    """

    platform: Platform
    server: Server
    store: Store
    folder: Path
    process: "subprocess.Popen[str]"
    proven: set[str] = field(default_factory=set)

    @property
    def uploads(self) -> Path:
        """The uploads folder."""
        assert self.platform.uploads is not None
        return self.platform.uploads.directory

    @property
    def places(self) -> tuple[Path, Path]:
        """Where a run leaves temporary files."""
        assert self.platform.backup.spool_directory is not None
        return self.platform.backup.spool_directory, self.folder / "tmp"

    def run(self, *, backup: bool = True, prove: bool | str = True, **order: object) -> Ended:
        """One run to its end, whatever that is.

        Args:
            backup: Whether a set is written.
            prove: Whether it is proven; an id proves that set.
            order: `strike` or `after_seconds`, as runs_that_die.py takes them.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        order |= {"platform": str(self.folder / "platform.pickle"), "backup": backup, "prove": prove}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        effects: list[str] = []
        told: dict[str, str] = {}
        for line in self.process.stdout:
            word, _, rest = line.rstrip("\n").partition(" ")
            if word in ("before", "after"):
                effects.append(f"{word} {rest}")
            else:
                told[word] = rest
            if word == "ended":
                return Ended(int(rest), tuple(effects), told.get("wrote"), told.get("reached"))
        raise AssertionError("the process that runs are forked from is gone")

    def entries(self) -> list[BackupEntry]:
        """Every set that is listed."""
        return read_catalogue(self.store)

    def require_no_false_set(self, told: str) -> None:
        """Wherever a run died: no proven set is lost, none is listed as proven that is not, listed ones are whole."""
        entries = self.entries()
        listed = {entry.backup_id for entry in entries if entry.is_proven("equal")}
        assert self.proven <= listed, f"{told}: a proven set is lost"
        for entry in entries:
            assert entry.manifest is not None, f"{told}: {entry.backup_id} is listed, and {entry.fault}"
            stored = list(self.store.list_objects(layout.set_folder(entry.backup_id)))
            assert list(check_uploaded(entry.manifest, stored)) == [], f"{told}: {entry.backup_id} is not whole"
        for backup_id in listed - self.proven:
            # Its run came as far as the proof's last byte: then it must be what it says.
            assert read_manifest(self.store, backup_id).backup_id == backup_id
            assert prove(self.platform, backup_id).reached == "serving", f"{told}: {backup_id} is not proven at all"
            self.proven.add(backup_id)

    def recover(self, told: str) -> None:
        """The next run succeeds, and proves its set to the last level."""
        ended = self.run()
        assert (ended.status, ended.reached) == (0, "serving"), f"{told}: the next run did not succeed"
        assert ended.wrote is not None
        self.proven.add(ended.wrote)

    def prove_what_was_left(self, told: str) -> None:
        """Sets whose runs died before they were proven are as good as any."""
        for backup_id in [e.backup_id for e in self.entries() if e.backup_id not in self.proven]:
            assert self.run(backup=False, prove=backup_id).reached == "serving", f"{told}: {backup_id} is not proven"
            self.proven.add(backup_id)

    def require_nothing_left(self, told: str) -> None:
        """After a run that succeeded: nothing of the dead ones is left, in bucket, machine or database."""
        listed = {entry.backup_id for entry in self.entries()}
        stored = list(self.store.list_objects(""))
        marks = (layout.UNFINISHED, layout.EXPIRING)
        assert [found.key for found in stored if found.key.startswith(marks)] == [], told
        folders = {found.key.split("/")[1] for found in stored if found.key.startswith(layout.BACKUPS)}
        assert folders == listed, f"{told}: objects of no set are left"
        begun = self.store.client.list_multipart_uploads(Bucket=self.store.bucket, Prefix=self.store.key(""))
        assert "Uploads" not in begun, f"{told}: an upload is left unfinished"
        wait_until(lambda: not self._sessions(), _GONE_SECONDS, told=f"{told}: sessions are left")
        wait_until(lambda: not self._processes(), _GONE_SECONDS, told=f"{told}: processes are left")
        left = [path.name for place in self.places for path in place.iterdir() if not _is_just_made(path)]
        assert left == [], f"{told}: temporary files are left"

    def forget_sets(self) -> None:
        """Remove all but a proven set, so that the bucket stays small."""
        keep = max(self.proven)
        for backup_id in {entry.backup_id for entry in self.entries()} - {keep}:
            self.store.delete([found.key for found in self.store.list_objects(layout.set_folder(backup_id))])
        self.proven = {keep}

    def _sessions(self) -> list[tuple[object, ...]]:
        with self.server.connect() as connection:
            return connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = %s AND application_name LIKE 'keepwell%%'"
                " UNION ALL"
                " SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND classid = %s::oid",
                (self.platform.database.name, AdvisoryLocks(connection, self.platform.name)._space & 0xFFFFFFFF),
            ).fetchall()

    def _processes(self) -> list[str]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            if int(entry.name) in (os.getpid(), self.process.pid):
                continue
            try:
                call = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            found += [call.decode(errors="replace") for place in self.places if os.fsencode(place) in call]
        return found


@contextmanager
def doomed_platform(
    server: Server, bucket: BucketSettings, redis: RedisSettings, folder: Path, sql: Sequence[str]
) -> Iterator[Doomed]:
    """A platform with a database of its own, and the process whose forks run its backups.

    Args:
        server: Its database server.
        bucket: Where its sets go.
        redis: Its Redis.
        folder: Empty, for the uploads folder and for temporary files; the platform bears its name.
        sql: What its database is made of.
    """
    for name in ("uploads", "tmp", "spool"):
        (folder / name).mkdir()
    with fresh_database(server) as database:
        with server.connect(database) as connection:
            for statement in sql:
                connection.execute(statement)
        uploads = UploadsSettings(directory=folder / "uploads")
        platform = build_platform(server, database, bucket, folder / "spool", redis=redis, uploads=uploads)
        # Of another name, so that the runs of two do not wait for each other.
        platform = platform.model_copy(update={"name": folder.name})
        (folder / "platform.pickle").write_bytes(pickle.dumps(platform))
        call = [sys.executable, str(SCRIPT), str(folder / "tmp")]
        with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            yield Doomed(platform, server, open_store(platform), folder, process)


def _is_just_made(path: Path) -> bool:
    """Whether a run died between making a folder and locking it, which a sweep takes for dead only when it is old."""
    return path.is_dir() and not (path / "lock").exists() and not any(path.glob("scratch*"))
