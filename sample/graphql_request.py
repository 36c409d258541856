"""Reads the few GraphQL queries the sample backend answers: plain field selections, nothing more.

There are no arguments, variables, fragments, aliases or mutations: a query that uses one is refused with an error,
never half understood.
"""

import re
from dataclasses import dataclass, field

_TOKENS = re.compile(r"\s*(?:#[^\n]*\n\s*|,\s*)*([{}]|[_A-Za-z][_0-9A-Za-z]*)")
_IGNORED_TAIL = re.compile(r"(?:\s|,|#[^\n]*)*\Z")
DEEPEST_SELECTION = 5


class GraphQLError(Exception):
    """The query cannot be read or answered; the message is for the client."""


@dataclass
class Selection:
    """A chosen field and the fields chosen within it."""

    name: str
    fields: list["Selection"] = field(default_factory=list)


def read_query(text: str) -> list[Selection]:
    """Read `{a b{c}}`, optionally after `query` and a name.

    Returns:
        The top-level selections; never empty.

    Raises:
        GraphQLError: It is anything else.
    """
    tokens = _tokens(text)
    if tokens[:1] == ["query"]:
        tokens = tokens[1:] if tokens[1:2] == ["{"] else tokens[2:]
    selections, rest = _selection_set(tokens, depth=0)
    if rest:
        raise GraphQLError(f"Syntax Error: Unexpected {rest[0]!r}.")
    return selections


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    while not _IGNORED_TAIL.match(text, position):
        match = _TOKENS.match(text, position)
        if match is None:
            raise GraphQLError(f"Syntax Error: only plain field selections are understood (at {position}).")
        tokens.append(match[1])
        position = match.end()
    return tokens


def _selection_set(tokens: list[str], *, depth: int) -> tuple[list[Selection], list[str]]:
    if tokens[:1] != ["{"] or depth > DEEPEST_SELECTION:
        raise GraphQLError("Syntax Error: Expected a selection of fields in braces.")
    rest = tokens[1:]
    selections: list[Selection] = []
    while rest and rest[0] != "}":
        selection, rest = Selection(rest[0]), rest[1:]
        if rest[:1] == ["{"]:
            selection.fields, rest = _selection_set(rest, depth=depth + 1)
        selections.append(selection)
    if not rest or not selections:
        raise GraphQLError("Syntax Error: Expected at least one field, and a closing brace.")
    return selections, rest[1:]
