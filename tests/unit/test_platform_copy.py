import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from backup_documents import a_cache, some_uploads
from pydantic import BaseModel, SecretStr

from keepwell.backup.companions_page import render_companions_page
from keepwell.backup.platform_copy import render_without_secrets
from keepwell.settings import Platform, SmokeQuery, load_platform_file

MARK = "marked-secret"
FILE = """
name = "esn"
[database]
name = "esn_db"
user = "keep\\u007f\\"well"
password_file = "{folder}/database"
restoring_user = "restorer"
[bucket]
name = "b"
endpoint_url = "https://someone:marked-secret-in-an-address@store.example:9000/x"
access_key_id_file = "{folder}/bucket"
[second_bucket]
name = "b2"
[restore_server]
host = "other"
user = "postgres"
[redis]
[uploads]
directory = "/srv/uploads"
[sealing]
recipients = ["age1a", "age1b"]
identities_file = "{folder}/sealing"
[orchestrator]
api_url = "http://user:marked-secret-too@127.0.0.1:4200/api"
[[backup.smoke_queries]]
name = "two \\"words\\""
sql = '''SELECT count(*) FROM "users"
WHERE email LIKE '%@%' '''
at_least = 1
[[backup.smoke_queries]]
name = "other"
sql = "SELECT true"
"""


def secret_fields() -> Iterator[tuple[str, str, bool]]:
    """Section and name of every secret of a platform, and whether it is a list."""
    for section, field in Platform.model_fields.items():
        for model in (field.annotation, *get_args(field.annotation)):
            if isinstance(model, type) and issubclass(model, BaseModel):
                for key, inner in model.model_fields.items():
                    if SecretStr in (inner.annotation, *get_args(inner.annotation)):
                        yield section, key, inner.annotation == tuple[SecretStr, ...]


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """A platform whose every secret is marked."""
    for number, (section, key, several) in enumerate(secret_fields()):
        value = f'["{MARK}-{number}"]' if several else f"{MARK}-{number}"
        monkeypatch.setenv(f"KEEPWELL_{section.upper()}__{key.upper()}", value)
    for name in ("database", "bucket", "sealing"):
        (tmp_path / name).write_text(f"{MARK}-in-a-file\n")
    (tmp_path / "keepwell.toml").write_text(FILE.replace("{folder}", str(tmp_path)))
    return load_platform_file(tmp_path / "keepwell.toml")


def secrets_of(value: Any) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for key in type(value).model_fields:
            yield from secrets_of(getattr(value, key))
    elif isinstance(value, tuple):
        for one in value:
            yield from secrets_of(one)


def test_no_secret_is_in_it_however_it_came(platform: Platform) -> None:
    held = list(secrets_of(platform))
    assert len(held) == len(list(secret_fields()))
    assert all(MARK in secret for secret in held)
    assert MARK not in render_without_secrets(platform)


def test_it_says_where_each_secret_came_from(platform: Platform, tmp_path: Path) -> None:
    text = render_without_secrets(platform)
    assert f'password_file = "{tmp_path}/database"' in text
    assert "# secret_access_key: a secret, from secret_access_key_file or KEEPWELL_BUCKET__SECRET_ACCESS_KEY." in text


def test_it_is_the_platform_again_once_the_secrets_are_there(platform: Platform, tmp_path: Path) -> None:
    text = render_without_secrets(platform)
    copied = tmp_path / "copied.toml"
    copied.write_text(text)
    again = load_platform_file(copied)
    assert tomllib.loads(text)["backup"]["smoke_queries"][1] == {"name": "other", "sql": "SELECT true"}
    bucket = platform.bucket.model_copy(update={"endpoint_url": "https://store.example:9000/x"})
    orchestrator = platform.orchestrator.model_copy(update={"api_url": "http://127.0.0.1:4200/api"})
    expected = platform.model_copy(update={"bucket": bucket, "orchestrator": orchestrator})
    assert again.model_dump() == expected.model_dump()
    assert again.backup.smoke_queries[0] == SmokeQuery(
        name='two "words"', sql="SELECT count(*) FROM \"users\"\nWHERE email LIKE '%@%' ", at_least=1
    )


def test_what_is_not_configured_is_not_in_it(platform: Platform) -> None:
    bare = platform.model_copy(update={"redis": None, "uploads": None})
    assert set(tomllib.loads(render_without_secrets(bare))) & {"redis", "uploads"} == set()


def test_the_page_on_restoring_says_what_is_not_in_the_set() -> None:
    text = render_companions_page(None, None, "20260302T020000Z-abcdef")
    assert text.count("NOT in this set") == 2
    assert "restore-uploads" not in text


def test_the_page_on_restoring_says_how_files_and_keys_come_back() -> None:
    text = render_companions_page(some_uploads(left_out=2), a_cache(), "20260302T020000Z-abcdef")
    assert "keepwell backup restore-uploads 20260302T020000Z-abcdef --into NEW_FOLDER" in text
    assert "2 entries of the folder could not be included" in text
    assert "one key of Valkey 9.1.2" in text
    assert "```sh" not in text
    compile(text.partition("```python\n")[2].partition("```")[0], "page", "exec")
