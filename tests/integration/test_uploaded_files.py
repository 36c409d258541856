"""Uploaded files by content: what is sent, what a proof sees of each kind of damage, and what comes back."""

import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pytest
from backup_sets import back_up, copy_set, failed_level, part_of, prove, replace_content, seal
from real_servers import Server, bucket_settings, build_platform, fresh_database, make_sealing
from typer.testing import CliRunner

from deployments.local.objectstore import RunningObjectStore
from keepwell.backup import layout, uploaded_files
from keepwell.backup import restore_uploads as engine
from keepwell.backup.catalogue import read_entry
from keepwell.backup.create import create_backup
from keepwell.backup.manifest import Manifest
from keepwell.backup.read_back import SetReader
from keepwell.backup.restore_uploads import restore_uploads
from keepwell.backup.uploads_index import FileEntry, name_path, read_index, read_upload_objects
from keepwell.backup.uploads_proof import SLICES, UploadsChecked, check_uploads, read_trusted
from keepwell.backup.verify import verify_backup
from keepwell.cli import console
from keepwell.cli.main import app
from keepwell.errors import PreconditionFailed, VerificationFailed
from keepwell.objectstore.bucket import BucketStore, open_store
from keepwell.objectstore.store import Store
from keepwell.progress import Step, silent
from keepwell.restore.uploads_beside import plan_uploads_beside, restore_uploads_beside
from keepwell.sealing import load_seal
from keepwell.settings import Platform, UploadsSettings
from keepwell.verdict import Verdict
from sample.uploads import write_uploads

NOT_UTF8 = b"caf\xe9 \xff.txt"
TODAY = date(2026, 3, 2)


@dataclass(frozen=True)
class Case:
    """A platform with an uploads folder, and a set of it."""

    platform: Platform
    store: Store
    folder: Path
    manifest: Manifest


def write_odd_files(folder: Path) -> None:
    write_uploads(folder, scale=0.05)
    (folder / "empty folder" / "deeper").mkdir(parents=True)
    (folder / "empty folder").chmod(0o2750)
    (folder / "empty").write_bytes(b"")
    (folder / "same one").write_bytes(b"the same content")
    (folder / "same two").write_bytes(b"the same content")
    (folder / 'line\nbreak "and" \\ – ü\u202e.bin').write_bytes(os.urandom(100))
    (folder / "-rf").write_text("a name like an option")
    (folder / ("n" * 255)).write_text("a long name")
    with (folder / "large.bin").open("wb") as large:
        large.write(os.urandom(9 * 1024 * 1024))  # takes more than one part
    (folder / os.fsdecode(NOT_UTF8)).write_text("no UTF-8")
    (folder / "script.sh").write_text("#!/bin/sh")
    (folder / "script.sh").chmod(0o4755)
    (folder / "link").symlink_to("same one")
    (folder / "link outside").symlink_to("/etc/passwd")
    (folder / "link to folder").symlink_to("avatars", target_is_directory=True)
    os.utime(folder / "same one", ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))


