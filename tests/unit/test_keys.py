import io
import json
import os
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from keepwell import sealing
from keepwell.cli.main import app
from keepwell.errors import ConfigurationError, PreconditionFailed
from keepwell.keyring import (
    IDENTITIES,
    SIGNING_KEY,
    judge_keys,
    make_key_files,
    make_offline_file,
    read_identities,
    rotate_identity,
    rotate_offline,
    write_secret,
)
from keepwell.sealing import SealForOthers, describe_signer, load_seal, public_of
from keepwell.settings import SealingSettings, load_platform
from keepwell.verdict import Verdict

OFFLINE = sealing.make_identity()[1]
OTHER_SIGNER = sealing.make_signing_key()[1]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KEEPWELL_CONFIG", raising=False)
    return tmp_path


def _keys(*words: str) -> Result:
    return CliRunner().invoke(app, ["keys", *words])


def _describe(table: str) -> None:
    """A platform file with that [sealing] table."""
    text = f'name = "esn"\n[database]\nname = "d"\nuser = "u"\n[bucket]\nname = "b"\n{table}\n'
    Path("keepwell.toml").write_text(text)


def _made() -> SealingSettings:
    """Keys of a machine and an offline recipient, made by the console and described in a platform file."""
    result = _keys("make", "--directory", "keys", "--offline-recipient", OFFLINE, "--json")
    assert result.exit_code == 0, result.stderr
    _describe(json.loads(result.stdout)["data"]["lines"])
    return load_platform().sealing


def _secrets(folder: Path) -> set[str]:
    """The last line of every file that holds secrets."""
    texts = [path.read_text() for path in folder.rglob("*") if path.suffix in (".txt", ".key")]
    lines = [line for text in texts for line in text.splitlines() if line and not line.startswith("#")]
    assert all("SECRET" in line or "secret" in line for line in lines)
    return set(lines)


# Making them.


def test_the_printed_lines_are_a_sealing_table_that_holds(folder: Path) -> None:
    result = _keys("make", "--directory", "keys", "--offline-identity-file", "offline.txt")
    assert result.exit_code == 0, result.stderr
    assert "has lost every backup" in result.stdout
    printed = result.stdout[result.stdout.index("[sealing]") : result.stdout.index("Next:")]
    assert set(tomllib.loads(printed)["sealing"]) == {
        "recipients",
        "identities_file",
        "signing_key_file",
        "trusted_signers",
    }
    _describe(printed)
    settings = load_platform().sealing
    sealing.require_able_to_seal(settings, load_seal(settings))
    assert {finding.verdict for finding in judge_keys(settings)} == {Verdict.OK}
    assert stat.S_IMODE((folder / "offline.txt").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "keys").stat().st_mode) == 0o700
    assert not any(secret in result.output for secret in _secrets(folder))
    assert len(_secrets(folder)) == 3


def test_json_tells_the_same_and_no_secret(folder: Path) -> None:
    envelope = json.loads(
        _keys("make", "--directory", "keys", "--offline-identity-file", "offline.txt", "--json").stdout
    )
    assert envelope["schema"] == "keepwell.keys.make/1"
    assert tomllib.loads(envelope["data"]["lines"])["sealing"] == envelope["data"]["sealing"]
    assert not any(secret in json.dumps(envelope) for secret in _secrets(folder))


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--offline-recipient", OFFLINE, "--offline-identity-file", "offline.txt"),
        ("--offline-recipient", "ssh-rsa AAAA"),
        ("--offline-identity-file", "no/such/folder.txt"),
    ],
)
def test_without_one_offline_key_nothing_is_made(folder: Path, flags: tuple[str, ...]) -> None:
    result = _keys("make", "--directory", "keys", *flags)
    assert result.exit_code == 1
    assert list(folder.iterdir()) == []


