"""What one SQL statement of a dump says, as far as a proof needs to know: whose rows, which roles, what is made. Pure.

The statements are pg_dump's, so these patterns follow its wording; whatever they do not know counts as any statement.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_IDENTIFIER = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
_QUALIFIED = rf"{_IDENTIFIER}(?:\s*\.\s*{_IDENTIFIER})?"
_LIST = rf"{_IDENTIFIER}(?:\s*,\s*{_IDENTIFIER})*"
_COPY = re.compile(
    rf"COPY\s+(?P<target>{_QUALIFIED})\s*(?:\((?:[^\"()]|\"(?:[^\"]|\"\")*\")*\))?\s*FROM\s+STDIN\b(?P<options>.*)\Z",
    re.IGNORECASE | re.DOTALL,
)
_INSERT = re.compile(rf"INSERT\s+INTO\s+(?P<target>{_QUALIFIED})\s*(?P<columns>\()?", re.IGNORECASE)
_NOT_VALUES = re.compile(r"\bSELECT\b|\bON\s+CONFLICT\s*\(", re.IGNORECASE)
_NAMED = {
    "extension": re.compile(rf"CREATE\s+EXTENSION\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<name>{_IDENTIFIER})", re.IGNORECASE),
    "role": re.compile(rf"CREATE\s+(?:ROLE|USER|GROUP)\s+(?!MAPPING\b)(?P<name>{_IDENTIFIER})", re.IGNORECASE),
    "database": re.compile(rf"CREATE\s+DATABASE\s+(?P<name>{_IDENTIFIER})", re.IGNORECASE),
    "tablespace": re.compile(rf"CREATE\s+TABLESPACE\s+(?P<name>{_IDENTIFIER})", re.IGNORECASE),
    "table": re.compile(
        rf"CREATE\s+(?:UNLOGGED\s+)?TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<name>{_QUALIFIED})", re.IGNORECASE
    ),
    "refreshed": re.compile(rf"REFRESH\s+MATERIALIZED\s+VIEW\s+(?P<name>{_QUALIFIED})", re.IGNORECASE),
}
_SET = re.compile(r"SET\s+(?P<name>\w+)\s*(?:=|\sTO\s)\s*(?P<value>.*)\Z", re.IGNORECASE | re.DOTALL)
_SET_CONFIG = re.compile(
    r"SELECT\s+(?:pg_catalog\.)?set_config\('(?P<name>\w+)',\s*'(?P<value>(?:[^']|'')*)'", re.IGNORECASE
)
_DROPS = re.compile(
    r"DROP\s|SELECT\s+(?:pg_catalog\.)?lo_unlink\(|ALTER\s+TABLE\s+.*\sDROP\s+(?:CONSTRAINT|IDENTITY|EXPRESSION)\b|ALTER\s.*\sDROP\s+DEFAULT\b",
    re.IGNORECASE | re.DOTALL,
)
_PROGRAM = re.compile(r"COPY\s.*\s(?:FROM|TO)\s+PROGRAM\s", re.IGNORECASE | re.DOTALL)
# Where a statement names roles: what leads to them, and whether they end the statement.
_ROLES = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        rf"ALTER\s.*\sOWNER\s+TO\s+(?P<roles>{_IDENTIFIER})\Z",
        rf"GRANT\s.*\sTO\s+(?P<roles>{_LIST})(?:\s+WITH\s+.*?)?(?:\s+GRANTED\s+BY\s+{_IDENTIFIER})?\Z",
        rf"(?:GRANT|REVOKE)\s.*\sGRANTED\s+BY\s+(?P<roles>{_IDENTIFIER})\Z",
        rf"REVOKE\s.*\sFROM\s+(?P<roles>{_LIST})(?:\s+GRANTED\s+BY\s+{_IDENTIFIER})?\Z",
        rf"ALTER\s+DEFAULT\s+PRIVILEGES\s+FOR\s+(?:ROLE|USER)\s+(?P<roles>{_LIST})\s",
        rf"ALTER\s+DEFAULT\s+PRIVILEGES\s.*\s(?:TO|FROM)\s+(?P<roles>{_LIST})(?:\s+WITH\s+GRANT\s+OPTION)?\Z",
        rf"CREATE\s+POLICY\s+{_IDENTIFIER}\s+ON\s+{_QUALIFIED}\s(?:(?:AS|FOR)\s+\w+\s+)*TO\s+(?P<roles>{_LIST})",
        rf"(?:CREATE|ALTER)\s+USER\s+MAPPING\s+FOR\s+(?P<roles>{_IDENTIFIER})\s",
        rf"CREATE\s+SCHEMA\s.*\sAUTHORIZATION\s+(?P<roles>{_IDENTIFIER})\s*\Z",
        rf"SET\s+(?:LOCAL\s+|SESSION\s+)?ROLE\s+(?:=|TO\s)?\s*(?P<roles>{_IDENTIFIER})\Z",
        rf"ALTER\s+ROLE\s+(?P<roles>{_IDENTIFIER})\s",
    )
)
# A longer statement is somebody's function, and names no roles that matter.
_LONGEST_NAMING = 16_384
_SESSION_AUTHORIZATION = re.compile(r"SET\s+SESSION\s+AUTHORIZATION\s+'(?P<role>(?:[^']|'')+)'\Z", re.IGNORECASE)
_NO_ROLES = frozenset({"public", "current_user", "current_role", "session_user", "none", "default", "all"})
_GRANTED_BY = re.compile(rf"(GRANT\s.*?)\s+GRANTED\s+BY\s+{_IDENTIFIER}\Z", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Relation:
    """A table or view by schema and name; the schema is empty where the statement leaves it to the search path."""

    schema: str
    name: str


@dataclass(frozen=True)
class Copy:
    """Rows follow this statement, up to a line with a backslash and a full stop.

    Attributes:
        target: Whose rows.
        one_line_each: Whether each row is one line, which other formats than COPY's own text do not promise.
    """

    target: Relation
    one_line_each: bool


@dataclass(frozen=True)
class Insert:
    """This statement holds rows itself.

    Attributes:
        target: Whose rows.
        groups_before: Brackets at the outermost level that are no row: a list of columns.
        countable: Whether each further such bracket is a row.
    """

    target: Relation
    groups_before: int
    countable: bool


@dataclass(frozen=True)
class Setting:
    """A parameter of the session takes another value."""

    name: str
    value: str


@dataclass(frozen=True)
class Made:
    """Something is made: an extension, a role, a database, a tablespace or a table; or a view is refreshed."""

    kind: str
    name: Relation


def read_statement(text: str) -> Copy | Insert | Setting | Made | None:
    """What a statement does, if it is one that matters.

    Args:
        text: The statement without its semicolon and without comments before it; of a long one, the beginning.
    """
    first = text[:6].upper()
    if first.startswith("COPY") and (copy := _COPY.match(text)):
        options = copy["options"].strip().upper()
        return Copy(parse_relation(copy["target"]), not re.search(r"\b(CSV|BINARY|DELIMITERS?|HEADER)\b", options))
    if first == "INSERT" and (insert := _INSERT.match(text)):
        head = text[insert.end() :]
        return Insert(
            parse_relation(insert["target"]),
            1 if insert["columns"] else 0,
            not _NOT_VALUES.search(_without_strings(head)),
        )
    if first.startswith("SET") or first == "SELECT":
        found = _SET.match(text) or _SET_CONFIG.match(text)
        return Setting(found["name"].lower(), _unquoted_value(found["value"])) if found else None
    if first in ("CREATE", "REFRES"):
        for kind, pattern in _NAMED.items():
            if made := pattern.match(text):
                return Made(kind, parse_relation(made["name"]))
    return None


def roles_named(text: str) -> Iterator[str]:
    """Every role that a statement needs to exist; keywords that stand for roles are none."""
    if authorization := _SESSION_AUTHORIZATION.match(text):
        yield authorization["role"].replace("''", "'")
    if len(text) > _LONGEST_NAMING or not re.match(
        r"ALTER|GRANT|REVOKE|CREATE\s+(?:POLICY|USER|SCHEMA)|SET", text, re.IGNORECASE
    ):
        return
    for pattern in _ROLES:
        if found := pattern.match(text):
            for name in re.findall(_IDENTIFIER, found["roles"]):
                quoted = name.startswith('"')
                role = unquote(name)
                if quoted or (role not in _NO_ROLES and not role.startswith("pg_")):
                    yield role


def without_grantor(text: str) -> str | None:
    """A GRANT of a membership that does not say who granted it; None where it says nothing of the kind.

    Since version 16 a grantor other than the server's first superuser needs the ADMIN option, and a scratch server has
    another first superuser than the source.
    """
    found = _GRANTED_BY.match(text)
    return found[1] if found else None


def runs_program(text: str) -> bool:
    """Whether a statement starts a program on the server's machine."""
    return _PROGRAM.match(text) is not None


def drops_something(text: str) -> bool:
    """Whether a statement removes something, which in an empty database is not there: `pg_dump --clean`."""
    return _DROPS.match(text) is not None


def parse_relation(text: str) -> Relation:
    """Schema and name out of `"Schema".name`, as PostgreSQL would fold them."""
    parts = [unquote(part) for part in re.findall(_IDENTIFIER, text)]
    return Relation(parts[0], parts[1]) if len(parts) > 1 else Relation("", parts[0])


def unquote(identifier: str) -> str:
    """An identifier as the catalogue has it."""
    if identifier.startswith('"'):
        return identifier[1:-1].replace('""', '"')
    return identifier.lower()


def _unquoted_value(value: str) -> str:
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] == "'":
        return value[1:-1].replace("''", "'")
    return value


def _without_strings(text: str) -> str:
    return re.sub(r"'(?:[^']|'')*'?", "''", text)