@pytest.fixture(scope="module")
def case(
    servers: Callable[[int], Server], objectstore: RunningObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    server, folder = servers(17), tmp_path_factory.mktemp("uploads")
    write_odd_files(folder)
    with fresh_database(server) as database:
        with server.connect(database) as connection:
            connection.execute("CREATE TABLE t AS SELECT 1 AS a")
        platform = build_platform(
            server,
            database,
            bucket_settings(objectstore),
            tmp_path_factory.mktemp("spool"),
            uploads=UploadsSettings(directory=folder),
        )
        yield Case(platform, open_store(platform), folder, back_up(platform))


def check(
    case: Case, manifest: Manifest, folder: Path, *, everything: bool = True, today: date = TODAY
) -> UploadsChecked:
    """The uploads' share of the level *readable*."""
    folder.mkdir(exist_ok=True)
    reader = SetReader(case.store, manifest, folder, silent)
    trusted = None if everything else read_upload_objects(case.store, case.manifest)
    return check_uploads(case.store, manifest, reader, silent, today=today, trusted=trusted)


def entry_of(case: Case, path: str) -> FileEntry:
    return next(entry for entry in read_index(case.store, case.manifest) if entry.path == path)


@contextmanager
def replaced(store: Store, key: str, content: bytes | None) -> Iterator[None]:
    """Another object under a key, or none, for the length of a block."""
    original = store.get_bytes(key)
    if content is None:
        store.delete([key])
    else:
        store.put_bytes(key, content)
    try:
        yield
    finally:
        store.put_bytes(key, original)
        store.delete([layout.damaged_upload_key(key)])


@contextmanager
def counted_puts(store: Store) -> Iterator[list[str]]:
    """Keys that are written meanwhile."""
    keys: list[str] = []

    def note(params: dict[str, str], **_: object) -> None:
        keys.append(params["Key"].removeprefix(store.key("")))

    for call in ("PutObject", "CreateMultipartUpload"):
        store.client.meta.events.register(f"before-parameter-build.s3.{call}", note, unique_id=f"count-{call}")
    try:
        yield keys
    finally:
        for call in ("PutObject", "CreateMultipartUpload"):
            store.client.meta.events.unregister(f"before-parameter-build.s3.{call}", unique_id=f"count-{call}")


def back_up_with(case: Case, progress: Callable[[Step], None] = silent) -> Manifest:
    return create_backup(case.platform, case.store, progress)


# What a set holds.


def test_a_set_is_proven_with_its_files_and_says_what_they_are(case: Case) -> None:
    proof = prove(case.platform, case.manifest.backup_id)
    assert (proof.reached, proof.verdict) == ("serving", Verdict.OK)
    readable = next(outcome for outcome in proof.levels if outcome.level == "readable")
    found = case.manifest.uploads
    assert found is not None
    assert f"{found.files:,} uploaded files with {found.contents:,} contents, all read back" in readable.summary
    on_disk = [path for path in case.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert (found.files, found.size_bytes) == (len(on_disk), sum(path.stat().st_size for path in on_disk))
    assert (found.links, found.left_out, found.sent_contents) == (3, 0, found.contents)
    assert found.contents < found.files  # two have the same content
    assert case.manifest.snapshot_at < found.began_at <= found.finished_at


def test_contents_lie_sealed_outside_the_set_under_their_hash(case: Case) -> None:
    entry = entry_of(case, "same one")
    assert entry.key == f"uploads/{entry.sha256[:2]}/{entry.sha256}.zst.age"
    assert entry_of(case, "same two").key == entry.key
    assert case.store.get_bytes(entry.key).startswith(b"age-encryption.org/v1")
    stored = {found.key for found in case.store.list_objects(layout.UPLOADS)}
    assert stored == read_upload_objects(case.store, case.manifest)


def test_a_second_set_sends_nothing_and_names_the_same_contents(case: Case) -> None:
    with counted_puts(case.store) as keys:
        second = back_up_with(case)
    assert any(key.startswith(layout.BACKUPS) for key in keys)
    assert [key for key in keys if key.startswith(layout.UPLOADS)] == []
    assert second.uploads is not None
    assert (second.uploads.sent_contents, second.uploads.sent_bytes) == (0, 0)
    assert read_upload_objects(case.store, second) == read_upload_objects(case.store, case.manifest)


def test_one_new_content_is_one_more_object_however_many_files_hold_it(case: Case) -> None:
    for name in ("new one", "new two"):
        (case.folder / name).write_text("a new content")
    try:
        with counted_puts(case.store) as keys:
            second = back_up_with(case)
    finally:
        for name in ("new one", "new two"):
            (case.folder / name).unlink()
    assert len([key for key in keys if key.startswith(layout.UPLOADS)]) == 1
    assert second.uploads is not None
    assert second.uploads.sent_contents == 1


# Damage.


def test_an_untouched_set_has_nothing_to_tell(case: Case, tmp_path: Path) -> None:
    assert check(case, case.manifest, tmp_path / "r").findings == ()


@pytest.mark.parametrize("place", [0, -1, 250])
def test_a_flipped_byte_is_named_by_the_files_path(case: Case, tmp_path: Path, place: int) -> None:
    entry = entry_of(case, "large.bin")
    content = bytearray(case.store.get_bytes(entry.key))
    content[place] ^= 1
    with replaced(case.store, entry.key, bytes(content)):
        (finding,) = check(case, case.manifest, tmp_path / "r").findings
        assert (finding.name, finding.verdict) == ("large.bin", Verdict.ALERT)
        assert case.store.find(layout.damaged_upload_key(entry.key)) is not None


def test_a_missing_object_is_named_by_every_set_even_where_nothing_is_read(case: Case, tmp_path: Path) -> None:
    entry = entry_of(case, "same one")
    with replaced(case.store, entry.key, None):
        found = check(case, case.manifest, tmp_path / "r", everything=False)
    (finding,) = found.findings
    assert finding.verdict is Verdict.ALERT
    assert "same one (and 1 more of the same content) is missing from the store" in finding.message


def test_swapped_objects_are_both_named(case: Case, tmp_path: Path) -> None:
    one, other = entry_of(case, "same one"), entry_of(case, "script.sh")
    contents = case.store.get_bytes(one.key), case.store.get_bytes(other.key)
    with replaced(case.store, one.key, contents[1]), replaced(case.store, other.key, contents[0]):
        found = check(case, case.manifest, tmp_path / "r")
    assert {finding.name for finding in found.findings} == {"same one", "script.sh"}
    assert all("another content" in finding.message for finding in found.findings)


def test_an_object_cut_short_is_noticed_by_its_size_and_then_read(case: Case, tmp_path: Path) -> None:
    entry = entry_of(case, "large.bin")
    quiet = next(TODAY + timedelta(days=n) for n in range(SLICES) if not in_slice(entry, TODAY + timedelta(days=n)))
    second = back_up_with(case)
    with replaced(case.store, entry.key, case.store.get_bytes(entry.key)[:-1000]):
        found = check(case, second, tmp_path / "r", everything=False, today=quiet)
    assert [finding.name for finding in found.findings] == ["large.bin"]


def in_slice(entry: FileEntry, today: date) -> bool:
    return int(entry.sha256[:8], 16) % SLICES == today.toordinal() % SLICES


def test_a_night_finds_a_flipped_byte_of_an_old_content_on_the_day_of_its_slice_and_says_what_it_read(
    case: Case, tmp_path: Path
) -> None:
    second = back_up_with(case)
    entry = entry_of(case, "script.sh")
    its_day = next(day for n in range(SLICES) if in_slice(entry, day := TODAY + timedelta(days=n)))
    content = bytearray(case.store.get_bytes(entry.key))
    content[-1] ^= 1
    with replaced(case.store, entry.key, bytes(content)):
        before = check(case, second, tmp_path / "before", everything=False, today=its_day - timedelta(days=1))
        found = check(case, second, tmp_path / "its", everything=False, today=its_day)
        # Once it is known to be damaged, no night calls it sound.
        after = check(case, second, tmp_path / "after", everything=False, today=its_day + timedelta(days=1))
    assert before.findings == ()
    assert "0 new ones and" in before.summary
    assert f"(slice {its_day.toordinal() % SLICES + 1} of {SLICES}) read back" in found.summary
    assert [finding.name for finding in found.findings] == ["script.sh"]
    assert [finding.name for finding in after.findings] == ["script.sh"]


def test_a_changed_line_of_the_index_turns_red(case: Case) -> None:
    copied = copy_set(case.store, case.manifest.backup_id)
    part = part_of(copied, layout.UPLOADS_INDEX)
    replace_content(
        case.store, copied, part, lambda content: content.replace(b'"same one"', b'"same 1ne"'), rebuild=False
    )
    level = failed_level(prove(case.platform, copied.backup_id))
    assert (level.level in ("uploaded", "readable"), level.verdict) == (True, Verdict.ALERT)
    assert level.findings[0].name == part.name


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b'"path":"same one"', b'"path":"../same"', "leads out of the folder"),
        (b'"path":"same one"', b'"path":"/etc/x"', "leads out of the folder"),
        (b'"kind":"link"', b'"kind":"lunk"', "it is no entry"),
        (b'.zst.age"', b'.zst.agg"', "is missing from the store"),
        (b'"key":"uploads/', b'"key":"backups/', "is said to lie in"),
        (b'"size_bytes":16', b'"size_bytes":17', "the manifest says"),
    ],
)
def test_an_index_that_says_what_cannot_be_turns_red(
    case: Case, tmp_path: Path, old: bytes, new: bytes, told: str
) -> None:
    copied = copy_set(case.store, case.manifest.backup_id)
    part = part_of(copied, layout.UPLOADS_INDEX)
    agreeing = replace_content(case.store, copied, part, lambda content: content.replace(old, new), rebuild=True)
    found = check(case, agreeing, tmp_path / "r")
    assert found.findings[0].verdict is Verdict.ALERT
    assert told in found.findings[0].message


