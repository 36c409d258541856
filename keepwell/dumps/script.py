r"""Reads a plain SQL dump as it streams by: whose rows it holds and how many, whether it is whole, what psql may see.

It follows psql's own rules (quotes, dollar quotes, comments, COPY's rows) in constant memory, and counts without any
server. Lines that psql itself would obey (`\!` runs a program, `\i` reads a file) are no part of a dump, but for the
few that pg_dump writes; those few are not passed on either: what they ask for is done here.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from keepwell.dumps.content import Content, Fault, HeldRows, Origin
from keepwell.dumps.statements import (
    Copy,
    Insert,
    Made,
    Relation,
    Setting,
    drops_something,
    read_statement,
    roles_named,
    runs_program,
    unquote,
    without_grantor,
)

END_OF_DUMP = "end of the dump"
_HEAD_BYTES = 64 * 1024
# A dollar quote's tag or the like may be cut by the end of a chunk: so much is left for the next one to see whole.
_LOOKAHEAD = 128
# What an opening quote means depends on the two bytes before it.
_LOOKBACK = 2
_LONGEST_LINE = 64 * 1024
_NAMED_FAULTS = 10
_MANY_CARRIAGE_RETURNS = 10
_SPECIAL = re.compile(rb"['\"();\\]|--|/\*|\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$")
# Code with whole strings in which nothing is special: most of a dump of INSERTs, in one stride.
_PLAIN = re.compile(rb"""(?:[^'"();\\$/-]++|(?<![eE])'[^'\\]*+'|"[^"]*+"|[-/][^-/*'"();\\$])++""")
_ESCAPES = re.compile(rb"[\\']")
_COMMENT_ENDS = re.compile(rb"/\*|\*/")
_IDENTIFIER_BYTE = re.compile(rb"[A-Za-z0-9_$\x80-\xff]")
_ATOMIC = re.compile(
    r"CREATE\s+(?:OR\s+REPLACE\s+)?(?:FUNCTION|PROCEDURE)\b.*?\bBEGIN\s+ATOMIC\b(?P<body>.*)\Z",
    re.IGNORECASE | re.DOTALL,
)
_BLOCKS = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\b(?P<word>BEGIN|CASE|END)\b", re.IGNORECASE)
_COMMAND = re.compile(rb"\\(\S*)[ \t]*([^\r\n]*)")
_CONNECT = re.compile(r"(?:-reuse-previous=on\s+)?(?P<name>\"(?:[^\"]|\"\")*\"|\S+)\s*\Z")
_CONNECT_NAME = re.compile(r"dbname='(?P<name>(?:[^'\\]|\\.)*)'\Z", re.DOTALL)
_STARTED = re.compile(r"-- Started on (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)")
_DATA = re.compile(r"-- Data for Name: (?P<table>.*); Type: TABLE DATA; Schema: (?P<schema>.*); Owner:", re.DOTALL)
# Our names for PostgreSQL's encodings, where they differ by more than punctuation.
_CODECS = {
    "WIN1250": "cp1250",
    "WIN1251": "cp1251",
    "WIN1252": "cp1252",
    "EUC_JP": "euc_jp",
    "SJIS": "cp932",
    "KOI8R": "koi8-r",
}


@dataclass(frozen=True)
class Edit:
    """A stretch of the dump that psql is not shown.

    Attributes:
        start: Offset of its first byte.
        end: Offset behind its last one.
        replacement: What psql is shown instead; it has as many line breaks, so that line numbers stay true.
        line: Number of its first line.
        create: A statement that is carried out for psql before it sees what follows; empty when nothing is.
    """

    start: int
    end: int
    replacement: bytes
    line: int
    create: str = ""


@dataclass(frozen=True)
class Part:
    """A stretch of the dump that goes to one database.

    Attributes:
        database: Its name; empty for the one that the dump was made of and does not name.
        start: Offset of its first byte.
        line: Number of its first line.
    """

    database: str
    start: int
    line: int


@dataclass(frozen=True)
class Script:
    """A plain dump, read to its end.

    Attributes:
        content: What it holds.
        parts: By database, in order; at least one.
        edits: What psql is not shown, in order.
        drops: Lines on which statements end that remove something.
        size_bytes: Of the whole, decompressed.
        refused: Whether it holds commands to psql that no dump needs, so that it must not be shown to psql at all.
    """

    content: Content
    parts: tuple[Part, ...]
    edits: tuple[Edit, ...]
    drops: tuple[range, ...]
    size_bytes: int
    refused: bool


@dataclass
class _Rows:
    """Rows of one table that are being counted."""

    database: str
    target: Relation
    line: int
    one_line_each: bool = True
    rows: int = 0
    whole: bool = False


@dataclass
class _Seen:
    """What was met so far."""

    begun: int = 0
    completed: int = 0
    clusters_begun: int = 0
    clusters_completed: int = 0
    server_version: str = ""
    tool_version: str = ""
    started: str = ""
    encoding: str = ""
    statements: int = 0
    telling: int = 0
    tables: int = 0
    copies: list[_Rows] = field(default_factory=list)
    inserts: dict[tuple[str, Relation], _Rows] = field(default_factory=dict)
    data_named: dict[tuple[str, Relation], int] = field(default_factory=dict)
    made: dict[str, list[str]] = field(default_factory=dict)
    roles: set[str] = field(default_factory=set)
    refreshed: set[tuple[str, str, str]] = field(default_factory=set)
    commands: list[Fault] = field(default_factory=list)
    carriage_returns: int = 0
    zero_bytes: bool = False


class ScriptReader:
    """Follows one dump: `feed` it piece by piece, then `close` it."""

    def __init__(self) -> None:
        self._buffer = b""
        self._position = 0
        self._offset = 0  # of the buffer's first byte
        self._line = 1  # at the position
        self._state: Callable[[bool], bool] = self._between
        self._head = bytearray()
        self._started: tuple[int, int] | None = None  # offset and line of the statement at hand
        self._depth = 0
        self._comment_depth = 0
        self._groups = 0
        self._tag = b""
        self._copying: _Rows | None = None
        self._at_line_start = True
        self._standard_strings = True
        self._search_path = ""
        self._database = ""
        self._seen = _Seen()
        self._parts = [Part("", 0, 1)]
        self._edits: list[Edit] = []
        self._drops: list[range] = []

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if not chunk:
            return
        self._seen.zero_bytes = self._seen.zero_bytes or b"\0" in chunk
        if self._seen.carriage_returns < _MANY_CARRIAGE_RETURNS:
            self._seen.carriage_returns += chunk.count(b"\r\n")
        kept = max(0, self._position - _LOOKBACK)
        self._offset += kept
        self._buffer, self._position = self._buffer[kept:] + chunk, self._position - kept
        while self._state(False):
            pass

    def close(self) -> Script:
        """The dump has ended: what it was."""
        while self._position < len(self._buffer) and self._state(True):
            pass
        unfinished = self._describe_unfinished()
        seen = self._seen
        return Script(
            content=self._describe(unfinished),
            parts=tuple(self._parts),
            edits=tuple(self._edits),
            drops=tuple(self._drops),
            size_bytes=self._offset + len(self._buffer),
            refused=bool(seen.commands),
        )

    # One method for each thing that the next byte may be part of. Each takes what it can and says whether it took any.

    def _between(self, final: bool) -> bool:
        """In SQL, outside of strings and comments."""
        limit = len(self._buffer) if final else len(self._buffer) - _LOOKAHEAD
        if self._position >= limit:
            return False
        if plain := _PLAIN.match(self._buffer, self._position, limit):
            self._take_code(plain.end())
        found = _SPECIAL.search(self._buffer, self._position)
        if found is None or found.start() >= limit:
            self._take_code(limit)
            return True
        token = found[0]
        if token == b"\\":
            return self._command(found.start(), final)
        if token in (b"--", b"/*"):
            self._take_code(found.start())
            self._state = self._line_comment if token == b"--" else self._block_comment
            return True
        if token.startswith(b"$") and self._follows_identifier(found.start()):
            self._take_code(found.end())
            return True
        self._take_code(found.end())
        self._enter(token, found.start())
        return True

    def _enter(self, token: bytes, start: int) -> None:
        if token == b"'":
            self._state = self._escaped if self._escapes_at(start) else self._quoted
        elif token == b'"':
            self._state = self._identifier
        elif token == b"(":
            self._groups += self._depth == 0
            self._depth += 1
        elif token == b")":
            self._depth = max(0, self._depth - 1)
        elif token == b";":
            if self._depth == 0 and not self._in_atomic_body():
                self._end_statement()
        else:
            self._tag = token
            self._state = self._dollar_quoted

    def _quoted(self, final: bool) -> bool:
        """In a string whose only special byte is its quote; a doubled one ends it and begins it anew."""
        return self._take_until(b"'", final)

    def _identifier(self, final: bool) -> bool:
        return self._take_until(b'"', final)

    def _dollar_quoted(self, final: bool) -> bool:
        return self._take_until(self._tag, final)

    def _escaped(self, final: bool) -> bool:
        """In a string in which a backslash means something."""
        buffer, position = self._buffer, self._position
        while (found := _ESCAPES.search(buffer, position)) is not None:
            at = found.start()
            if at + 1 == len(buffer) and not final:
                return self._take_up_to(at)  # what it means depends on the next byte
            if buffer[at : at + 1] == b"'" and buffer[at + 1 : at + 2] != b"'":
                self._take_code(at + 1)
                self._state = self._between
                return True
            position = min(at + 2, len(buffer))
        return self._take_up_to(len(buffer))

    def _line_comment(self, final: bool) -> bool:
        end = self._buffer.find(b"\n", self._position)
        if end < 0 and not final and len(self._buffer) - self._position < _LONGEST_LINE:
            return False
        stop = len(self._buffer) if end < 0 else end
        if self._at_start_of_line(self._position):
            self._read_comment(self._decode(self._buffer[self._position : stop].rstrip(b"\r")))
        self._state = self._rest_of_comment
        return self._rest_of_comment(final)

    def _rest_of_comment(self, final: bool) -> bool:  # noqa: ARG002 - every state is called alike
        taken = self._skip_line(self._between)
        if self._started is not None and self._state == self._between:
            self._head += b"\n"  # it parts words
        return taken

    def _block_comment(self, final: bool) -> bool:
        limit = len(self._buffer) if final else len(self._buffer) - 1
        found = _COMMENT_ENDS.search(self._buffer, self._position)
        if found is None or found.start() >= limit:
            if limit <= self._position:
                return False
            self._skip(limit)
            return True
        self._comment_depth += 1 if found[0] == b"/*" else -1
        self._skip(found.end())
        if self._comment_depth <= 0:
            self._comment_depth = 0
            self._state = self._between
        return True

    def _copied(self, final: bool) -> bool:
        """In the rows behind a COPY."""
        rows = self._copying
        assert rows is not None  # noqa: S101 - this state begins with them
        buffer, position = self._buffer, self._position
        if self._at_line_start:
            if not final and len(buffer) - position < 4:
                return False
            if buffer.startswith(b"\\.", position):
                end = buffer.find(b"\n", position, position + 4)
                line = buffer[position : end if end >= 0 else position + 4]
                if line in (b"\\.", b"\\.\r"):
                    rows.whole = True
                    self._copying = None
                    self._skip(len(buffer) if end < 0 else end + 1)
                    self._state = self._between
                    return True
        hit = buffer.find(b"\n\\.", position)
        stop = hit + 1 if hit >= 0 else (len(buffer) if final else len(buffer) - 2)
        if stop <= position:
            return False
        rows.rows += self._skip(stop)
        self._at_line_start = buffer[stop - 1 : stop] == b"\n"
        return True

    # Taking bytes.

    def _take_until(self, end: bytes, final: bool) -> bool:
        found = self._buffer.find(end, self._position)
        if found >= 0:
            self._take_code(found + len(end))
            self._state = self._between
            return True
        return self._take_up_to(len(self._buffer) if final else len(self._buffer) - len(end) + 1)

    def _take_up_to(self, stop: int) -> bool:
        """Take what there is before a place; whether that was anything."""
        if stop <= self._position:
            return False
        self._take_code(stop)
        return True

    def _take_code(self, stop: int) -> None:
        """Take bytes of the statement at hand, or the blanks before it."""
        piece = self._buffer[self._position : stop]
        if self._started is None:
            blanks = len(piece) - len(piece.lstrip())
            self._skip(self._position + blanks)
            piece = piece[blanks:]
            if not piece:
                return
            self._started = (self._offset + self._position, self._line)
        if len(self._head) < _HEAD_BYTES:
            self._head += piece[: _HEAD_BYTES - len(self._head)]
        self._skip(stop)

    def _skip_line(self, then: Callable[[bool], bool]) -> bool:
        """Take the line to its end, however long it is, and go on with what follows it."""
        if self._position >= len(self._buffer):
            return False
        end = self._buffer.find(b"\n", self._position)
        self._skip(len(self._buffer) if end < 0 else end + 1)
        if end >= 0:
            self._state = then
        return True

    def _skip(self, stop: int) -> int:
        """Move on; returns how many lines were passed."""
        lines = self._buffer.count(b"\n", self._position, stop)
        self._line += lines
        self._position = stop
        return lines

    # What the bytes mean.

    def _end_statement(self) -> None:
        assert self._started is not None  # noqa: S101 - a semicolon was taken
        text = self._decode(bytes(self._head)).removesuffix(";").rstrip()
        if text:
            self._seen.statements += 1
            self._read_statement(text)
        self._head.clear()
        self._started, self._groups = None, 0

    def _read_statement(self, text: str) -> None:
        seen = self._seen
        meaning = read_statement(text)
        match meaning:
            case Copy():
                rows = _Rows(self._database, self._qualify(meaning.target), self._line, meaning.one_line_each)
                seen.copies.append(rows)
                self._copying, self._state, self._at_line_start = rows, self._rest_of_line, True
            case Insert():
                key = (self._database, self._qualify(meaning.target))
                held = seen.inserts.setdefault(key, _Rows(*key, self._line, whole=True))
                held.one_line_each = held.one_line_each and meaning.countable
                held.rows += max(1, self._groups - meaning.groups_before)
                seen.telling += 1
                return  # of which there are many
            case Setting():
                self._set(meaning)
            case Made():
                self._make(meaning, text)
        if runs_program(text):
            self._refuse(f"Line {self._line:,} starts a program on the server, which no dump needs.")
        seen.roles.update(roles_named(text))
        if drops_something(text):
            self._note_drop()
        elif (plain := without_grantor(text)) is not None:
            self._edit(f"{plain};")
        seen.telling += meaning is not None and not isinstance(meaning, Setting)

    def _make(self, made: Made, text: str) -> None:
        seen = self._seen
        if made.kind == "table":
            seen.tables += 1
        elif made.kind == "refreshed":
            view = self._qualify(made.name)
            seen.refreshed.add((self._database, view.schema, view.name))
        else:
            seen.made.setdefault(made.kind, []).append(made.name.name)
        if made.kind in ("database", "tablespace"):
            self._edit("", create=text)

    def _set(self, setting: Setting) -> None:
        if setting.name == "client_encoding":
            self._seen.encoding = setting.value
        elif setting.name == "standard_conforming_strings":
            self._standard_strings = setting.value.lower() not in ("off", "false", "no", "0")
        elif setting.name == "search_path":
            first = re.match(r'\s*("(?:[^"]|"")*"|[^,\s]*)', setting.value)
            self._search_path = unquote(first[1]) if first and first[1] else ""
        elif setting.name == "default_tablespace" and setting.value:
            self._seen.made.setdefault("into", []).append(unquote(setting.value))

    def _rest_of_line(self, final: bool) -> bool:  # noqa: ARG002 - every state is called alike
        """What stands behind COPY's semicolon on its line; the rows begin on the next."""
        return self._skip_line(self._copied)

    def _command(self, start: int, final: bool) -> bool:
        """A backslash outside of everything: psql would take it and what follows for a command."""
        end = self._buffer.find(b"\n", start)
        if end < 0 and not final and len(self._buffer) - start < _LONGEST_LINE:
            self._take_code(start)
            return False
        stop = len(self._buffer) if end < 0 else end + 1
        found = _COMMAND.match(self._buffer, start)
        assert found is not None  # noqa: S101 - it begins with a backslash
        word, rest = self._decode(found[1]), self._decode(found[2]).strip()
        self._take_code(start)
        alone = self._started is None and self._at_start_of_line(start)
        place = (self._offset + start, self._offset + stop)
        line = self._line
        self._skip(stop)
        if alone and word in ("restrict", "unrestrict", "encoding"):
            self._edits.append(Edit(*place, b"\n" * self._buffer.count(b"\n", start, stop), line))
        elif alone and word == "connect" and (name := _database_named(rest)) is not None:
            self._database = name
            self._parts.append(Part(name, place[1], self._line))
            self._edits.append(Edit(*place, b"", line))
            self._search_path, self._standard_strings = "", True
        else:
            self._refuse(f"Line {line:,} holds a command to psql, \\{word[:20]}, which no dump needs.")
        return True

    def _refuse(self, message: str) -> None:
        if len(self._seen.commands) < _NAMED_FAULTS:
            hint = "It would be obeyed with your rights, wherever this is restored: find out who wrote it."
            self._seen.commands.append(Fault("commands", message, hint))

    def _at_start_of_line(self, position: int) -> bool:
        return self._offset + position == 0 or self._buffer[position - 1 : position] == b"\n"

    def _edit(self, replacement: str, create: str = "") -> None:
        assert self._started is not None  # noqa: S101 - only whole statements are replaced
        start, line = self._started
        breaks = self._line - line - replacement.count("\n")
        end = self._offset + self._position
        self._edits.append(Edit(start, end, replacement.encode(self._codec()) + b"\n" * breaks, line, create))

    def _note_drop(self) -> None:
        last = self._drops[-1] if self._drops else None
        if last is not None and last.stop >= self._line:
            self._drops[-1] = range(last.start, self._line + 1)
        else:
            self._drops.append(range(self._line, self._line + 1))

    def _read_comment(self, text: str) -> None:
        seen = self._seen
        if text == "-- PostgreSQL database dump":
            seen.begun += 1
        elif text == "-- PostgreSQL database dump complete":
            seen.completed += 1
        elif text == "-- PostgreSQL database cluster dump":
            seen.clusters_begun += 1
        elif text == "-- PostgreSQL database cluster dump complete":
            seen.clusters_completed += 1
        elif text.startswith("-- Dumped from database version ") and not seen.server_version:
            seen.server_version = text.removeprefix("-- Dumped from database version ")
        elif text.startswith("-- Dumped by pg_dump version ") and not seen.tool_version:
            seen.tool_version = text.removeprefix("-- Dumped by pg_dump version ")
        elif (started := _STARTED.match(text)) and not seen.started:
            seen.started = started[1]
        elif data := _DATA.match(text):
            seen.data_named.setdefault((self._database, Relation(data["schema"], data["table"])), self._line)

    def _qualify(self, relation: Relation) -> Relation:
        return relation if relation.schema else Relation(self._search_path or "public", relation.name)

    def _in_atomic_body(self) -> bool:
        """Whether a semicolon ends a statement of a function's body and not the function, as psql counts it."""
        if self._head[:6].upper() != b"CREATE":
            return False
        found = _ATOMIC.match(self._decode(bytes(self._head)))
        if found is None:
            return False
        words = [match["word"].upper() for match in _BLOCKS.finditer(found["body"]) if match["word"]]
        return 1 + sum(-1 if word == "END" else 1 for word in words) > 0

    def _escapes_at(self, quote: int) -> bool:
        if not self._standard_strings:
            return True
        before = self._buffer[max(0, quote - 2) : quote]
        return before[-1:] in (b"e", b"E") and not _IDENTIFIER_BYTE.match(before[-2:-1])

    def _follows_identifier(self, position: int) -> bool:
        return position > 0 and _IDENTIFIER_BYTE.match(self._buffer, position - 1) is not None

    def _codec(self) -> str:
        name = self._seen.encoding.upper().replace("-", "")
        if name in ("", "UTF8", "SQL_ASCII", "UNICODE"):
            return "utf-8"
        known = _CODECS.get(name, name.lower())
        try:
            b"".decode(known)
        except LookupError:
            return "utf-8"
        return known

    def _decode(self, text: bytes) -> str:
        return text.decode(self._codec(), errors="replace")

    # The end.

    def _describe_unfinished(self) -> str:
        if self._copying is not None:
            rows = self._copying
            return f"in the rows of {rows.target.schema}.{rows.target.name}, after {rows.rows:,} of them"
        if self._started is not None:
            words = re.findall(r"[^\s(']+", self._decode(bytes(self._head[:200])))[:3]
            return f"in the middle of the statement that begins with “{' '.join(words)}” on line {self._started[1]:,}"
        return ""

    def _describe(self, unfinished: str) -> Content:
        seen = self._seen
        by_pg_dump = bool(seen.begun or seen.clusters_begun)
        return Content(
            origin=Origin(
                seen.server_version,
                seen.tool_version,
                made_at=datetime.fromisoformat(seen.started) if seen.started else None,
            ),
            rows=tuple(self._held_rows()),
            tables=seen.tables,
            cluster=seen.clusters_begun > 0,
            recognized=by_pg_dump or seen.telling > 0,
            by_pg_dump=by_pg_dump,
            roles_needed=frozenset(seen.roles),
            roles_made=frozenset(seen.made.get("role", ())),
            extensions=tuple(dict.fromkeys(seen.made.get("extension", ()))),
            tablespaces=frozenset(seen.made.get("into", ())) - frozenset(seen.made.get("tablespace", ())),
            refreshed=frozenset(seen.refreshed),
            encoding=seen.encoding,
            faults=tuple(self._faults(unfinished)),
        )

    def _held_rows(self) -> "list[HeldRows]":
        seen = self._seen
        held = [_held(rows) for rows in seen.copies]
        held += [_held(rows) for rows in seen.inserts.values()]
        known = {(rows.database, _as_in_comments(rows.target)) for rows in (*seen.copies, *seen.inserts.values())}
        # A table without rows leaves nothing but its heading in a dump of INSERTs.
        held += [
            _held(_Rows(database, target, line, whole=True))
            for (database, target), line in seen.data_named.items()
            if (database, target) not in known and seen.inserts
        ]
        return held

    def _faults(self, unfinished: str) -> "list[Fault]":
        seen = self._seen
        found = list(seen.commands)
        begun, completed = seen.begun + seen.clusters_begun, seen.completed + seen.clusters_completed
        if begun > completed or (unfinished and begun):
            where = unfinished or f"after line {self._line:,}, between two statements"
            found.append(
                Fault(
                    END_OF_DUMP,
                    f"The dump ends {where}: pg_dump's last line, “database dump complete”, is missing.",
                    "Whatever came after that is lost. Why did pg_dump end: a full disk, a lost connection?",
                )
            )
        elif unfinished:
            found.append(Fault(END_OF_DUMP, f"It ends {unfinished}.", "Whatever came after that is lost."))
        if seen.carriage_returns >= _MANY_CARRIAGE_RETURNS:
            found.append(
                Fault(
                    "line ends",
                    "Its lines end with carriage returns, which pg_dump does not write.",
                    "It went through a terminal (docker exec without -T) or Windows: rows may be changed.",
                )
            )
        if seen.zero_bytes:
            found.append(
                Fault("zero bytes", "It holds zero bytes, which no SQL can.", "The disk or a copy damaged it.")
            )
        return found


def _as_in_comments(relation: Relation) -> Relation:
    """A relation as pg_dump's comments word it: on one line."""
    return Relation(*(re.sub(r"[\r\n]", " ", name) for name in (relation.schema, relation.name)))


def _held(rows: _Rows) -> HeldRows:
    return HeldRows(
        rows.database,
        rows.target.schema,
        rows.target.name,
        rows.rows if rows.one_line_each else None,
        rows.whole,
        f"line {rows.line:,}",
    )


def _database_named(rest: str) -> str | None:
    r"""The database that `\connect` means; None for whatever else could be meant."""
    found = _CONNECT.match(rest)
    if found is None:
        return None
    name = found["name"]
    name = name[1:-1].replace('""', '"') if name.startswith('"') else name
    if "-reuse-previous" in rest:
        parsed = _CONNECT_NAME.match(name)
        return re.sub(r"\\(.)", r"\1", parsed["name"], flags=re.DOTALL) if parsed else None
    return None if "=" in name or (name.startswith("postgres") and "://" in name) else name
