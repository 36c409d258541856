import json
import stat
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr
from typer.testing import CliRunner, Result

from keepwell.cli import init as init_module
from keepwell.cli.main import app
from keepwell.cli.platform_file import known_keys, render_platform_file
from keepwell.errors import ConfigurationError
from keepwell.keyring import judge_keys, make_key_files, read_identities
from keepwell.objectstore.destinations import has_second
from keepwell.sealing import load_seal, make_identity, public_of, require_able_to_seal
from keepwell.settings import Platform, load_platform
from keepwell.verdict import Verdict

DESCRIBED = ("--name", "esn", "--database-name", "esn_db", "--database-user", "backup", "--bucket", "backups")
OFFLINE = make_identity()[1]
REQUIRED = (*DESCRIBED, "--offline-recipient", OFFLINE)
WRITTEN = ["keepwell.toml", "keys"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KEEPWELL_CONFIG", raising=False)
    return tmp_path


def _init(*words: str) -> Result:
    return CliRunner().invoke(app, ["init", *words])


def test_the_file_loads_and_is_private(folder: Path) -> None:
    result = _init(
        *REQUIRED, "--endpoint-url", "http://127.0.0.1:9000", "--redis-host", "cache", "--database-port", "5433"
    )
    assert result.exit_code == 0
    assert "keepwell doctor" in result.stdout
    written = folder / "keepwell.toml"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    platform = load_platform()
    assert (platform.name, platform.database.port, platform.database.user) == ("esn", 5433, "backup")
    assert platform.redis is not None
    assert platform.redis.host == "cache"
    assert sorted(path.name for path in folder.iterdir()) == WRITTEN


def test_the_minimal_file_means_the_defaults() -> None:
    assert _init(*REQUIRED).exit_code == 0
    platform = load_platform()
    assert (platform.redis, platform.uploads) == (None, None)
    assert platform.backup == Platform.model_fields["backup"].default


def test_every_key_of_the_settings_is_explained() -> None:
    text = render_platform_file("esn", {})
    for section, key in known_keys():
        field = _model(section).model_fields[key]
        assert key in text
        assert (field.description or "?").split()[0] in text
    assert {section for section, _ in known_keys()} == set(Platform.model_fields) - {"name"}


def test_every_commented_key_may_be_uncommented(folder: Path) -> None:
    """Each shown default is of the right type and name: the file loads with all of them in force."""
    lines = render_platform_file("esn", {}).splitlines()
    bare = [line.removeprefix("# ") if _is_code(line.removeprefix("# ")) else line for line in lines]
    values = tomllib.loads("\n".join(bare))
    for section, key in known_keys():
        if SecretStr not in _flat(_model(section), key):
            assert key in values[section], f"{section}.{key}"
    values["database"] |= {"name": "n", "user": "u"}
    values["bucket"] |= {"name": "b", "prefix": "p"}
    for table in values.values():
        if isinstance(table, dict):
            for key in [key for key in table if key.endswith("_file")]:
                del table[key]
    values["backup"]["smoke_queries"] = [{"name": "n", "sql": "SELECT 1", "at_least": 1.0}]
    # One of the two second destinations at a time.
    second_bucket, second_folder = (
        values.pop("second_bucket") | {"name": "b2", "prefix": "p"},
        values.pop("second_folder"),
    )
    for second in ({"second_bucket": second_bucket}, {"second_folder": second_folder}):
        (folder / "keepwell.toml").write_text(_toml(values | second))
        assert has_second(load_platform())


def _is_code(line: str) -> bool:
    key, equals, _ = line.partition(" = ")
    return line.startswith("[") or bool(equals and key.isidentifier())


def _toml(values: dict[str, object]) -> str:
    lines = [f"name = {json.dumps(values['name'])}"]
    for section, table in values.items():
        if isinstance(table, dict):
            plain = {key: value for key, value in table.items() if not isinstance(value, list)}
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in plain.items())]
    return "\n".join(lines)


def _model(section: str) -> type[BaseModel]:
    from keepwell.cli.platform_file import _model_in

    model = _model_in(Platform.model_fields[section].annotation)
    assert model is not None
    return model


def _flat(model: type[BaseModel], key: str) -> tuple[object, ...]:
    from typing import get_args

    annotation = model.model_fields[key].annotation
    return (annotation, *get_args(annotation))


def test_no_secret_ever_has_a_key_of_its_own() -> None:
    text = render_platform_file("esn", {})
    assert "\n# password = " not in text
    assert "\npassword = " not in text


def test_missing_flags_are_named() -> None:
    result = _init("--name", "esn")
    assert result.exit_code == 1
    assert "--database-name, --database-user, --bucket" in result.stderr


def test_a_file_that_is_there_is_kept_unless_forced(folder: Path) -> None:
    (folder / "keepwell.toml").write_text("mine")
    result = _init(*REQUIRED)
    assert result.exit_code == 1
    assert "--force" in result.stderr
    assert (folder / "keepwell.toml").read_text() == "mine"
    assert _init(*REQUIRED, "--force").exit_code == 0
    assert load_platform().name == "esn"


@pytest.mark.parametrize(
    "flags",
    [
        ("--prefix", "/outer/"),
        ("--endpoint-url", "ftp://x"),
        ("--database-port", "0"),
        ("--database-password-file", "/no/such/file"),
    ],
)
def test_what_would_not_load_is_never_written(folder: Path, flags: tuple[str, str]) -> None:
    (folder / "keepwell.toml").write_text("mine")
    result = _init(*REQUIRED, *flags, "--force")
    assert result.exit_code == 1
    assert "would not load" in result.stderr
    assert (folder / "keepwell.toml").read_text() == "mine"
    assert [path.name for path in folder.iterdir()] == ["keepwell.toml"]