def test_a_content_that_was_found_damaged_is_sent_anew_by_the_next_backup(case: Case, tmp_path: Path) -> None:
    entry = entry_of(case, "script.sh")
    with replaced(case.store, entry.key, b"rotten"):
        proof = prove(case.platform, case.manifest.backup_id)
        assert failed_level(proof).findings[0].name == "script.sh"
        assert not read_entry(case.store, case.manifest.backup_id).is_proven("equal")
        with counted_puts(case.store) as keys:
            second = back_up_with(case)
        assert [key for key in keys if key.startswith(layout.UPLOADS)] == [entry.key]
        # Known to every proof until one has read what was sent, even where nothing else would be.
        assert case.store.find(layout.damaged_upload_key(entry.key)) is not None
        assert check(case, second, tmp_path / "s", everything=False).findings == ()
        assert list(case.store.list_objects(layout.DAMAGED_UPLOADS)) == []
        # The older set needs the same content, and has it again.
        assert check(case, case.manifest, tmp_path / "r").findings == ()


def test_files_sealed_for_others_are_unknown_and_not_called_damaged(case: Case, tmp_path: Path) -> None:
    entry = entry_of(case, "same one")
    stranger = load_seal(make_sealing())
    foreign = BucketStore(case.store.client, case.store.bucket, case.store.key(""), stranger)
    content = seal(foreign, b"whatever")
    with replaced(case.store, entry.key, content):
        (finding,) = check(case, case.manifest, tmp_path / "r").findings
        assert finding.verdict is Verdict.UNKNOWN
        assert list(case.store.list_objects(layout.DAMAGED_UPLOADS)) == []


