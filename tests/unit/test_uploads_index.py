import hashlib
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwell.backup.uploads_index import (
    FileEntry,
    IndexSink,
    leads_outside,
    list_contents,
    name_path,
    parse_entry,
)
from keepwell.backup.uploads_proof import SLICES, needs_reading

SHA256 = hashlib.sha256(b"content").hexdigest()
KEY = f"uploads/{SHA256[:2]}/{SHA256}.zst.age"
names = st.binary(min_size=1, max_size=12).filter(lambda name: not set(name) & {0, 47} and name not in (b".", b".."))


def a_file(location: bytes = b"a", *, sha256: str = SHA256, sent: bool = False) -> FileEntry:
    path, raw_path = name_path(location)
    key = f"uploads/{sha256[:2]}/{sha256}.zst.age"
    return FileEntry("file", path, raw_path, 0o640, 1_600_000_000_123_456_789, 7, sha256, key, 300, sent)


@given(st.lists(names, min_size=1, max_size=4))
def test_any_name_that_a_disk_takes_comes_back_as_it_was(parts: list[bytes]) -> None:
    entry = a_file(b"/".join(parts))
    line = entry.to_line()
    assert b"\n" not in line
    assert parse_entry(line) == entry
    assert entry.location == b"/".join(parts)


@pytest.mark.parametrize("location", [b"", b"/", b"/etc/passwd", b"..", b"a/../../b", b"a//b", b"a/", b"./a", b"a\0b"])
def test_a_path_that_leads_out_is_no_entry(location: bytes) -> None:
    with pytest.raises(ValueError, match="leads out of the folder"):
        parse_entry(a_file(location).to_line())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b'{"kind":"file"}',
        b'{"kind":"door","path":"a"}',
        b'{"kind":"file","path":"a"}',
        b'{"kind":"file","path":"a","key":"backups/x/manifest.json","sha256":"ab"}',
    ],
)
def test_what_is_no_entry_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"it is no entry|is said to lie in"):
        parse_entry(line)


def test_the_objects_that_a_set_needs_are_those_of_its_files_each_once() -> None:
    other = hashlib.sha256(b"other").hexdigest()
    index = [
        a_file(b"a"),
        a_file(b"b"),
        a_file(b"c", sha256=other),
        FileEntry("folder", "f"),
        FileEntry("left out", "s", reason="is a socket"),
    ]
    contents = list_contents(index)
    assert [(content.first.path, content.files) for content in contents] == [
        ("a", 2),
        ("c", 1),
    ]
    assert "a (and 1 more of the same content)" in contents[0].told


def test_an_index_is_read_up_to_its_first_damaged_line() -> None:
    sink = IndexSink()
    sink.write(a_file(b"a").to_line() + b"\nnonsense\n" + a_file(b"b").to_line() + b"\n")
    assert "damaged" in sink.finish()
    assert [entry.path for entry in sink.entries][:1] == ["a"]
    cut = IndexSink()
    cut.write(a_file(b"a").to_line())
    assert cut.finish() == "ends in the middle of a line"


@given(st.binary(max_size=20), st.dates(date(2020, 1, 1), date(2040, 1, 1)))
def test_every_content_is_read_once_within_thirty_days_and_new_ones_at_once(content: bytes, start: date) -> None:
    sha256 = hashlib.sha256(content).hexdigest()
    days = [start + timedelta(days=n) for n in range(SLICES)]
    entry = a_file(sha256=sha256)
    assert sum(needs_reading(entry, day, {entry.key}) for day in days) == 1
    assert all(needs_reading(entry, day, {"another"}) for day in days)


def test_a_slice_is_about_a_thirtieth() -> None:
    hashes = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(3000)]
    entries = [a_file(sha256=sha256) for sha256 in hashes]
    trusted = {entry.key for entry in entries}
    chosen = sum(needs_reading(entry, date(2026, 3, 2), trusted) for entry in entries)
    assert 60 < chosen < 140


@pytest.mark.parametrize(
    ("location", "target", "outside"),
    [
        (b"link", b"a", False),
        (b"link", b"./a/../b", False),
        (b"d/link", b"../a", False),
        (b"d/link", b"../../a", True),
        (b"link", b"..", True),
        (b"link", b"/etc/passwd", True),
        (b"link", b"a/../../etc", True),
        (b"link", b"..a", False),
    ],
)
def test_links_that_point_out_of_the_folder(location: bytes, target: bytes, *, outside: bool) -> None:
    assert leads_outside(location, target) is outside


def test_a_name_in_a_message_stays_on_its_line_and_orders_no_terminal_about() -> None:
    entry = FileEntry("file", "a\nb\x1b[2J\u202e ü – 旅.png")
    assert entry.shown == "a\\nb\\x1b[2J\\u202e ü – 旅.png"
