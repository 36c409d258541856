"""What pg_dumpall's script of roles says, statement by statement: whose it is, and what it makes of that role. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_NAME = r'(?:"(?:[^"]|"")+"|[^\s";]+)'
_CREATE = re.compile(rf"CREATE ROLE (?P<role>{_NAME})\s*;", re.DOTALL)
_ATTRIBUTES = re.compile(rf"ALTER ROLE (?P<role>{_NAME}) WITH (?P<attributes>[A-Z ]+)(?P<rest>.*);", re.DOTALL)
_SETTING = re.compile(rf"ALTER ROLE (?P<role>{_NAME}) (?:IN DATABASE {_NAME} )?SET .*;", re.DOTALL)
_COMMENT = re.compile(rf"COMMENT ON ROLE (?P<role>{_NAME}) IS .*;", re.DOTALL)
_MEMBERSHIP = re.compile(rf"GRANT (?P<group>{_NAME}) TO (?P<role>{_NAME})(?: .*)?;", re.DOTALL)
# Words that stand for a property by themselves; others, such as PASSWORD, begin one with a value.
_FLAG = re.compile(r"(?:NO)?(?:SUPERUSER|INHERIT|CREATEROLE|CREATEDB|LOGIN|REPLICATION|BYPASSRLS)")
# One statement: anything but a semicolon, or quoted text that may hold some.
_TOKEN = re.compile(r"""[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|;|.""", re.DOTALL)


@dataclass(frozen=True)
class RoleStatement:
    """One statement about one role.

    Attributes:
        kind: `create`, `attributes`, `setting`, `comment` or `membership`.
        role: Whose.
        text: The statement; it may hold a password's hash.
        attributes: What it says of the role, such as NOSUPERUSER.
        member_of: Of which role it makes it a member; empty otherwise.
    """

    kind: str
    role: str
    text: str
    attributes: frozenset[str] = frozenset()
    member_of: str = ""

    def __repr__(self) -> str:
        return f"RoleStatement({self.kind} of {self.role})"


def parse_globals(script: str) -> list[RoleStatement]:
    """The statements about roles, in order; whatever else stands there is passed over."""
    return [found for text in _split(script) if (found := _read(text)) is not None]


def _split(script: str) -> Iterator[str]:
    """Statements with their semicolons, without comments."""
    begun: list[str] = []
    for sign in _TOKEN.findall(script):
        if sign.startswith("--"):
            continue
        begun.append(sign)
        if sign == ";":
            yield "".join(begun).strip()
            begun = []


def _read(text: str) -> RoleStatement | None:
    if match := _CREATE.fullmatch(text):
        return RoleStatement("create", _unquoted(match["role"]), text)
    if match := _ATTRIBUTES.fullmatch(text):
        flags = frozenset(word for word in match["attributes"].split() if _FLAG.fullmatch(word))
        return RoleStatement("attributes", _unquoted(match["role"]), text, attributes=flags)
    if match := _SETTING.fullmatch(text):
        return RoleStatement("setting", _unquoted(match["role"]), text)
    if match := _COMMENT.fullmatch(text):
        return RoleStatement("comment", _unquoted(match["role"]), text)
    if match := _MEMBERSHIP.fullmatch(text):
        return RoleStatement("membership", _unquoted(match["role"]), text, member_of=_unquoted(match["group"]))
    return None


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
