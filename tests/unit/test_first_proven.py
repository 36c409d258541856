import json
from datetime import UTC, datetime, timedelta

import pytest
from backup_documents import a_manifest, a_proof
from memory_store import MemoryStore
from stored_sets import documents, put_set

from keepwell.backup import layout
from keepwell.backup.first_proven import FirstProven, tell_first_proven
from keepwell.backup.proof import Proof
from keepwell.errors import AccessDenied
from keepwell.notify import ChannelOutcome, Delivery, Message
from keepwell.settings import BackupSettings, NotifySettings, Platform
from keepwell.verdict import Verdict

AT = datetime(2026, 3, 1, 2, 15, tzinfo=UTC)
PLATFORM = Platform.model_construct(name="esn", backup=BackupSettings(), notify=NotifySettings())


class Channels:
    """Takes messages, or refuses them."""

    def __init__(self, *taken: bool) -> None:
        self.taken, self.messages = taken, list[Message]()

    def __call__(self, settings: NotifySettings, message: Message) -> Delivery:
        self.messages.append(message)
        return Delivery(tuple(ChannelOutcome(f"{n} json", taken, "refused") for n, taken in enumerate(self.taken)))


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.objects |= documents(a_manifest(AT), a_proof(AT))
    return store


def tell(store: MemoryStore, channels: Channels, proof: Proof | None = None) -> Delivery | None:
    return tell_first_proven(PLATFORM, store, proof or a_proof(AT), sender=channels)


def test_it_is_told_once_and_the_store_remembers_it(store: MemoryStore) -> None:
    channels = Channels(True)
    assert tell(store, channels) is not None
    assert tell(store, channels) is None
    (message,) = channels.messages
    assert (message.title, message.verdict) == ("esn: backups are proven", Verdict.OK)
    mark = FirstProven.from_json(store.objects[layout.FIRST_PROVEN])
    assert mark.backup_id == a_manifest(AT).backup_id
    assert json.loads(store.objects[layout.FIRST_PROVEN])["format_version"] == 1


def test_a_set_with_older_ones_beside_it_is_not_called_the_first(store: MemoryStore) -> None:
    """After an upgrade from a release that told nobody."""
    put_set(store, AT + timedelta(days=1))
    alone, upgraded = Channels(False), Channels(True)
    tell(store, alone)
    put_set(store, AT - timedelta(days=90))
    tell(store, upgraded)
    causes = [message.cause for channels in (alone, upgraded) for message in channels.messages]
    assert [cause.partition(" (")[0] for cause in causes] == ["The first backup", "The backup"]


@pytest.mark.parametrize(("taken", "again"), [((), True), ((False,), True), ((False, True), False)])
def test_what_nobody_heard_is_told_by_the_next_proven_backup(
    store: MemoryStore, taken: tuple[bool, ...], again: bool
) -> None:
    tell(store, Channels(*taken))
    later = Channels(True)
    assert (tell(store, later) is not None) is again
    assert len(later.messages) == again


def test_a_run_that_is_killed_behind_the_message_tells_it_again_rather_than_never(store: MemoryStore) -> None:
    def killed(key: str, content: bytes) -> None:
        raise KeyboardInterrupt

    first, store.put_bytes = Channels(True), killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        tell(store, first)
    del store.put_bytes  # type: ignore[method-assign]
    second = Channels(True)
    tell(store, second)
    assert (len(first.messages), len(second.messages)) == (1, 1)


def test_a_set_that_is_not_proven_is_nothing_to_tell(store: MemoryStore) -> None:
    channels = Channels(True)
    assert tell(store, channels, a_proof(AT, reached="restored", stopped_by=Verdict.ALERT)) is None
    assert (channels.messages, layout.FIRST_PROVEN in store.objects) == ([], False)


def test_a_machine_that_only_reads_tells_nothing_that_it_could_not_remember(store: MemoryStore) -> None:
    store.may_write = False
    channels = Channels(True)
    assert tell(store, channels) is None
    assert channels.messages == []


def test_a_store_that_keeps_no_mark_is_heard(store: MemoryStore) -> None:
    def refuse(key: str, content: bytes) -> None:
        raise AccessDenied("This key may not write here.")

    store.put_bytes = refuse  # type: ignore[method-assign]
    with pytest.raises(AccessDenied):
        tell(store, Channels(True))
