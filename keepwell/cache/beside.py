"""Loading archived keys into an empty database of a server in use, and reading each back; no other is touched."""

from collections.abc import Sequence

from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

from keepwell.cache.keys import KeyRecord, RawClient, ServerFacts, connect_to_database, parse_info, read_values
from keepwell.cache.probe import translate, translated
from keepwell.cache.rehearsal import ComparedKey, Comparison, describe_refusal
from keepwell.errors import PreconditionFailed
from keepwell.quantities import describe_bytes
from keepwell.settings import RedisSettings

# How many keys one command removes.
_REMOVED_AT_ONCE = 500
# What the server says of the login or of itself, and not of a key.
_REFUSING = (NoPermissionError, OutOfMemoryError, ReadOnlyError)


def require_empty(settings: RedisSettings, database: int, *, needed_bytes: int) -> None:
    """Look whether a database of the server can get keys: it is there, it is empty, and nothing would be evicted.

    Args:
        settings: Which server.
        database: Number of the database.
        needed_bytes: About how much will be loaded.

    Raises:
        PreconditionFailed: One of these is not so.
    """
    told = f"Redis on {settings.place}"
    with translated(told):
        try:
            client = connect_to_database(settings, database)
            keys = client.execute_command("DBSIZE")
        except ResponseError as error:
            if "DB index" not in str(error):
                raise
            raise PreconditionFailed(
                f"{told} has no database {database}.", hint="Name a lower number; its configuration says how many."
            ) from error
        with client:
            memory = parse_info(client.execute_command("INFO", "memory"))
    if keys:
        raise PreconditionFailed(
            f"Database {database} of {told} holds {keys} keys already.",
            hint="Name an empty one; keys that an application uses are never written over.",
        )
    limit, used = int(memory.get("maxmemory", "0")), int(memory.get("used_memory", "0"))
    if limit and used + needed_bytes > limit:
        raise PreconditionFailed(
            f"{told} may use {describe_bytes(limit)} and uses {describe_bytes(used)}: about "
            f"{describe_bytes(needed_bytes)} more would make it evict or refuse live keys.",
            hint="Raise its maxmemory for a while, or load them into another server.",
        )