def test_a_night_trusts_only_what_a_proof_has_read(case: Case) -> None:
    level = case.platform.backup.proven_level
    assert prove(case.platform, back_up_with(case).backup_id).reached == "serving"
    (case.folder / "unread").write_text("nobody has read it back yet")
    try:
        unproven = back_up_with(case)
        second = back_up_with(case)
        assert second.uploads is not None
        assert second.uploads.sent_contents == 0
        new = next(entry.key for entry in read_index(case.store, second) if entry.path == "unread")
        assert new not in read_trusted(case.store, second.backup_id, level)
        proof = verify_backup(case.platform, case.store, second.backup_id, silent, all_uploads=False)
        assert ": 1 new ones and " in proof.levels[1].summary
        third = back_up_with(case)
    finally:
        (case.folder / "unread").unlink()
    assert new in read_trusted(case.store, third.backup_id, level)
    assert read_trusted(case.store, case.manifest.backup_id, level) == frozenset()
    assert unproven.backup_id < second.backup_id


# A folder that does not hold still, and what cannot be included.


def test_sockets_pipes_and_unreadable_entries_are_named_in_the_set_and_its_proof(case: Case) -> None:
    listening = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(case.folder)  # a socket's path may not be long
    try:
        listening.bind("a.sock")
    finally:
        os.chdir(here)
    os.mkfifo(case.folder / "a pipe")
    try:
        manifest = back_up_with(case)
        proof = verify_backup(case.platform, case.store, manifest.backup_id, silent, all_uploads=False)
    finally:
        listening.close()
        (case.folder / "a.sock").unlink()
        (case.folder / "a pipe").unlink()
    assert manifest.uploads is not None
    assert manifest.uploads.named_left_out == ("a pipe is a pipe", "a.sock is a socket")
    assert manifest.unproven == (("2 entries of the uploads folder", "a pipe is a pipe"),)
    (finding,) = [finding for finding in proof.findings if finding.name == "uploads"]
    assert finding.verdict is Verdict.WARN
    assert "a pipe is a pipe; a.sock is a socket" in finding.message
    assert proof.reached == "serving"


