"""The platform file as it goes into each set: complete but for its secrets, of which it tells only where they lay."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from keepwell.settings import Platform

_HEAD = """\
# The platform file of this backup set, without secrets. Where a secret came from a file, that file's name stands here.
"""


def render_without_secrets(platform: Platform, *, head: str = _HEAD) -> str:
    """The platform as TOML that can be loaded again once the secrets are put in their places; no secret is in it.

    Args:
        platform: As it was loaded, or made.
        head: Comment that begins the file.
    """
    lines = [head, f"name = {_literal(platform.name)}"]
    for section in type(platform).model_fields:
        value = getattr(platform, section)
        if isinstance(value, BaseModel):
            lines += ["", f"[{section}]", *_render_table(section, value)]
    return "\n".join(lines) + "\n"


def _render_table(section: str, table: BaseModel) -> Iterator[str]:
    nested: list[str] = []
    for key, field in type(table).model_fields.items():
        value = getattr(table, key)
        if _is_secret(field):
            if value:
                yield f"# {key}: a secret, from {key}_file or KEEPWELL_{section.upper()}__{key.upper()}."
        elif isinstance(value, tuple) and any(isinstance(one, BaseModel) for one in value):
            for one in value:
                nested += ["", f"[[{section}.{key}]]", *_render_table(section, one)]
        elif value is not None:
            yield f"{key} = {_literal(value)}"
    yield from nested


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in (field.annotation, *get_args(field.annotation))


def _literal(value: Any) -> str:
    """A TOML value; a JSON string is a TOML string too."""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_literal(one) for one in value) + "]"
    text = str(value)
    shown = without_login(text) if not isinstance(value, Path) and "://" in text else text
    # JSON lets DEL stand as it is, TOML does not.
    return json.dumps(shown, ensure_ascii=False).replace("\x7f", "\\u007f")


def without_login(address: str) -> str:
    """An address without the user and password that somebody may have put into it."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
