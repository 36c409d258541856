"""Loading archived keys into a scratch server and comparing what they read as there, a few at a time.

What was compared is taken out again at once, so that the scratch server never holds more than a few keys.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from redis.exceptions import RedisError

from keepwell.cache.keys import KeyRecord, RawClient, connect_raw, digest_value, is_known, reading_call
from keepwell.cache.probe import translate

# A key that expires sooner than this is loaded without its expiry, else it might be gone before it is looked at.
_SOON_MS = 60_000
# Redis' own: CRC-64/Jones, reflected, which ends each payload.
_POLYNOMIAL = 0x95AC9329AC4BC9B5
_FOOTER_BYTES = 10


class Comparison(StrEnum):
    """How one key came back."""

    EQUAL = "equal"
    DIFFERENT = "different"
    NOT_TAKEN = "not taken"
    UNPROVEN = "unproven"
    EXPIRED = "expired"


@dataclass(frozen=True)
class ComparedKey:
    """One key and how it came back.

    Attributes:
        comparison: `not taken` means that this server does not know the payload's format, which says nothing of the
            key; `unproven` that its value cannot be compared by anybody; `expired` that its time has come since.
        why: What is wrong; empty when nothing is.
    """

    record: KeyRecord
    comparison: Comparison
    why: str = ""


class ScratchKeys(ABC):
    """Puts archived keys into one scratch server, and compares what they read as there.

    Args:
        socket: Of the server.
        now_ms: Unix time.
    """

    def __init__(self, socket: str, now_ms: int) -> None:
        self._socket, self._now_ms = socket, now_ms
        self._clients: dict[int, RawClient] = {}

    def close(self) -> None:
        """Let go of the server."""
        for client in self._clients.values():
            client.close()

    def compare(self, records: Sequence[KeyRecord]) -> list[ComparedKey]:
        """Load some keys and read them.

        Raises:
            ServiceUnavailable: The server died.
        """
        try:
            return [self._compare_one(self._client(record.database), record) for record in records]
        except RedisError as error:
            raise translate(error, "The scratch server for Redis") from error

    @abstractmethod
    def _compare_one(self, client: RawClient, record: KeyRecord) -> ComparedKey:
        """Load one key, and read it."""

    def _client(self, database: int) -> RawClient:
        if database not in self._clients:
            self._clients[database] = connect_raw(database, unix_socket_path=self._socket)
        return self._clients[database]


class CacheRehearsal(ScratchKeys):
    """Compares archived keys, and takes each out again."""

    def _compare_one(self, client: RawClient, record: KeyRecord) -> ComparedKey:
        if record.digest is None or not is_known(record.type):
            return ComparedKey(record, Comparison.UNPROVEN, record.unproven or f"type {record.type}")
        restored, kind, expiry, reply, _ = self._ask(client, record)
        if isinstance(restored, RedisError):
            return describe_refusal(record, str(restored))
        if _word(kind) != record.type:
            return ComparedKey(record, Comparison.DIFFERENT, f"came back as {_word(kind) or 'nothing'}")
        if self._keeps_expiry(record) and expiry != record.expires_at_ms:
            return ComparedKey(record, Comparison.DIFFERENT, "expires at another time")
        if isinstance(reply, RedisError) or digest_value(record.type, reply, record.passing) != record.digest:
            return ComparedKey(record, Comparison.DIFFERENT, "has another value")
        return ComparedKey(record, Comparison.EQUAL)

    def _ask(self, client: RawClient, record: KeyRecord) -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        if self._keeps_expiry(record):
            pipeline.execute_command("RESTORE", record.key, record.expires_at_ms, record.payload, "REPLACE", "ABSTTL")
        else:
            pipeline.execute_command("RESTORE", record.key, 0, record.payload, "REPLACE")
        pipeline.execute_command("TYPE", record.key)
        pipeline.execute_command("PEXPIRETIME", record.key)
        pipeline.execute_command(*reading_call(record.type, record.key))
        pipeline.execute_command("DEL", record.key)
        return list(pipeline.execute(raise_on_error=False))

    def _keeps_expiry(self, record: KeyRecord) -> bool:
        return record.expires_at_ms is not None and record.expires_at_ms > self._now_ms + _SOON_MS


def payload_is_whole(payload: bytes) -> bool:
    """Whether a payload fits its own checksum, so that a server which refuses it does not know its format."""
    content, expected = payload[:-8], payload[-8:]
    if len(payload) < _FOOTER_BYTES:
        return False
    checksum, table = 0, _table()
    for byte in content:
        checksum = table[(checksum ^ byte) & 0xFF] ^ (checksum >> 8)
    return checksum.to_bytes(8, "little") == expected


def describe_refusal(record: KeyRecord, said: str) -> ComparedKey:
    """A key whose payload a server refused: the payload's fault, or a format that the server does not know."""
    if not payload_is_whole(record.payload):
        return ComparedKey(record, Comparison.DIFFERENT, "has a payload that does not fit its checksum")
    version = int.from_bytes(record.payload[-_FOOTER_BYTES:-8], "little")
    return ComparedKey(record, Comparison.NOT_TAKEN, f"has a payload of RDB version {version}: {said}")


@cache
def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


def _word(answer: Any) -> str:
    return answer.decode() if isinstance(answer, bytes) else ""
