"""The engine as flows see it, replaced at its seam: it records what is called, and each answer can be set."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from backup_documents import a_manifest, a_proof, documents
from memory_store import MemoryStore
from pydantic import SecretStr

from keepwell.backup.carry import Carried
from keepwell.backup.manifest import Manifest
from keepwell.backup.preflight import Readiness
from keepwell.backup.proof import Proof
from keepwell.destination import Destination
from keepwell.evidence import Evidence, read_last_evidence
from keepwell.notify import ChannelOutcome, Delivery, Message
from keepwell.progress import Step
from keepwell.settings import (
    BackupSettings,
    BucketSettings,
    DatabaseSettings,
    NotifySettings,
    Platform,
    SecondFolderSettings,
)

SECRET = "marked-secret/of the database%7"
URL_TOKEN = "Marked0Token0Of0A0Channel"


def a_platform() -> Platform:
    return Platform.model_construct(
        name="esn",
        database=DatabaseSettings(name="esn_db", user="esn", password=SecretStr(SECRET)),
        bucket=BucketSettings(
            name="b", access_key_id=SecretStr("AKIDMARKED"), secret_access_key=SecretStr("s3-marked-key")
        ),
        redis=None,
        uploads=None,
        backup=BackupSettings(),
        notify=NotifySettings(urls=(SecretStr(f"json://user:marked-pass@chat.example/{URL_TOKEN}/"),)),
    )


@dataclass
class Engine:
    """What the flows call, recorded; each answer can be replaced."""

    store: MemoryStore = field(default_factory=MemoryStore)
    second: MemoryStore = field(default_factory=MemoryStore)
    platform: Platform = field(default_factory=a_platform)
    calls: list[str] = field(default_factory=list)
    held: bool = False
    sets_held: bool = False
    ready: Callable[[], None] = lambda: None
    second_proof: Callable[[datetime], Proof] = field(default=a_proof)
    carried: Callable[[], None] = lambda: None
    write: Callable[[], Manifest] = field(default=lambda: a_manifest(datetime.now(UTC).replace(microsecond=0)))
    proof: Callable[[datetime], Proof] = field(default=a_proof)
    pinged: int = 0
    sent: list[Message] = field(default_factory=list)
    channels: tuple[bool, ...] = (True,)

    @property
    def stores(self) -> dict[Destination, MemoryStore]:
        """Each destination's."""
        return {Destination.FIRST: self.store, Destination.SECOND: self.second}

    def configure_second(self) -> None:
        """Give the platform a second destination."""
        settings = SecondFolderSettings(directory=Path("/second"))
        self.platform = self.platform.model_copy(update={"second_folder": settings})

    def add_set(self, age: timedelta = timedelta(hours=7), **proof: Any) -> str:
        """A stored and, unless told otherwise, proven set."""
        at = (datetime.now(UTC) - age).replace(microsecond=0)
        manifest = a_manifest(at)
        self.store.objects |= documents(manifest, a_proof(at, **proof))
        return manifest.backup_id

    def evidence(self, item: str) -> Evidence:
        found = read_last_evidence(self.store, item)
        assert found is not None
        return found

    @contextmanager
    def hold(self, *_: object, **__: object) -> Iterator["Engine"]:
        self.calls.append("hold")
        self.held = True
        try:
            yield self
        finally:
            self.held = False
            self.calls.append("release")

    def renew(self) -> bool:
        """As the real hold: whether it had been lost, and was taken again."""
        lost, self.held = not self.held, True
        if lost:
            self.calls.append("hold again")
        return lost

    def require_ready(self, platform: Platform, progress: Callable[[Step], None]) -> Readiness:
        self.calls.append("require ready")
        self.ready()
        return Readiness(client=None, main=None, findings=())  # type: ignore[arg-type]

    def create(self, platform: Platform, store: object, progress: Callable[[Step], None]) -> Manifest:
        self.calls.append("write")
        assert self.held
        progress(Step("dumping", 1, 2, "bytes"))
        manifest = self.write()
        self.store.objects |= documents(manifest)
        return manifest

    def verify(
        self,
        platform: Platform,
        store: MemoryStore,
        backup_id: str,
        progress: Callable[[Step], None],
        *,
        all_uploads: bool,
    ) -> Proof:
        in_second = " in the second" if store is self.second else ""
        self.calls.append(f"prove every upload{in_second}" if all_uploads else f"prove{in_second}")
        assert not self.held
        assert self.sets_held
        progress(Step("proving", 1, 7, "levels"))
        manifest = Manifest.from_json(store.objects[f"backups/{backup_id}/manifest.json"])
        proof = (self.second_proof if in_second else self.proof)(manifest.snapshot_at)
        store.objects |= documents(manifest, proof)
        return proof

    def carry(
        self, source: MemoryStore, target: MemoryStore, backup_id: str, progress: Callable[[Step], None]
    ) -> Carried:
        self.calls.append(f"carry {backup_id}")
        assert (source, target) == (self.store, self.second)
        assert not self.held
        self.carried()
        manifest = Manifest.from_json(source.objects[f"backups/{backup_id}/manifest.json"])
        target.objects |= documents(manifest)
        return Carried(backup_id, 3, 3, 0, 0, 1000, 0.1)

    @contextmanager
    def hold_carrying(self, *_: object) -> Iterator[None]:
        yield

    @contextmanager
    def hold_sets(self, *_: object) -> Iterator[None]:
        self.sets_held = True
        yield
        self.sets_held = False

    def ping(self, platform: Platform) -> bool:
        self.calls.append("ping")
        self.pinged += 1
        return True

    def send(self, settings: NotifySettings, message: Message) -> Delivery:
        self.sent.append(message)
        return Delivery(tuple(ChannelOutcome(f"{n} json", taken, "refused") for n, taken in enumerate(self.channels)))


def failing(*errors: Exception, then: Callable[[], Any]) -> Callable[[], Any]:
    """Raise each error once, then answer."""
    waiting = list(errors)

    def answer() -> Any:
        if waiting:
            raise waiting.pop(0)
        return then()

    return answer