def test_keys_that_are_there_are_never_made_anew(folder: Path) -> None:
    _made()
    before = _secrets(folder)
    result = _keys("make", "--directory", "keys", "--offline-recipient", OFFLINE)
    assert result.exit_code == 1
    assert "Keep them" in result.stderr
    make_offline_file(folder / "offline.txt", OTHER_SIGNER)
    offline = (folder / "offline.txt").read_text()
    with pytest.raises(PreconditionFailed, match="is there already"):
        make_offline_file(folder / "offline.txt", OTHER_SIGNER)
    assert (folder / "offline.txt").read_text() == offline
    assert before < _secrets(folder)


@pytest.mark.parametrize("missing", [IDENTITIES, SIGNING_KEY])
def test_what_a_killed_run_left_out_is_made_and_the_rest_is_kept(folder: Path, missing: str) -> None:
    make_key_files(folder)
    (folder / missing).unlink()
    kept = _secrets(folder)
    made = make_key_files(folder)
    assert kept < _secrets(folder)
    assert made.recipient == public_of(read_identities(folder / IDENTITIES)[0])


def test_a_folder_that_cannot_be_written_is_named(folder: Path) -> None:
    (folder / "taken").write_text("a file")
    with pytest.raises(ConfigurationError, match="taken cannot be written"):
        make_key_files(folder / "taken")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_secret(folder / "taken" / "key", "marked-secret")


def test_an_offline_key_opens_with_stock_age(folder: Path) -> None:
    recipient = make_offline_file(folder / "offline.txt", OTHER_SIGNER)
    sealed = io.BytesIO()
    sealing.encrypt(io.BytesIO(b"rows"), sealed, [sealing.parse_recipient(recipient)])
    opened = io.BytesIO()
    sealing.decrypt(io.BytesIO(sealed.getvalue()), opened, read_identities(folder / "offline.txt"))
    assert opened.getvalue() == b"rows"


# Showing them.


def test_show_tells_whose_each_key_is_and_never_a_secret(folder: Path) -> None:
    settings = _made()
    shown = _keys("show")
    assert shown.exit_code == 0, shown.output
    rows = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert f"recipient {OFFLINE} kept elsewhere" in rows
    assert f"recipient {settings.recipients[0]} this machine's" in rows
    assert settings.trusted_signers[0] in shown.stdout
    for output in (shown.output, _keys("show", "--json").output, _keys("show", "--pem").output):
        assert not any(secret in output for secret in _secrets(folder))


def test_the_pem_checks_a_signature_with_openssl(folder: Path) -> None:
    seal = load_seal(_made())
    (folder / "signer.pem").write_text(_keys("show", "--pem").stdout)
    (folder / "manifest.json").write_bytes(b"a document")
    signature = seal.sign(b"a document")
    assert signature is not None
    (folder / "manifest.json.sig").write_bytes(signature)
    check = "openssl pkeyutl -verify -pubin -inkey signer.pem -rawin -in manifest.json -sigfile manifest.json.sig"
    assert subprocess.run(check.split(), capture_output=True, check=False).returncode == 0
    (folder / "manifest.json").write_bytes(b"another document")
    assert subprocess.run(check.split(), capture_output=True, check=False).returncode == 1


def test_pem_without_any_signer_is_an_error() -> None:
    _describe("")
    result = _keys("show", "--pem")
    assert result.exit_code == 1
    assert "No signer is trusted" in result.stderr


def test_show_is_red_where_a_backup_could_not_be_made() -> None:
    _describe("")
    result = _keys("show", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["verdict"] == "alert"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"recipients": ()}, {"recipients", "identity", "offline recipient"}),
        ({"recipients": (OFFLINE, sealing.make_identity()[1])}, {"identity"}),
        ({"signing_key": None, "trusted_signers": ()}, {"signing key"}),
        ({"trusted_signers": (OTHER_SIGNER,)}, {"signing key"}),
    ],
)
def test_each_gap_is_named(changes: dict[str, object], named: set[str]) -> None:
    settings = _made().model_copy(update=changes)
    assert {f.name for f in judge_keys(settings) if f.verdict is Verdict.ALERT} == named