class BesideLoader:
    """Loads keys, a few at a time, and compares what reads back.

    Args:
        settings: Which server.
        facts: What it says of itself.
        source: Number of the archived database whose keys are loaded; others are passed over.
        target: Number of the empty one that gets them.
        now_ms: Unix time; what had expired by then is not loaded.

    Attributes:
        written_meanwhile: A key that somebody else wrote there since, for people; it was left as it is. Empty
            otherwise.
    """

    def __init__(self, settings: RedisSettings, facts: ServerFacts, *, source: int, target: int, now_ms: int) -> None:
        self._told, self._facts = f"Redis on {settings.place}", facts
        self._source, self._target, self._now_ms = source, target, now_ms
        self._client: RawClient = connect_to_database(settings, target)
        self._loaded: list[bytes] = []
        self.written_meanwhile = ""

    def close(self) -> None:
        """Let go of the server."""
        self._client.close()

    def compare(self, records: Sequence[KeyRecord]) -> list[ComparedKey]:
        """Load some keys and read them back.

        Raises:
            AccessDenied: The login may not write.
            PreconditionFailed: Somebody else writes keys there.
            ServiceUnavailable: The server went away.
        """
        wanted = [one for one in records if one.database == self._source]
        try:
            expired = [one for one in wanted if one.expires_at_ms is not None and one.expires_at_ms <= self._now_ms]
            living = [one for one in wanted if one not in expired]
            pipeline = self._client.pipeline(transaction=False)
            for one in living:
                call = ("RESTORE", one.key, one.expires_at_ms or 0, one.payload)  # never over a key that is there
                pipeline.execute_command(*call, *(("ABSTTL",) if one.expires_at_ms else ()))
            answers = list(pipeline.execute(raise_on_error=False)) if living else []
            self._note_loaded(living, answers)
            read = read_values(self._client, [one.key for one in living], self._facts, database=self._target)
        except RedisError as error:
            raise translate(error, self._told) from error
        compared = [ComparedKey(one, Comparison.EXPIRED) for one in expired]
        return compared + [self._judge(*one) for one in zip(living, answers, read, strict=True)]

    def take_back(self) -> int:
        """Remove the keys that were loaded here, and no other.

        Returns:
            How many there were.

        Raises:
            KeepwellError: The server went away, or does not let us.
        """
        try:
            for start in range(0, len(self._loaded), _REMOVED_AT_ONCE):
                self._client.execute_command("DEL", *self._loaded[start : start + _REMOVED_AT_ONCE])
        except RedisError as error:
            raise translate(error, self._told) from error
        removed, self._loaded = len(self._loaded), []
        return removed

    def _note_loaded(self, living: Sequence[KeyRecord], answers: Sequence[object]) -> None:
        """Remember what is there by us; stop where the server refuses, or a key was there already."""
        told = list(zip(living, answers, strict=True))
        self._loaded += [one.key for one, answer in told if not isinstance(answer, RedisError)]
        for one, answer in told:
            if not isinstance(answer, RedisError):
                continue
            said = str(answer)
            if said.startswith("BUSYKEY"):
                self.written_meanwhile = one.told
                raise PreconditionFailed(f"{one.told} was written by somebody else meanwhile.")
            if isinstance(answer, _REFUSING) or said.startswith("NOAUTH"):
                raise answer

    def _judge(self, record: KeyRecord, answer: object, found: KeyRecord | None) -> ComparedKey:
        if isinstance(answer, RedisError):
            return describe_refusal(record, str(answer))
        if found is None and record.expires_at_ms is not None:
            return ComparedKey(record, Comparison.EXPIRED)  # between loading and reading
        if why := self._tell_difference(record, found):
            return ComparedKey(record, Comparison.DIFFERENT, why)
        if record.digest is None or record.passing:
            return ComparedKey(
                record, Comparison.UNPROVEN, record.unproven or "some of its fields expire by themselves"
            )
        return ComparedKey(record, Comparison.EQUAL)

    def _tell_difference(self, record: KeyRecord, found: KeyRecord | None) -> str:
        """What is otherwise than in the set; empty when nothing is, as far as it can be compared."""
        if found is None or found.type != record.type:
            return f"came back as {found.type if found else 'nothing'}"
        if self._facts.tells_expiry and found.expires_at_ms != record.expires_at_ms:
            return "expires at another time"
        comparable = record.digest is not None and not record.passing
        return "has another value" if comparable and found.digest != record.digest else ""


class KeyRemover:
    """Removes keys that are as a set says, and leaves those that are not: somebody changed them, or nobody can tell.

    Args:
        settings: Which server.
        facts: What it says of itself.
        source: Number of the archived database whose keys are meant; others are passed over.
        target: Number of the database that they are removed from.

    Attributes:
        removed: How many were removed.
        left: How many of those names are there still.
    """

    def __init__(self, settings: RedisSettings, facts: ServerFacts, *, source: int, target: int) -> None:
        self.removed, self.left = 0, 0
        self._told, self._facts = f"Redis on {settings.place}", facts
        self._source, self._target = source, target
        self._client: RawClient = connect_to_database(settings, target)

    def close(self) -> None:
        """Let go of the server."""
        self._client.close()

    def compare(self, records: Sequence[KeyRecord]) -> list[ComparedKey]:
        """Compare some keys, and remove those that are equal; nothing is told of single ones.

        Raises:
            AccessDenied: The login may not.
            ServiceUnavailable: The server went away.
        """
        wanted = [one for one in records if one.database == self._source]
        try:
            found = read_values(self._client, [one.key for one in wanted], self._facts, database=self._target)
            for record, there in zip(wanted, found, strict=True):
                if there is None:
                    continue
                gone = self._is_as_loaded(record, there) and self._remove(there)
                self.removed += gone
                self.left += not gone
        except RedisError as error:
            raise translate(error, self._told) from error
        return []

    def _is_as_loaded(self, record: KeyRecord, there: KeyRecord) -> bool:
        same_expiry = not self._facts.tells_expiry or there.expires_at_ms == record.expires_at_ms
        return record.digest is not None and (there.type, there.digest) == (record.type, record.digest) and same_expiry

    def _remove(self, there: KeyRecord) -> bool:
        """Whether it went: one that somebody writes between the two calls stays."""
        ask = self._client.execute_command
        ask("WATCH", there.key)
        if ask("DUMP", there.key) != there.payload:
            ask("UNWATCH")
            return False
        ask("MULTI")
        ask("DEL", there.key)
        return ask("EXEC") is not None
