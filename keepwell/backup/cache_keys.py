"""The keys of the platform's Redis, in a set and back: stored one a line, and compared on a scratch server.

Logical, key by key: see docs/decisions/0010. A key is whole and of one moment; all of them together are of no one.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from keepwell.backup import layout
from keepwell.backup.lines import LineSink, LineSource
from keepwell.backup.manifest import CacheKeys, Manifest, Part
from keepwell.backup.read_back import SetReader
from keepwell.backup.spool import CACHE_SCRATCH, open_scratch
from keepwell.backup.transfer import send
from keepwell.cache import (
    CacheRehearsal,
    ComparedKey,
    Comparison,
    KeyRecord,
    ServerFacts,
    choose_cache_program,
    find_cache_programs,
    read_keys,
    read_server,
    throwaway_cache,
)
from keepwell.errors import KeepwellError
from keepwell.objectstore.store import Store
from keepwell.objectstore.uploads import Uploads
from keepwell.postgres.isolation import isolate_program
from keepwell.progress import Progress, Step
from keepwell.settings import RedisSettings
from keepwell.verdict import Finding, Verdict

_TOLD_EACH = 500
_BATCH_KEYS = 100
_BATCH_BYTES = 4 * 1024 * 1024
_NAMED = 20
_DAMAGED_HINT = "Do not restore Redis from this set: take another, and find out who or what changed it."
_NEWER_HINT = "Install a server of the source's product and version, or name one with redis.server_program."


@dataclass(frozen=True)
class StoredKeys:
    """What was stored of a Redis."""

    part: Part
    summary: CacheKeys


def store_keys(
    settings: RedisSettings, store: Store, uploads: Uploads, backup_id: str, progress: Progress, *, level: int
) -> StoredKeys:
    """Read every key of a Redis into a set, as a stream.

    Args:
        settings: Where it is.
        store: Where to.
        uploads: Whose threads send.
        backup_id: Of the set.
        progress: Told how far it is.
        level: zstd level.

    Raises:
        AccessDenied: The login may not read keys whole.
        ServiceUnavailable: It does not answer.
    """
    began_at, began = datetime.now(UTC), time.monotonic()
    facts = read_server(settings)
    tally = _Tally(progress)
    part = send(
        store,
        uploads,
        layout.set_folder(backup_id),
        layout.CACHE_KEYS,
        LineSource(tally.follow(read_keys(settings, facts))),
        level=level,
        taken=_uncounted,
    )
    return StoredKeys(part, tally.summarize(facts, began_at, time.monotonic() - began))


@dataclass
class _Tally:
    """Counts keys on their way."""

    progress: Progress
    records: int = 0
    expiring: int = 0
    databases: Counter[str] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    unproven: Counter[str] = field(default_factory=Counter)

    def follow(self, records: Iterable[KeyRecord]) -> Iterator[bytes]:
        """The records as lines."""
        for record in records:
            self.add(record)
            if self.records % _TOLD_EACH == 1:
                self.progress(Step("storing keys of Redis", self.records, 0, "keys"))
            yield record.to_line()

    def add(self, record: KeyRecord) -> None:
        """Count one more."""
        self.records += 1
        self.expiring += record.expires_at_ms is not None
        self.databases[str(record.database)] += 1
        self.types[record.type] += 1
        if record.unproven:
            self.unproven[record.unproven] += 1
        if record.passing:
            self.unproven["some fields of a hash expire by themselves and are not compared"] += 1

    def summarize(self, facts: ServerFacts, began_at: datetime, seconds: float) -> CacheKeys:
        """For the manifest."""
        return CacheKeys(
            began_at=began_at,
            finished_at=datetime.now(UTC),
            product=facts.product,
            server_version=facts.version,
            records=self.records,
            databases=dict(sorted(self.databases.items())),
            types=dict(sorted(self.types.items())),
            expiring=self.expiring,
            unproven=dict(sorted(self.unproven.items())),
            not_included=(f"{facts.libraries} libraries of functions in Redis",) if facts.libraries else (),
            seconds=seconds,
        )

    def agrees_with(self, expected: CacheKeys) -> bool:
        """Whether as many keys came back as were stored."""
        return (self.records, dict(self.databases), dict(self.types), self.expiring) == (
            expected.records,
            expected.databases,
            expected.types,
            expected.expiring,
        )


@dataclass
class KeysChecked:
    """What was found of a set's keys, for the levels that it belongs to.

    Attributes:
        complete: What is wrong with the list itself, whatever server there is.
        equal: Keys that came back otherwise, and what nobody compared because there is no server program.
        unjudged: What the scratch server could not take.
        summary: For the level *equal*; empty where the set holds no keys.
    """

    complete: list[Finding] = field(default_factory=list)
    equal: list[Finding] = field(default_factory=list)
    unjudged: list[Finding] = field(default_factory=list)
    summary: str = ""


def check_keys(
    manifest: Manifest, reader: SetReader, settings: RedisSettings | None, spool: Path, progress: Progress
) -> KeysChecked:
    """Read a set's keys back, load each into a scratch server, and compare it; nothing of it is kept.

    Args:
        manifest: Of the set.
        reader: Reads the part, and remembers what is wrong with it.
        settings: For the program to prove with; None where no Redis is configured any more.
        spool: Of the run; a scratch server gets a folder beside it.
        progress: Told how far it is.

    Raises:
        KeepwellError: The store cannot be read.
    """
    if manifest.cache is None:
        return KeysChecked()
    checked = KeysChecked()
    with ExitStack() as stack:
        rehearsal = _open_rehearsal(manifest.cache, settings, spool, stack, checked)
        sink = _KeySink(rehearsal, progress, manifest.cache.records)
        lines = LineSink(sink.take)
        read = reader.feed(layout.CACHE_KEYS, lines.write)
        if read is None:
            checked.complete.append(_alert(f"The set has no {layout.CACHE_KEYS}."))
            return checked
        if not read.sound:
            return checked  # the part itself is told to be damaged
        sink.flush()
        if not lines.finish():
            sink.fault = sink.fault or "it ends in the middle of a line"
    checked.complete += _judge_list(manifest.cache, sink)
    checked.equal += _judge_compared(sink)
    checked.unjudged += _judge_refused(sink)
    checked.summary = _summarize(sink) if rehearsal else "keys of Redis were not compared"
    return checked


def _open_rehearsal(
    expected: CacheKeys, settings: RedisSettings | None, spool: Path, stack: ExitStack, checked: KeysChecked
) -> CacheRehearsal | None:
    """A scratch server to compare on; without one, what that means is told."""
    try:
        programs = find_cache_programs(settings.server_program if settings else None)
        program = choose_cache_program(programs, expected.product)
        if program is None:
            checked.equal.append(
                Finding(
                    name="redis",
                    verdict=Verdict.WARN,
                    message=f"Not proven: {expected.records:,} keys of Redis, for want of a server to load them into.",
                    hint="Install redis-server or valkey-server here; it is started by the proof alone.",
                )
            )
            return None
        scratch = stack.enter_context(open_scratch(spool, CACHE_SCRATCH))
        databases = max([0, *map(int, expected.databases)]) + 1
        isolation = isolate_program(str(program.path), scratch)
        socket = stack.enter_context(throwaway_cache(program, scratch, databases=databases, isolation=isolation))
    except KeepwellError as error:
        checked.unjudged.append(
            Finding(name="redis", verdict=Verdict.UNKNOWN, message=f"Redis: {error.message}", hint=error.hint)
        )
        return None
    rehearsal = CacheRehearsal(socket, int(time.time() * 1000))
    stack.callback(rehearsal.close)
    return rehearsal


class Comparer(Protocol):
    """Whoever puts keys into a server and compares what they read as there."""

    def compare(self, records: Sequence[KeyRecord]) -> list[ComparedKey]:
        """Some keys at a time; one that is not wanted is left out of the answer."""


@dataclass(frozen=True)
class LoadedKeys:
    """What came of keys that were loaded into a server.

    Attributes:
        results: How many came back how.
        findings: What is wrong, or cannot be told.
    """

    results: dict[Comparison, int]
    findings: tuple[Finding, ...]


def load_keys(manifest: Manifest, reader: SetReader, loader: Comparer, progress: Progress) -> LoadedKeys:
    """Read a set's keys back and load them, each compared; what is wrong with the list is found only at its end.

    Args:
        manifest: Of a set that holds keys.
        reader: Reads the part.
        loader: Takes them.
        progress: Told how far it is.

    Raises:
        KeepwellError: The store cannot be read.
    """
    if manifest.cache is None:
        message = "the set holds no keys"
        raise ValueError(message)
    sink = _KeySink(loader, progress, manifest.cache.records)
    lines = LineSink(sink.take)
    read = reader.feed(layout.CACHE_KEYS, lines.write)
    sink.flush()
    findings = [] if read is not None and read.sound else [_alert(f"{layout.CACHE_KEYS} is not what was stored.")]
    if not lines.finish():
        sink.fault = sink.fault or "it ends in the middle of a line"
    findings += [*_judge_list(manifest.cache, sink), *_judge_compared(sink), *_judge_refused(sink)]
    return LoadedKeys(dict(sink.results), tuple(findings))


class _KeySink:
    """Takes lines as they come back and compares them, a few at a time."""

    def __init__(self, rehearsal: Comparer | None, progress: Progress, total: int) -> None:
        self.tally = _Tally(progress)
        self.results: Counter[Comparison] = Counter()
        self.bad: list[ComparedKey] = []
        self.refused: list[ComparedKey] = []
        self.fault = ""
        self.died = ""
        self._rehearsal, self._progress, self._total = rehearsal, progress, total
        self._waiting: list[KeyRecord] = []
        self._waiting_bytes = 0

    def take(self, line: bytes) -> None:
        """One line."""
        if self.fault:
            return
        try:
            record = KeyRecord.from_line(line)
        except ValueError as error:
            self.fault = f"line {self.tally.records + 1} is damaged: {error}"
            return
        self.tally.add(record)
        self._waiting.append(record)
        self._waiting_bytes += len(record.payload)
        if len(self._waiting) >= _BATCH_KEYS or self._waiting_bytes >= _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Compare what waits."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if self._rehearsal is None or self.died or not waiting:
            return
        try:
            compared = self._rehearsal.compare(waiting)
        except KeepwellError as error:
            self.died = error.message
            return
        self._progress(Step("comparing keys of Redis", self.tally.records, self._total, "keys"))
        for one in compared:
            self.results[one.comparison] += 1
            kept = {Comparison.DIFFERENT: self.bad, Comparison.NOT_TAKEN: self.refused}.get(one.comparison)
            if kept is not None and len(kept) < _NAMED:
                kept.append(one)


def _judge_list(expected: CacheKeys, sink: _KeySink) -> Iterator[Finding]:
    if sink.fault:
        yield _alert(f"{layout.CACHE_KEYS} cannot be read: {sink.fault}.")
    elif not sink.tally.agrees_with(expected):
        yield _alert(
            f"{layout.CACHE_KEYS} holds {sink.tally.records} keys {dict(sink.tally.types)}, "
            f"the manifest says {expected.records} {expected.types}."
        )


def _judge_compared(sink: _KeySink) -> Iterator[Finding]:
    for one in sink.bad:
        yield _alert(f"Redis: {one.record.told} {one.why}.")
    rest = sink.results[Comparison.DIFFERENT] - len(sink.bad)
    if rest:
        yield _alert(f"Redis: {rest} more keys came back otherwise than they were.")
    for why, count in sink.tally.unproven.items():
        yield Finding(name="redis", verdict=Verdict.WARN, message=f"Not proven: {count} keys of Redis: {why}.")


def _judge_refused(sink: _KeySink) -> Iterator[Finding]:
    if sink.died:
        yield Finding(name="redis", verdict=Verdict.UNKNOWN, message=f"Keys were not all compared: {sink.died}")
    count = sink.results[Comparison.NOT_TAKEN]
    if count:
        first = sink.refused[0]
        yield Finding(
            name="redis",
            verdict=Verdict.UNKNOWN,
            message=f"{count} keys of Redis could not be loaded here; the first, {first.record.told}, {first.why}.",
            hint=_NEWER_HINT,
        )


def _summarize(sink: _KeySink) -> str:
    equal, total = sink.results[Comparison.EQUAL], sink.tally.records
    return f"{equal:,} of {total:,} keys of Redis loaded and equal in type, expiry and value"


def _alert(message: str) -> Finding:
    return Finding(name="redis", verdict=Verdict.ALERT, message=message, hint=_DAMAGED_HINT)


def _uncounted(size_bytes: int) -> None:
    """Shown by the number of keys instead."""