def test_recipients_whose_secrets_all_lie_here_are_red() -> None:
    settings = _made()
    own = settings.recipients[0], rotate_identity(Path("keys") / IDENTITIES, settings.recipients).added
    settings = load_platform().sealing.model_copy(update={"recipients": own})
    assert {f.name for f in judge_keys(settings) if f.verdict is Verdict.ALERT} == {"offline recipient"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
@pytest.mark.parametrize("name", [IDENTITIES, SIGNING_KEY])
def test_a_key_file_that_others_can_read_or_change_is_red(name: str, mode: int) -> None:
    settings = _made()
    file = Path("keys").absolute() / name
    file.chmod(mode)
    (found,) = (f for f in judge_keys(settings) if f.verdict is not Verdict.OK)
    assert (found.verdict, found.name) == (Verdict.ALERT, name)
    assert f"chmod 600 {file}" in found.hint


def test_a_key_file_that_is_gone_is_red() -> None:
    settings = _made()
    (Path("keys") / IDENTITIES).unlink()
    (found,) = (f for f in judge_keys(settings) if f.verdict is not Verdict.OK)
    assert "cannot be read" in found.message


def test_accepting_what_nobody_signed_is_worth_a_warning() -> None:
    settings = _made().model_copy(update={"accept_unsigned": True})
    assert [f.name for f in judge_keys(settings) if f.verdict is Verdict.WARN] == ["unsigned documents"]


def test_an_unsealed_platform_is_worth_a_warning() -> None:
    assert [f.verdict for f in judge_keys(SealingSettings(mode="none"))] == [Verdict.WARN]


# Rotating them.


def test_a_rotation_says_which_recipient_is_replaced_by_which() -> None:
    settings = _made()
    old = settings.recipients[0]
    result = _keys("rotate")
    assert result.exit_code == 0, result.stderr
    new = public_of(load_seal(load_platform().sealing).identities[0])
    assert f"replace  {old}\nby       {new}" in result.stdout
    assert f"recipients = {json.dumps([new, OFFLINE])}" in result.stdout
    assert "Older backups stay readable as long as the older keys stay in that file" in result.stdout
    assert not any(secret in result.output for secret in _secrets(Path()))


def test_after_a_rotation_the_old_key_opens_the_old_set_only() -> None:
    settings = _made()
    alone = load_seal(settings)
    before, after = io.BytesIO(), io.BytesIO()
    sealing.encrypt(io.BytesIO(b"old"), before, alone.recipients)
    rotation = rotate_identity(Path("keys") / IDENTITIES, settings.recipients)
    finished = load_platform().sealing.model_copy(update={"recipients": rotation.recipients})
    assert {f.verdict for f in judge_keys(finished)} == {Verdict.OK}
    rotated = load_seal(finished)
    sealing.encrypt(io.BytesIO(b"new"), after, rotated.recipients)
    for sealed, content in ((before, b"old"), (after, b"new")):
        opened = io.BytesIO()
        sealing.decrypt(io.BytesIO(sealed.getvalue()), opened, rotated.identities)
        assert opened.getvalue() == content
    with pytest.raises(SealForOthers):
        sealing.decrypt(io.BytesIO(after.getvalue()), io.BytesIO(), alone.identities)


def test_a_rotation_that_was_not_finished_is_told_again_and_adds_nothing() -> None:
    settings = _made()
    first = rotate_identity(Path("keys") / IDENTITIES, settings.recipients)
    again = rotate_identity(Path("keys") / IDENTITIES, settings.recipients)
    assert (first.made, again.made) == (True, False)
    assert (again.added, again.replaced, again.recipients) == (first.added, first.replaced, first.recipients)
    assert len(read_identities(Path("keys") / IDENTITIES)) == 2
    assert "so none was added" in _keys("rotate").stdout
    assert [f.name for f in judge_keys(load_platform().sealing) if f.verdict is Verdict.WARN] == ["rotation"]
    assert f"{first.added} to become a recipient" in " ".join(_keys("show").stdout.split())
    third = rotate_identity(Path("keys") / IDENTITIES, first.recipients)
    assert third.replaced == first.added
    assert len(read_identities(Path("keys") / IDENTITIES)) == 3


def test_where_no_key_of_ours_is_a_recipient_the_newest_is_to_be_added() -> None:
    settings = _made()
    rotation = rotate_identity(Path("keys") / IDENTITIES, (OFFLINE,))
    assert (rotation.replaced, rotation.made) == (None, False)
    assert rotation.recipients == (OFFLINE, settings.recipients[0])


def test_a_rotation_keeps_the_file_private_and_behind_its_link(folder: Path) -> None:
    settings = _made()
    link = folder / "link.txt"
    link.symlink_to(folder / "keys" / IDENTITIES)
    rotate_identity(link, settings.recipients)
    assert link.is_symlink()
    assert len(read_identities(folder / "keys" / IDENTITIES)) == 2
    assert stat.S_IMODE((folder / "keys" / IDENTITIES).stat().st_mode) == 0o600
    assert sorted(path.name for path in (folder / "keys").iterdir()) == [IDENTITIES, SIGNING_KEY]


@pytest.mark.parametrize("planted", ["link", "open file"])
def test_what_lies_in_the_place_of_a_partial_file_gets_no_secret(tmp_path: Path, planted: str) -> None:
    of_another, partial = tmp_path / "of another", tmp_path / f"key.{os.getpid()}.partial"
    of_another.write_text("untouched")
    partial.symlink_to(of_another) if planted == "link" else partial.hardlink_to(of_another)
    write_secret(tmp_path / "key", "secret")
    assert of_another.read_text() == "untouched"
    assert (tmp_path / "key").read_text() == "secret"
    assert not (tmp_path / "key").is_symlink()


def test_the_offline_key_is_rotated_into_a_file_of_its_own(folder: Path) -> None:
    settings = _made()
    ours = settings.recipients[0]
    result = _keys("rotate", "--offline-identity-file", "new-offline.txt")
    assert result.exit_code == 0, result.stderr
    (identity,) = read_identities(folder / "new-offline.txt")
    new = public_of(identity)
    assert f"replace  {OFFLINE}\nby       {new}" in result.stdout
    assert f"recipients = {json.dumps([ours, new])}" in result.stdout
    assert "Take it away from here" in result.stdout
    signer = describe_signer(load_seal(settings).trusted[0])
    assert f"# its backups are signed by: {signer}" in (folder / "new-offline.txt").read_text()
    assert not any(secret in result.output for secret in [*_secrets(folder), str(identity)])
    assert len(read_identities(folder / "keys" / IDENTITIES)) == 1
    again = _keys("rotate", "--offline-identity-file", "new-offline.txt")
    assert (again.exit_code, "is there already" in again.stderr) == (1, True)


def test_one_of_several_keys_elsewhere_is_not_rotated_by_guessing(folder: Path) -> None:
    settings = _made()
    several = settings.model_copy(update={"recipients": (*settings.recipients, sealing.make_identity()[1])})
    with pytest.raises(ConfigurationError, match="2 recipients are kept elsewhere"):
        rotate_offline(folder / "new-offline.txt", several)
    assert not (folder / "new-offline.txt").exists()


def test_without_a_file_there_is_nothing_to_rotate(monkeypatch: pytest.MonkeyPatch) -> None:
    _describe("")
    result = _keys("rotate")
    assert result.exit_code == 1
    assert "names no file" in result.stderr
    with pytest.raises(ConfigurationError, match="cannot be read"):
        rotate_identity(Path("nowhere.txt"), ())
    Path("empty.txt").write_text("# nothing\n")
    with pytest.raises(ConfigurationError, match="holds no age identity"):
        rotate_identity(Path("empty.txt"), ())
