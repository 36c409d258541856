"""Writing a platform file with every key explained, out of the settings' own models, so that it cannot drift."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from keepwell.settings import Platform

_WIDTH = 110
_HEAD = """\
# One platform, as Keepwell sees it. Every key is explained; those behind a # have the value shown unless they are set.
# Precedence: environment (KEEPWELL_DATABASE__HOST=…) over secret files over this file over the defaults.
# Secrets never stand here: each has a <name>_file that names a file of its own (mode 0600), read anew at every run.
"""

Values = Mapping[str, Mapping[str, Any]]


def render_platform_file(name: str, values: Values) -> str:
    """The text of a platform file.

    Args:
        name: Of the platform.
        values: Section to key to value; what is not in here stands commented out, with its default.

    Returns:
        TOML. Sections that are optional and have no value are commented out whole.
    """
    lines = [_HEAD, *_explain("name", Platform.model_fields["name"]), f"name = {_literal(name)}"]
    for section, model, required in _sections():
        given = values.get(section, {})
        active = required or bool(given)
        lines += ["", "", f"# {model.__doc__}" if model.__doc__ else "", f"{'' if active else '# '}[{section}]"]
        for key, field in model.model_fields.items():
            lines += ["", *_entry(section, key, field, given, active=active)]
    return "\n".join(lines) + "\n"


def known_keys() -> set[tuple[str, str]]:
    """Every (section, key) of a platform file."""
    return {(section, key) for section, model, _ in _sections() for key in model.model_fields}


def _sections() -> Iterator[tuple[str, type[BaseModel], bool]]:
    """Each table of the file: name, model, and whether it stands there in any case."""
    for section, field in Platform.model_fields.items():
        model = _model_in(field.annotation)
        if model is not None:
            yield section, model, NoneType not in get_args(field.annotation)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    candidates = (annotation, *get_args(annotation))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _entry(section: str, key: str, field: FieldInfo, given: Mapping[str, Any], *, active: bool) -> list[str]:
    nested = _model_in(field.annotation)
    if nested is not None:
        return _nested_example(section, key, field, nested)
    if _is_secret(field):
        return _wrap(f"{key}: {field.description} By {key}_file, or KEEPWELL_{section.upper()}__{key.upper()}.")
    lines = _explain(key, field)
    if key in given:
        return [*lines, f"{key} = {_literal(given[key])}"]
    shown = _example(section, key, field)
    # A required key of an optional section is shown, but cannot have a default.
    return [*lines, f"# {key} = {shown}" if not active or not field.is_required() else f"{key} = {shown}"]


def _nested_example(section: str, key: str, field: FieldInfo, nested: type[BaseModel]) -> list[str]:
    lines = [*_wrap(f"{key}: {field.description} One table each, such as:"), f"# [[{section}.{key}]]"]
    for name, inner in nested.model_fields.items():
        lines += [*_explain(name, inner), f"# {name} = {_example(section, name, inner)}"]
    return lines


def _explain(key: str, field: FieldInfo) -> list[str]:
    facts = [field.description or ""]
    if choices := _choices(field.annotation):
        facts.append(f"One of {', '.join(choices)}.")
    if bounds := _bounds(field):
        facts.append(f"{bounds}.")
    unit = next((word for word in ("seconds", "hours", "days", "bytes") if key.endswith(f"_{word}")), "")
    if unit:
        facts.append(f"In {unit}.")
    if field.default not in (None, PydanticUndefined, ()):
        facts.append(f"Default: {_literal(field.default)}.")
    elif field.is_required():
        facts.append("Required.")
    return _wrap(" ".join(fact for fact in facts if fact))


def _choices(annotation: Any) -> tuple[str, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _bounds(field: FieldInfo) -> str:
    words = {Ge: "at least", Gt: "more than", Le: "at most", Lt: "less than"}
    found = []
    for rule in field.metadata:
        for kind, word in words.items():
            if isinstance(rule, kind):
                found.append(f"{word} {getattr(rule, kind.__name__.lower())}")
    return " and ".join(found).capitalize()


def _example(section: str, key: str, field: FieldInfo) -> str:
    if field.default not in (None, PydanticUndefined, ()):
        return _literal(field.default)
    if field.examples:
        return _literal(field.examples[0])
    if key.endswith("_file"):
        return _literal(f"/etc/keepwell/{section}_{key.removesuffix('_file')}")
    for kind, shown in ((tuple, "[]"), (float, "1.0"), (int, "1000000"), (Path, _literal(f"/path/to/{key}"))):
        if kind in (field.annotation, get_origin(field.annotation), *get_args(field.annotation)):
            return shown
    if key.endswith("_url"):
        return _literal("http://127.0.0.1:9000")
    return _literal("")


def _is_secret(field: FieldInfo) -> bool:
    flat = [field.annotation, *get_args(field.annotation)]
    return SecretStr in flat


def _literal(value: Any) -> str:
    """A TOML value; a JSON string is a TOML string too."""
    if isinstance(value, bool | int | float | list | tuple):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False)


def _wrap(text: str) -> list[str]:
    lines, line = [], "#"
    for word in text.split():
        if len(line) + len(word) + 1 > _WIDTH:
            lines.append(line)
            line = "#"
        line += f" {word}"
    return [*lines, line]
