"""Reading keys whole: type, expiry, the server's own payload (DUMP), and a digest of the value that any server gives.

A payload restores a key exactly, but only onto a server that knows its format; the digest is made from what the value
reads as, so that two servers of different versions can be compared by it.
Source: the commands' own manuals, SCAN, DUMP, PEXPIRETIME, XINFO STREAM.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError, ResponseError
from redis.retry import Retry

from keepwell.cache.probe import connection_place, translate, translated
from keepwell.errors import PreconditionFailed
from keepwell.settings import RedisSettings

Product = Literal["redis", "valkey"]
# A redis.Redis, of which only what the driver leaves untyped is used.
RawClient = Any

# Keys are read many at a time, but never more than this much of them, and a large one alone.
_BATCH_KEYS = 100
_BATCH_BYTES = 4 * 1024 * 1024
_SCAN_COUNT = 500
_TRIES = 5
_CONNECT_SECONDS = 10
_ANSWER_SECONDS = 120
_SHOWN_PREFIX = 24


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key, as it was at one moment.

    Attributes:
        database: Number of its database.
        key: Its name.
        type: As TYPE says.
        expires_at_ms: Unix time by the server's clock; None when it does not expire.
        payload: What RESTORE takes.
        digest: SHA-256 of the value as it reads; None where it cannot be read.
        passing: Fields of a hash that expire by themselves; the digest leaves them out.
        unproven: Why there is no digest; empty otherwise.
    """

    database: int
    key: bytes
    type: str
    expires_at_ms: int | None
    payload: bytes
    digest: str | None
    passing: tuple[bytes, ...] = ()
    unproven: str = ""

    @property
    def told(self) -> str:
        """For people: names of keys may hold sessions, so no more of one is shown than what stands before a colon."""
        family = self.key.split(b":")[0] if b":" in self.key else b""
        shown = f"{family[:_SHOWN_PREFIX].decode(errors='backslashreplace')}:… " if family else ""
        name = hashlib.sha256(self.key).hexdigest()[:12]
        return f"the {self.type} {shown}(name's SHA-256 {name}, database {self.database})"

    def to_line(self) -> bytes:
        """As it is stored: JSON, without the line's end."""
        document = {
            "database": self.database,
            "key": _text(self.key),
            "type": self.type,
            "expires_at_ms": self.expires_at_ms,
            "payload": _text(self.payload),
            "digest": self.digest,
        }
        if self.passing:
            document["passing"] = [_text(field) for field in self.passing]
        if self.unproven:
            document["unproven"] = self.unproven
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def from_line(cls, line: bytes) -> "KeyRecord":
        """Read a stored line.

        Raises:
            ValueError: It is none.
        """
        try:
            document = json.loads(line)
            return cls(
                database=int(document["database"]),
                key=base64.b64decode(document["key"], validate=True),
                type=str(document["type"]),
                expires_at_ms=None if document["expires_at_ms"] is None else int(document["expires_at_ms"]),
                payload=base64.b64decode(document["payload"], validate=True),
                digest=document["digest"],
                passing=tuple(base64.b64decode(field, validate=True) for field in document.get("passing", ())),
                unproven=str(document.get("unproven", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            message = f"it is no key: {error!r}"
            raise ValueError(message) from None


@dataclass(frozen=True)
class ServerFacts:
    """What a server says of itself, and what it lets us ask.

    Attributes:
        product: Which of the two.
        version: Its own, such as `7.2.4`.
        databases: Numbers of those that hold keys.
        tells_expiry: Whether PEXPIRETIME is known.
        expires_fields: Whether fields of a hash may expire by themselves.
        tells_groups: Whether XINFO STREAM … FULL is known and allowed.
        libraries: How many libraries of functions it holds.
    """

    product: Product
    version: str
    databases: tuple[int, ...]
    tells_expiry: bool
    expires_fields: bool
    tells_groups: bool
    libraries: int


def connect_raw(database: int = 0, **address: Any) -> RawClient:
    """A client whose answers are as the server sent them; one connection, one try.

    Args:
        database: Which one.
        address: `host` and `port`, or `unix_socket_path`; `username` and `password`.
    """
    client = redis.Redis(
        db=database,
        protocol=2,
        decode_responses=False,
        single_connection_client=True,
        socket_connect_timeout=_CONNECT_SECONDS,
        socket_timeout=_ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 0),
        **address,
    )
    client.response_callbacks.clear()
    return client


def read_server(settings: RedisSettings) -> ServerFacts:
    """Log in and look whether every key could be read, before anything else is done.

    Raises:
        AccessDenied: Wrong login, or one that may not read keys whole.
        PreconditionFailed: It is a cluster, of which one server holds only a part.
        ServiceUnavailable: No answer.
    """
    with translated(_told(settings)), connect_to_database(settings, 0) as client:
        info = parse_info(client.execute_command("INFO"))
        if info.get("cluster_enabled") == "1":
            raise PreconditionFailed(
                f"{_told(settings)} is part of a cluster, and holds only some of its keys.",
                hint="Keepwell reads single servers: take [redis] out of the platform file; keep it by other means.",
            )
        client.execute_command("SCAN", 0, "COUNT", 1)
        client.execute_command("DUMP", b"keepwell: no such key")
        client.execute_command("MULTI")
        client.execute_command("EXEC")
        return describe_server(client, info)


def describe_server(client: RawClient, info: dict[str, str]) -> ServerFacts:
    """What INFO says, and what has to be tried."""
    valkey = info.get("valkey_version")
    redis_version = _numbers(info.get("redis_version", "0"))
    fields = _numbers(valkey) >= (9,) if valkey else redis_version >= (7, 4)
    databases = sorted(int(name[2:]) for name in info if re.fullmatch(r"db\d+", name))
    return ServerFacts(
        product="valkey" if valkey else "redis",
        version=valkey or info.get("redis_version", ""),
        databases=tuple(databases),
        tells_expiry=redis_version >= (7,),
        expires_fields=fields,
        tells_groups=_may_ask_groups(client),
        libraries=int(info.get("number_of_libraries", "0")),
    )


def read_keys(settings: RedisSettings, facts: ServerFacts) -> Iterator[KeyRecord]:
    """Every key of every database, as they come; one that moves while they are listed may come twice.

    A key that is there all the time comes at least once. One that goes meanwhile is left out.

    Raises:
        ServiceUnavailable: The server stopped answering.
        KeepwellError: It refused something.
    """
    for database in facts.databases:
        with connect_to_database(settings, database) as client:
            try:
                with suppress(ResponseError):
                    # So that reading everything once does not change what the server would evict first.
                    client.execute_command("CLIENT", "NO-TOUCH", "ON")
                yield from _read_database(client, database, facts)
            except RedisError as error:
                raise translate(error, _told(settings)) from error


def read_values(
    client: RawClient, keys: Sequence[bytes], facts: ServerFacts, *, database: int
) -> list[KeyRecord | None]:
    """Some keys whole, each at one moment; None for one that is not there."""
    found: dict[bytes, KeyRecord | None] = {}
    waiting = list(keys)
    for attempt in range(_TRIES):
        again = []
        for batch in _foresee(client, waiting, facts, alone=attempt > 0):
            for foreseen, replies in zip(batch, _ask_whole(client, batch, facts), strict=True):
                try:
                    found[foreseen.key] = _describe(foreseen, replies, facts, database)
                except _Changed:
                    again.append(foreseen.key)
        waiting = again
        if not waiting:
            break
    for key in waiting:
        found[key] = _read_payload(client, key, facts, database, "it changed each time that it was read")
    return [found.get(key) for key in keys]


def parse_info(answer: bytes) -> dict[str, str]:
    """What INFO says, by name."""
    pairs = (line.partition(":") for line in answer.decode(errors="replace").splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in pairs if colon}


def digest_value(kind: str, reply: Any, passing: Iterable[bytes] = ()) -> str | None:
    """SHA-256 of a value as it reads, the same for every server that holds the same value.

    Args:
        kind: As TYPE says.
        reply: The server's raw answer to the type's own reading command.
        passing: Fields of a hash that are left out.

    Returns:
        Hexadecimal; None for a type that is not known.
    """
    items = _ITEMS.get(kind)
    if items is None:
        return None
    digest = hashlib.sha256()
    for item in (kind.encode(), *items(reply, frozenset(passing))):
        digest.update(len(item).to_bytes(8, "big"))
        digest.update(item)
    return digest.hexdigest()


class _Changed(Exception):
    """A key is of another kind than it was a moment ago."""


@dataclass(frozen=True)
class _Foreseen:
    """A key, and what it was when it was looked at."""

    key: bytes
    kind: str
    fields: tuple[bytes, ...] = ()


def connect_to_database(settings: RedisSettings, database: int) -> RawClient:
    """A raw client, logged in to one database of a server."""
    return connect_raw(
        database,
        **connection_place(settings),
        username=settings.user,
        password=settings.password.get_secret_value() if settings.password else None,
    )


def _told(settings: RedisSettings) -> str:
    return f"Redis on {settings.place}"


def _may_ask_groups(client: RawClient) -> bool:
    try:
        client.execute_command("XINFO", "STREAM", b"keepwell: no such key", "FULL", "COUNT", 0)
    except NoPermissionError:
        return False
    except ResponseError as error:
        return "no such key" in str(error)
    return True


def _read_database(client: RawClient, database: int, facts: ServerFacts) -> Iterator[KeyRecord]:
    cursor = b"0"
    while True:
        cursor, keys = client.execute_command("SCAN", cursor, "COUNT", _SCAN_COUNT)
        once = list(dict.fromkeys(keys))
        for start in range(0, len(once), _BATCH_KEYS):
            found = read_values(client, once[start : start + _BATCH_KEYS], facts, database=database)
            yield from (record for record in found if record)
        if cursor == b"0":
            return


def _foresee(client: RawClient, keys: Sequence[bytes], facts: ServerFacts, *, alone: bool) -> Iterator[list[_Foreseen]]:
    """Look at keys, and put them together so that no batch is too large to be read at once."""
    kinds = [_word(answer) for answer in _pipe(client, [("TYPE", key) for key in keys])]
    sizes = _pipe(client, [("MEMORY", "USAGE", key) for key in keys])
    batch: list[_Foreseen] = []
    batch_bytes = 0
    for key, kind, size in zip(keys, kinds, sizes, strict=True):
        # A server that does not tell may hold anything under the key, so it is read alone.
        size_bytes = size if isinstance(size, int) else _BATCH_BYTES
        if batch and (alone or batch_bytes + size_bytes > _BATCH_BYTES):
            yield _with_fields(client, batch, facts)
            batch, batch_bytes = [], 0
        batch.append(_Foreseen(key, kind))
        batch_bytes += size_bytes
    if batch:
        yield _with_fields(client, batch, facts)


def _with_fields(client: RawClient, batch: list[_Foreseen], facts: ServerFacts) -> list[_Foreseen]:
    """The same batch; hashes with their fields, each of which may expire by itself."""
    hashes = [foreseen.key for foreseen in batch if foreseen.kind == "hash" and facts.expires_fields]
    answers = dict(zip(hashes, _pipe(client, [("HKEYS", key) for key in hashes]), strict=True))
    return [replace(one, fields=tuple(answers[one.key])) if _lists(answers.get(one.key)) else one for one in batch]


def _lists(answer: Any) -> bool:
    return isinstance(answer, list)


def _ask_whole(client: RawClient, batch: Sequence[_Foreseen], facts: ServerFacts) -> Iterator[list[Any]]:
    """Everything of some keys, in one transaction, so that each is as it was at one moment."""
    calls = [_calls(foreseen, facts) for foreseen in batch]
    answers = iter(_pipe(client, [call for one in calls for call in one], transaction=True))
    return iter([list(islice(answers, len(one))) for one in calls])


def _calls(foreseen: _Foreseen, facts: ServerFacts) -> list[tuple[Any, ...]]:
    key = foreseen.key
    calls: list[tuple[Any, ...]] = [("TYPE", key), ("DUMP", key)]
    calls += [("PEXPIRETIME", key)] if facts.tells_expiry else [("PTTL", key), ("TIME",)]
    if _is_readable(foreseen.kind, facts):
        calls.append(reading_call(foreseen.kind, key))
    if foreseen.fields:
        calls.append(("HPEXPIRETIME", key, "FIELDS", len(foreseen.fields), *foreseen.fields))
    return calls


def reading_call(kind: str, key: bytes) -> tuple[Any, ...]:
    """The command that reads a value of a known type."""
    before, after = _READS[kind]
    return (*before, key, *after)


def is_known(kind: str) -> bool:
    """Whether values of that type can be read and compared."""
    return kind in _READS


def _is_readable(kind: str, facts: ServerFacts) -> bool:
    return is_known(kind) and (kind != "stream" or facts.tells_groups)


def _describe(foreseen: _Foreseen, replies: list[Any], facts: ServerFacts, database: int) -> KeyRecord | None:
    answers = iter(replies)
    kind, payload = _word(next(answers)), next(answers)
    if payload is None:
        return None
    if kind != foreseen.kind:
        raise _Changed
    expires_at_ms = _expiry(answers, facts)
    record = KeyRecord(database, foreseen.key, kind, expires_at_ms, payload, None)
    if not _is_readable(kind, facts):
        why = "XINFO is not allowed or not known" if is_known(kind) else f"values of type {kind} cannot be compared"
        return replace(record, unproven=why)
    reply = next(answers)
    if isinstance(reply, RedisError):
        raise _Changed
    passing = _passing(foreseen, reply, next(answers, [])) if kind == "hash" and facts.expires_fields else ()
    return replace(record, digest=digest_value(kind, reply, passing), passing=passing)


def _passing(foreseen: _Foreseen, reply: list[bytes], expiries: Any) -> tuple[bytes, ...]:
    """Fields that expire by themselves.

    Raises:
        _Changed: The hash has other fields than those that were asked about.
    """
    if set(reply[::2]) - set(foreseen.fields) or not isinstance(expiries, list):
        raise _Changed
    return tuple(field for field, at in zip(foreseen.fields, expiries, strict=True) if at is not None and at > 0)


def _expiry(answers: Iterator[Any], facts: ServerFacts) -> int | None:
    if facts.tells_expiry:
        at_ms = next(answers)
        return at_ms if at_ms > 0 else None
    left_ms, (seconds, microseconds) = next(answers), next(answers)
    return left_ms + int(seconds) * 1000 + int(microseconds) // 1000 if left_ms >= 0 else None


def _read_payload(client: RawClient, key: bytes, facts: ServerFacts, database: int, why: str) -> KeyRecord | None:
    """A key without its digest."""
    kind, payload, *rest = _pipe(client, _calls(_Foreseen(key, ""), facts), transaction=True)
    if payload is None:
        return None
    return KeyRecord(database, key, _word(kind), _expiry(iter(rest), facts), payload, None, unproven=why)


def _pipe(client: RawClient, calls: Sequence[tuple[Any, ...]], *, transaction: bool = False) -> list[Any]:
    """The raw answers to some commands, errors of single ones among them."""
    if not calls:
        return []
    pipeline = client.pipeline(transaction=transaction)
    for call in calls:
        pipeline.execute_command(*call)
    return list(pipeline.execute(raise_on_error=False))


_READS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "string": (("GET",), ()),
    "list": (("LRANGE",), (0, -1)),
    "set": (("SMEMBERS",), ()),
    "zset": (("ZRANGE",), (0, -1, "WITHSCORES")),
    "hash": (("HGETALL",), ()),
    "stream": (("XINFO", "STREAM"), ("FULL", "COUNT", 0)),
}


def _string_items(reply: Any, passing: frozenset[bytes]) -> Iterator[bytes]:
    del passing
    yield reply


def _list_items(reply: Any, passing: frozenset[bytes]) -> Iterator[bytes]:
    del passing
    yield from reply


def _set_items(reply: Any, passing: frozenset[bytes]) -> Iterator[bytes]:
    del passing
    yield from sorted(reply)


def _zset_items(reply: Any, passing: frozenset[bytes]) -> Iterator[bytes]:
    """Scores as the bits that they are: servers write the same number in different ways."""
    del passing
    for member, score in sorted(zip(reply[::2], reply[1::2], strict=True)):
        yield member
        yield float(score).hex().encode()


def _hash_items(reply: Any, passing: frozenset[bytes]) -> Iterator[bytes]:
    for field, value in sorted(zip(reply[::2], reply[1::2], strict=True)):
        if field not in passing:
            yield field
            yield value


def _stream_items(reply: Any, passing: frozenset[bytes]) -> Iterator[bytes]:
    """Entries, then groups with what they have delivered and to whom; not when a consumer was last seen."""
    del passing
    stream = _paired(reply)
    yield stream[b"last-generated-id"]
    for entry_id, pairs in stream[b"entries"]:
        yield entry_id
        yield str(len(pairs)).encode()
        yield from pairs
    for group in sorted(map(_paired, stream[b"groups"]), key=lambda group: group[b"name"]):
        yield b"group"
        yield group[b"name"]
        yield group[b"last-delivered-id"]
        for pending in group[b"pending"]:
            yield from (_bytes(value) for value in pending)
        for consumer in sorted(map(_paired, group[b"consumers"]), key=lambda one: one[b"name"]):
            yield b"consumer"
            yield consumer[b"name"]


_ITEMS: dict[str, Callable[[Any, frozenset[bytes]], Iterator[bytes]]] = {
    "string": _string_items,
    "list": _list_items,
    "set": _set_items,
    "zset": _zset_items,
    "hash": _hash_items,
    "stream": _stream_items,
}


def _paired(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _word(answer: Any) -> str:
    return answer.decode() if isinstance(answer, bytes) else ""


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _numbers(version: str | None) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version or "0"))
