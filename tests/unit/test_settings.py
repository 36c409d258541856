from pathlib import Path

import pytest

from keepwell.errors import ConfigurationError
from keepwell.settings import load_platform

MINIMAL = """
name = "esn"
[database]
name = "esn_db"
user = "backup"
[bucket]
name = "backups"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KEEPWELL_CONFIG", raising=False)
    (tmp_path / "keepwell.toml").write_text(MINIMAL)
    return tmp_path


def _extend(folder: Path, text: str) -> None:
    (folder / "keepwell.toml").write_text(MINIMAL + text)


def test_defaults() -> None:
    platform = load_platform()
    assert platform.database.port == 5432
    assert platform.redis is None
    assert platform.backup.proven_level == "equal"
    assert (platform.retention.keep_days, platform.retention.keep_newest) == (30, 3)


def test_environment_over_secret_file_over_toml(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "password").write_text("from the file\n")
    text = MINIMAL.replace('user = "backup"', f'user = "backup"\nport = 1\npassword_file = "{folder}/password"')
    (folder / "keepwell.toml").write_text(text)
    monkeypatch.setenv("KEEPWELL_DATABASE__PORT", "2")
    platform = load_platform()
    assert platform.database.port == 2
    assert platform.database.password is not None
    assert platform.database.password.get_secret_value() == "from the file"
    monkeypatch.setenv("KEEPWELL_DATABASE__PASSWORD", "from the environment")
    password = load_platform().database.password
    assert password is not None
    assert password.get_secret_value() == "from the environment"


def test_secret_files_are_read_at_every_load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = folder / "password"
    monkeypatch.setenv("KEEPWELL_DATABASE__PASSWORD_FILE", str(secret))
    for word in ("old", "new"):
        secret.write_text(word)
        password = load_platform().database.password
        assert password is not None
        assert password.get_secret_value() == word


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("[bakup]\njobs = 2", "bakup", "backup"),
        ("[backup]\njbos = 2", "backup.jbos", "jobs"),
        ("[backup]\njobs = 0", "backup.jobs", ""),
        ('[backup]\nproven_level = "readable"', "backup.proven_level", ""),
        ("[retention]\nkeep_newest = 0", "retention.keep_newest", ""),
        ("[retention]\nkeep_days = 0", "keeps nothing but the newest", ""),
        ("[retention]\nkeep_day = 3", "retention.keep_day", "keep_days"),
        ('[restore]\nsmoke_paths = [{path = "/x"}]', "smoke_paths are given without base_url", ""),
        ('[restore]\nbase_url = "http://me:pw@127.0.0.1"', "restore.base_url", ""),
        ("[backup", "is not TOML", ""),
    ],
)
def test_what_is_wrong_is_named(folder: Path, text: str, says: str, hint: str) -> None:
    _extend(folder, text)
    with pytest.raises(ConfigurationError) as caught:
        load_platform()
    assert says in caught.value.message
    assert hint in caught.value.hint


def test_a_secret_in_the_file_is_refused_and_never_shown(folder: Path) -> None:
    _extend(folder, '[redis]\npassword = "hush"')
    with pytest.raises(ConfigurationError, match=r"redis\.password is a secret") as caught:
        load_platform()
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("KEEPWELL_DATABSE__PORT", "KEEPWELL_DATABASE__PORT"),
        ("KEEPWELL_BACKUP__JBOS", "KEEPWELL_BACKUP__JOBS"),
        ("keepwell_backup__jbos", "KEEPWELL_BACKUP__JOBS"),
        ("KEEPWELL_REDIS__PASWORD_FILE", "KEEPWELL_REDIS__PASSWORD_FILE"),
        ("KEEPWELL_NAME__X", "KEEPWELL_NAME"),
        ("KEEPWELL_BAKUP", "KEEPWELL_BACKUP"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_nearest_one(
    variable: str, nearest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "hush")
    with pytest.raises(ConfigurationError, match=f"The environment variable {variable} is not one") as caught:
        load_platform()
    assert caught.value.hint == f"Did you mean {nearest}?"
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(("variable", "jobs"), [("KEEPWELL_BACKUP__JOBS", 7), ("keepwell_backup__jobs", 7)])
def test_a_nested_variable_counts(variable: str, jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, str(jobs))
    assert load_platform().backup.jobs == jobs


@pytest.mark.parametrize(("content", "says"), [(None, "cannot be read"), ("\n \n", "is empty")])
def test_a_secret_file_without_a_secret(
    folder: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, says: str
) -> None:
    secret = folder / "password"
    if content is not None:
        secret.write_text(content)
    monkeypatch.setenv("KEEPWELL_DATABASE__PASSWORD_FILE", str(secret))
    with pytest.raises(ConfigurationError, match=says):
        load_platform()


def test_no_file_at_all(folder: Path) -> None:
    (folder / "keepwell.toml").unlink()
    with pytest.raises(ConfigurationError) as caught:
        load_platform()
    assert "keepwell init" in caught.value.hint


def test_a_folder_of_platforms(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several = folder / "platforms"
    several.mkdir()
    for name in ("esn", "shop"):
        (several / f"{name}.toml").write_text(MINIMAL.replace('"esn"', f'"{name}"'))
    monkeypatch.setenv("KEEPWELL_CONFIG", str(several))
    assert load_platform("shop").name == "shop"
    with pytest.raises(ConfigurationError, match="several platforms"):
        load_platform()
    with pytest.raises(ConfigurationError) as caught:
        load_platform("shp")
    assert "shop" in caught.value.hint


def test_values_never_show_in_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPWELL_NOTIFY__URLS", '["slack://hush-token"')
    _extend(folder, "")
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is, it must not tell
        load_platform()
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ('[second_bucket]\nname = "b"\n[second_folder]\ndirectory = "/b"\n', "one second destination at most"),
        ('[second_bucket]\nname = "backups"\n', "the same place as bucket"),
        ('[second_folder]\ndirectory = "b"\n', "must be an absolute path"),
        ("[second_folder]\n", "second_folder.directory is missing"),
        ('[second_bucket]\nname = "b"\nsecret_access_key = "marked"\n', "does not belong in the platform file"),
    ],
)
def test_a_second_destination_that_cannot_be_meant_is_refused(folder: Path, tables: str, says: str) -> None:
    _extend(folder, tables)
    with pytest.raises(ConfigurationError, match=says) as refused:
        load_platform()
    assert "marked" not in str(refused.value)
    assert ": :" not in str(refused.value)


def test_a_second_bucket_has_secrets_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "key").write_text("from a file\n")
    _extend(folder, f'[second_bucket]\nname = "backups"\nprefix = "other"\naccess_key_id_file = "{folder}/key"\n')
    monkeypatch.setenv("KEEPWELL_SECOND_BUCKET__SECRET_ACCESS_KEY", "from the environment")
    second = load_platform().second_bucket
    assert second is not None
    assert second.access_key_id is not None
    assert second.secret_access_key is not None
    assert second.access_key_id.get_secret_value() == "from a file"
    assert second.secret_access_key.get_secret_value() == "from the environment"
    assert load_platform().bucket.secret_access_key is None


MORE = 'user = "backup"\nmore_names = {names}'


def test_more_databases_follow_the_main_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_platform().database.names == ("esn_db",)
    text = MINIMAL.replace('user = "backup"', MORE.format(names='["analytics", "billing"]'))
    (folder / "keepwell.toml").write_text(text)
    database = load_platform().database
    assert database.names == ("esn_db", "analytics", "billing")
    assert (database.of("billing").names, database.of("billing").user) == (("billing",), "backup")
    monkeypatch.setenv("KEEPWELL_DATABASE__MORE_NAMES", '["other"]')
    assert load_platform().database.names == ("esn_db", "other")


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        ('["esn_db"]', "more_names holds the database that name names already; leave it out there"),
        ('["analytics", "b", "analytics"]', "more_names holds a database twice; name each once"),
        ('[""]', r"database\.more_names\.0: String should have at least 1 character"),
        (f'["{"a" * 64}"]', r"database\.more_names\.0: String should have at most 63 characters"),
        ('"analytics"', r"database\.more_names: Input should be a valid tuple"),
    ],
)
def test_more_databases_are_named_each_once(folder: Path, names: str, fault: str) -> None:
    (folder / "keepwell.toml").write_text(MINIMAL.replace('user = "backup"', MORE.format(names=names)))
    with pytest.raises(ConfigurationError, match=fault):
        load_platform()


def test_a_smoke_query_may_name_a_database_that_sets_hold_and_no_other(folder: Path) -> None:
    query = '\n[[backup.smoke_queries]]\nname = "asked"\nsql = "SELECT 1"\ndatabase = "{name}"\n'
    _extend(folder, query.format(name="esn_db"))
    assert load_platform().backup.smoke_queries[0].database == "esn_db"
    _extend(folder, query.format(name="analytics"))
    with pytest.raises(ConfigurationError, match="the smoke query “asked” asks a database that no set holds"):
        load_platform()


def test_what_is_wrong_with_one_platform_is_no_other_ones_trouble(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = MINIMAL.replace('"esn"', '"other"').replace(
        '"backup"\n', '"backup"\npassword_file = "/nowhere/password"\n'
    )
    (folder / "other.toml").write_text(lacking)
    monkeypatch.setenv("KEEPWELL_CONFIG", str(folder))
    assert load_platform("esn").name == "esn"
    with pytest.raises(ConfigurationError, match="/nowhere/password cannot be read"):
        load_platform("other")
