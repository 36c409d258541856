"""The schema as lines, stored with each set, so that a difference can be named and not only noticed."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from keepwell.errors import VerificationFailed
from keepwell.postgres.facts import VERSION_BOUND_KINDS, SchemaLine

_NAMED = 10
_DEPARSED_KINDS = VERSION_BOUND_KINDS | {"constraint", "index", "column", "type", "relation"}
_NAME = r'(?:"(?:[^"]|"")+"|[a-zA-Z_]\w*)'
_CASTS = re.compile(
    rf"::{_NAME}(?:\.{_NAME})?(?: varying| precision| with(?:out)? time zone)?(?:\(\d+(?:,\d+)?\))?(?:\[\])*"
)
_BLANKS = re.compile(r"[\s()]+")


def write_schema(path: Path, lines: Iterable[SchemaLine]) -> None:
    """One JSON array a line: kind, identity, definition."""
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(_serialize(line))


def read_schema_file(path: Path) -> list[SchemaLine]:
    """What `write_schema` wrote.

    Raises:
        VerificationFailed: The file is not one of ours.
    """
    try:
        # As bytes: text would also be split at the line separators that Unicode knows.
        return [SchemaLine(*json.loads(line)) for line in path.read_bytes().splitlines()]
    except (ValueError, TypeError) as error:
        raise VerificationFailed(f"The stored schema cannot be read: {error}.", hint="The set is damaged.") from error


def digest_schema(lines: Iterable[SchemaLine]) -> str:
    """SHA-256 of the lines as they are written."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(_serialize(line).encode())
    return digest.hexdigest()


def differing_objects(expected: Sequence[SchemaLine], found: Sequence[SchemaLine], *, same_major: bool) -> list[str]:
    """What is missing, extra or different in a restored schema, worded for people; empty when nothing is.

    Args:
        expected: The source's lines.
        found: The restored database's lines.
        same_major: Otherwise only the existence of objects is compared whose text the versions word differently.
    """
    before, after = (_comparable(lines, same_major=same_major) for lines in (expected, found))
    reworded = {_reworded(line) for line in before} & {_reworded(line) for line in after}
    before, after = ({line for line in lines if _reworded(line) not in reworded} for lines in (before, after))
    missing = [f"{kind} {identity} is missing or different" for kind, identity, _ in sorted(before - after)]
    known = {line[:2] for line in before}
    extra = [
        f"{kind} {identity} was not in the source"
        for kind, identity, _ in after - before
        if (kind, identity) not in known
    ]
    named = list(dict.fromkeys(missing)) + sorted(extra)
    return named if len(named) <= _NAMED else [*named[:_NAMED], f"and {len(named) - _NAMED} more"]


def _comparable(lines: Iterable[SchemaLine], *, same_major: bool) -> set[tuple[str, str, str]]:
    return {
        (line.kind, line.identity, line.definition if same_major or line.kind not in VERSION_BOUND_KINDS else "")
        for line in lines
    }


def _reworded(line: tuple[str, str, str]) -> tuple[str, str, str]:
    """A line without casts, brackets and spaces, which PostgreSQL itself rewords when it reads its own text again.

    The text as it was dumped is guarded by the archive's SHA-256; this asks only whether the copy means the same.
    """
    kind, identity, definition = line
    if kind not in _DEPARSED_KINDS:
        return line
    return kind, identity, _BLANKS.sub("", _CASTS.sub("", definition))


def _serialize(line: SchemaLine) -> str:
    return json.dumps([line.kind, line.identity, line.definition], ensure_ascii=False) + "\n"