def test_a_file_that_changes_while_it_is_read_is_read_again(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    changing = case.folder / "changing"
    changing.write_text("first")
    sent: list[str] = []
    original = uploaded_files._Run._send

    def send(run: uploaded_files._Run, entries: list[FileEntry]) -> bool:
        if entries[0].path == "changing" and not sent:
            changing.write_text("second, and longer")
        sent.extend(entry.path for entry in entries)
        return original(run, entries)

    monkeypatch.setattr(uploaded_files._Run, "_send", send)
    try:
        manifest = back_up_with(case)
    finally:
        changing.unlink()
    entry = next(entry for entry in read_index(case.store, manifest) if entry.path == "changing")
    assert sent == ["changing", "changing"]
    assert entry.size_bytes == len("second, and longer")
    # Nothing lies under the hash of what was never stored.
    keys = {found.key for found in case.store.list_objects(layout.UPLOADS)}
    assert not any(
        key.startswith("uploads/a7/a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e") for key in keys
    )


def test_a_file_that_never_holds_still_or_vanishes_is_named(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    restless, vanishing = case.folder / "restless", case.folder / "vanishing"
    restless.write_text("0")
    vanishing.write_text("soon gone")
    original = uploaded_files._Run._send

    def send(run: uploaded_files._Run, entries: list[FileEntry]) -> bool:
        if entries[0].path == "restless":
            restless.write_text(restless.read_text() + "1")
        if entries[0].path == "vanishing":
            vanishing.unlink()
        return original(run, entries)

    monkeypatch.setattr(uploaded_files._Run, "_send", send)
    try:
        manifest = back_up_with(case)
    finally:
        restless.unlink()
    assert manifest.uploads is not None
    assert manifest.uploads.named_left_out == (
        "restless changed each time that it was read",
        "vanishing vanished while the folder was read",
    )


def test_a_folder_that_is_not_there_fails_before_anything_is_stored(case: Case, tmp_path: Path) -> None:
    missing = case.platform.model_copy(update={"uploads": UploadsSettings(directory=tmp_path / "missing")})
    with counted_puts(case.store) as keys, pytest.raises(PreconditionFailed, match="uploads folder"):
        create_backup(missing, case.store, silent)
    assert keys == []


def test_nothing_outside_is_read_through_a_folder_that_became_a_link(case: Case, tmp_path: Path) -> None:
    """What an application that may write here could do to a backup that runs as root."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("a secret of another user")
    inside = case.folder / "swapped"
    inside.mkdir()
    (inside / "secret").write_text("harmless")

    descriptor = os.open(case.folder, os.O_RDONLY)
    try:
        entries = [entry for entry in uploaded_files.list_folder(descriptor) if entry.path == "swapped/secret"]
        (inside / "secret").unlink()
        inside.rmdir()
        inside.symlink_to(outside)
        run = uploaded_files._Run(descriptor, case.store, None, 3, silent, anew=False)  # type: ignore[arg-type]
        (stored,) = run.store_files(entries)
    finally:
        os.close(descriptor)
        inside.unlink()
    assert stored.kind == "left out"


# Restoring.


def tree(folder: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything below a folder: kind, content, permission bits, time."""
    found: dict[bytes, tuple[object, ...]] = {}
    for path in folder.rglob("*"):
        facts = path.lstat()
        name = os.fsencode(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", path.readlink())
        elif path.is_dir():
            found[name] = ("folder", stat.S_IMODE(facts.st_mode), facts.st_mtime_ns)
        else:
            found[name] = ("file", path.read_bytes(), stat.S_IMODE(facts.st_mode), facts.st_mtime_ns)
    return found


def test_everything_comes_back_as_it_was(case: Case, tmp_path: Path) -> None:
    restored = restore_uploads(case.store, case.manifest.backup_id, tmp_path / "into", silent)
    expected = tree(case.folder)
    del expected[b"link outside"]
    content, modified_at_ns = expected[b"script.sh"][1], expected[b"script.sh"][3]
    expected[b"script.sh"] = ("file", content, 0o755, modified_at_ns)  # nothing runs as its owner any more
    assert tree(tmp_path / "into") == expected
    assert NOT_UTF8 in expected
    assert (restored.files, restored.folder) == (
        case.manifest.uploads and case.manifest.uploads.files,
        tmp_path / "into",
    )
    assert [finding.name for finding in restored.findings] == ["link outside"]


def test_the_console_shows_and_restores_them(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "load_platform", lambda name: case.platform)
    shown = CliRunner().invoke(app, ["backup", "show", case.manifest.backup_id], env={"COLUMNS": "400"})
    assert case.manifest.uploads is not None
    assert f"Uploaded files: {case.manifest.uploads.files:,} with " in shown.output
    assert "Redis: NOT in the set, since none is configured." in shown.output
    call = ["backup", "restore-uploads", case.manifest.backup_id, "--into", str(tmp_path / "into"), "--json"]
    call.append("--unproven")
    restored = CliRunner().invoke(app, call)
    answer = json.loads(restored.stdout)
    assert (answer["verdict"], answer["data"]["files"]) == ("warn", case.manifest.uploads.files)
    assert [finding["name"] for finding in answer["data"]["findings"]] == ["link outside"]
    assert (tmp_path / "into" / "same one").read_bytes() == b"the same content"
    again = CliRunner().invoke(app, call)
    assert again.exit_code == 1
    assert "not an empty folder" in again.stdout


@pytest.mark.parametrize("taken", ["a file in it", "a file", "a link"])
def test_a_folder_in_use_is_left_alone(case: Case, tmp_path: Path, taken: str) -> None:
    into = tmp_path / "into"
    if taken == "a file in it":
        into.mkdir()
        (into / "mine").write_text("mine")
    elif taken == "a file":
        into.write_text("mine")
    else:
        (tmp_path / "elsewhere").mkdir()
        into.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PreconditionFailed, match="not an empty folder"):
        restore_uploads(case.store, case.manifest.backup_id, into, silent)
    assert len(list(tmp_path.rglob("*"))) == (1 if taken == "a file" else 2)


@pytest.mark.parametrize("place", ["live", "live/in it", "."])
def test_the_applications_own_folder_is_refused_unless_it_is_gone(case: Case, tmp_path: Path, place: str) -> None:
    live = tmp_path / "live"
    live.mkdir()
    used = case.platform.model_copy(update={"uploads": UploadsSettings(directory=live)})
    with pytest.raises(PreconditionFailed, match="the application's own folder"):
        plan_uploads_beside(used, case.store, case.manifest.backup_id, tmp_path / place, allow_unproven=True)
    if place == "live":
        live.rmdir()
        plan_uploads_beside(used, case.store, case.manifest.backup_id, live, allow_unproven=True)


def test_a_set_without_a_proof_gives_no_uploads_unless_it_is_allowed(case: Case, tmp_path: Path) -> None:
    copied = copy_set(case.store, back_up(case.platform).backup_id)
    with pytest.raises(PreconditionFailed, match="is not proven"):
        restore_uploads_beside(case.platform, case.store, copied.backup_id, tmp_path / "into", silent)
    assert not (tmp_path / "into").exists()


def test_a_file_that_somebody_writes_meanwhile_is_left_as_it_is(case: Case, tmp_path: Path) -> None:
    into = tmp_path / "into"

    def write_early(store: Store, manifest: Manifest) -> list[FileEntry]:
        found = read_index(store, manifest)
        into.mkdir()
        (into / "script.sh").write_text("mine")
        return found

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine, "read_index", write_early)
        with pytest.raises(PreconditionFailed, match=r"Somebody else wrote script\.sh"):
            restore_uploads(case.store, case.manifest.backup_id, into, silent)
    assert (into / "script.sh").read_text() == "mine"


def test_a_damaged_content_is_never_put_in_its_place(case: Case, tmp_path: Path) -> None:
    entry = entry_of(case, "script.sh")
    with (
        replaced(case.store, entry.key, case.store.get_bytes(entry_of(case, "same one").key)),
        pytest.raises(VerificationFailed, match=r"script\.sh reads back with another content"),
    ):
        restore_uploads(case.store, case.manifest.backup_id, tmp_path / "into", silent)
    assert not (tmp_path / "into" / "script.sh").exists()
    assert not [path for path in (tmp_path / "into").iterdir() if path.name.startswith(".keepwell")]


def test_a_path_that_leads_out_is_refused_before_anything_is_written(case: Case, tmp_path: Path) -> None:
    copied = copy_set(case.store, case.manifest.backup_id)
    part = part_of(copied, layout.UPLOADS_INDEX)
    replace_content(
        case.store, copied, part, lambda content: content.replace(b'"same one"', b'"../same one"'), rebuild=True
    )
    with pytest.raises(VerificationFailed, match="leads out of the folder"):
        restore_uploads(case.store, copied.backup_id, tmp_path / "into", silent)
    assert list(tmp_path.iterdir()) == []


def test_a_set_without_uploads_says_so(case: Case, tmp_path: Path) -> None:
    without = case.platform.model_copy(update={"uploads": None})
    manifest = create_backup(without, case.store, silent)
    assert (manifest.uploads, read_index(case.store, manifest)) == (None, [])
    with pytest.raises(PreconditionFailed, match="no uploads folder was configured"):
        restore_uploads(case.store, manifest.backup_id, tmp_path / "into", silent)


def test_an_empty_folder_is_an_empty_list_and_no_error(case: Case, tmp_path: Path) -> None:
    (tmp_path / "u").mkdir()
    empty = case.platform.model_copy(update={"uploads": UploadsSettings(directory=tmp_path / "u")})
    manifest = create_backup(empty, case.store, silent)
    assert manifest.uploads is not None
    assert manifest.uploads.files == 0
    assert prove(empty, manifest.backup_id).reached == "serving"
    restore_uploads(case.store, manifest.backup_id, tmp_path / "into", silent)
    assert list((tmp_path / "into").iterdir()) == []


def test_names_keep_their_bytes() -> None:
    assert name_path(b"plain") == ("plain", None)
    path, raw_path = name_path(NOT_UTF8)
    assert FileEntry("file", path, raw_path).location == NOT_UTF8