def test_a_folder_that_is_not_there() -> None:
    result = _init(*REQUIRED, "--output", "no/such/keepwell.toml")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr


def test_another_place_is_named_in_the_next_command() -> None:
    assert "KEEPWELL_CONFIG=other.toml keepwell doctor" in _init(*REQUIRED, "--output", "other.toml").stdout


def test_json_names_the_file() -> None:
    envelope = json.loads(_init(*REQUIRED, "--json").stdout)
    assert envelope["schema"] == "keepwell.init/1"
    assert envelope["data"]["path"].endswith("/keepwell.toml")


def test_values_are_quoted_for_toml() -> None:
    text = render_platform_file("esn", {"database": {"name": 'a"b\\c', "user": "ü"}, "bucket": {"name": "b"}})
    values = tomllib.loads(text)
    assert values["database"]["name"] == 'a"b\\c'
    assert values["database"]["user"] == "ü"


@pytest.mark.parametrize("offline", [f"{OFFLINE}\n", "\noffline.txt\n"])
def test_answers_on_a_terminal(monkeypatch: pytest.MonkeyPatch, offline: str) -> None:
    monkeypatch.setattr("keepwell.cli.console.is_interactive", lambda: True)
    typed = f"esn\n\n5433\nesn_db\nbackup\n\nbackups\nhttp://127.0.0.1:9\n\n\n{offline}"
    result = CliRunner().invoke(app, ["init"], input=typed)
    assert result.exit_code == 0, result.stderr
    assert "has lost every backup" in result.stderr
    platform = load_platform()
    assert len(platform.sealing.recipients) == 2
    assert (platform.database.host, platform.database.port, platform.bucket.name) == ("127.0.0.1", 5433, "backups")


def test_nothing_is_asked_with_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepwell.cli.console.is_interactive", lambda: True)
    assert _init(*REQUIRED, "--yes").exit_code == 0


def test_the_keys_can_seal_sign_and_open_and_are_private(folder: Path) -> None:
    result = _init(*REQUIRED)
    sealing = load_platform().sealing
    require_able_to_seal(sealing, load_seal(sealing))
    assert OFFLINE in sealing.recipients
    assert {finding.verdict for finding in judge_keys(sealing)} == {Verdict.OK}
    for file in (folder / "keys").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.read_text().split()[-1] not in result.output
    assert "has lost every backup" in result.stdout


def test_an_offline_key_is_made_to_be_taken_away(folder: Path) -> None:
    assert _init(*DESCRIBED, "--offline-identity-file", "offline.txt").exit_code == 0
    sealing = load_platform().sealing
    (offline,) = read_identities(folder / "offline.txt")
    assert sealing.recipients[1] == public_of(offline)
    assert sealing.trusted_signers[0] in (folder / "offline.txt").read_text()
    (folder / "offline.txt").unlink()
    assert {finding.verdict for finding in judge_keys(load_platform().sealing)} == {Verdict.OK}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "--no-sealing"),
        (("--offline-recipient", OFFLINE, "--offline-identity-file", "off.txt"), "which offline key"),
        (("--offline-recipient", "age1nonsense"), "no age public key"),
        (("--offline-recipient", OFFLINE, "--no-sealing"), "Leave one of them out"),
        (("--offline-identity-file", "no/such/folder/off.txt"), "no folder"),
    ],
)
def test_without_one_offline_key_nothing_is_written(folder: Path, flags: tuple[str, ...], said: str) -> None:
    result = _init(*DESCRIBED, *flags)
    assert result.exit_code == 1
    assert said in result.stderr
    assert list(folder.iterdir()) == []


def test_an_offline_key_that_is_there_is_not_overwritten(folder: Path) -> None:
    (folder / "off.txt").write_text("needed")
    assert _init(*DESCRIBED, "--offline-identity-file", "off.txt").exit_code == 1
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("off.txt", "needed")]


def test_a_trial_is_unsealed_and_says_so(folder: Path) -> None:
    result = _init(*DESCRIBED, "--no-sealing")
    assert result.exit_code == 0
    assert "NOT SEALED" in result.stdout
    assert load_platform().sealing.mode == "none"
    assert [path.name for path in folder.iterdir()] == ["keepwell.toml"]


def test_keys_that_are_there_are_kept_and_used(folder: Path) -> None:
    """A run that was killed before the file was written, or a file that is written anew."""
    keys = make_key_files(folder / "kept")
    content = keys.identities_file.read_bytes(), keys.signing_key_file.read_bytes()
    assert _init(*REQUIRED, "--keys-directory", "kept").exit_code == 0
    sealing = load_platform().sealing
    assert sealing.recipients == (keys.recipient, OFFLINE)
    assert sealing.trusted_signers == (keys.signer,)
    assert (keys.identities_file.read_bytes(), keys.signing_key_file.read_bytes()) == content
    result = _init(*DESCRIBED, "--keys-directory", "kept", "--offline-recipient", keys.recipient, "--force")
    assert "this machine's own key" in result.stderr


def test_every_answer_is_a_key_of_the_settings() -> None:
    keys = {".".join(pair) for pair in known_keys()} | {"name"}
    assert {key for key, *_ in init_module._QUESTIONS} <= keys
    assert set(init_module._REQUIRED) <= keys
    with pytest.raises(ConfigurationError):
        init_module.require_answers(dict.fromkeys(init_module._REQUIRED))
