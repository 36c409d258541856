"""The engine as flows see it, replaced at its seam: it records what is called, and each answer can be set."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from backup_documents import a_manifest, a_proof, documents
from memory_store import MemoryStore
from pydantic import SecretStr

from keepwell.backup.manifest import Manifest
from keepwell.backup.preflight import Readiness
from keepwell.backup.proof import Proof
from keepwell.evidence import Evidence, read_last_evidence
from keepwell.notify import ChannelOutcome, Delivery, Message
from keepwell.progress import Step
from keepwell.settings import BackupSettings, BucketSettings, DatabaseSettings, NotifySettings, Platform

SECRET = "marked-secret/of the database%7"
URL_TOKEN = "Marked0Token0Of0A0Channel"


@dataclass
class Engine:
    """What the flows call, recorded; each answer can be replaced."""

    store: MemoryStore = field(default_factory=MemoryStore)
    calls: list[str] = field(default_factory=list)
    held: bool = False
    sets_held: bool = False
    ready: Callable[[], None] = lambda: None
    write: Callable[[], Manifest] = field(default=lambda: a_manifest(datetime.now(UTC).replace(microsecond=0)))
    proof: Callable[[datetime], Proof] = field(default=a_proof)
    pinged: int = 0
    sent: list[Message] = field(default_factory=list)
    channels: tuple[bool, ...] = (True,)

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
        store: object,
        backup_id: str,
        progress: Callable[[Step], None],
        *,
        all_uploads: bool,
    ) -> Proof:
        self.calls.append("prove every upload" if all_uploads else "prove")
        assert not self.held
        assert self.sets_held
        progress(Step("proving", 1, 7, "levels"))
        manifest = Manifest.from_json(self.store.objects[f"backups/{backup_id}/manifest.json"])
        proof = self.proof(manifest.snapshot_at)
        self.store.objects |= documents(manifest, proof)
        return proof

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


def failing(*errors: Exception, then: Callable[[], Any]) -> Callable[[], Any]:
    """Raise each error once, then answer."""
    waiting = list(errors)

    def answer() -> Any:
        if waiting:
            raise waiting.pop(0)
        return then()

    return answer
