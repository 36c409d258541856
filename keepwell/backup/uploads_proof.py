"""Proving uploaded files: every content is there, and those that are read back are what their index says.

A night reads what its own set sent and, of the rest, a thirtieth that moves on from day to day; so each content is
read within thirty days however seldom it changes. Whoever asks for it reads all.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date

from keepwell.backup import layout
from keepwell.backup.manifest import Manifest, Part, UploadedFiles
from keepwell.backup.progress import Progress, Step
from keepwell.backup.read_back import SetReader
from keepwell.backup.transfer import receive
from keepwell.backup.uploads_index import FileEntry, IndexSink
from keepwell.objectstore.store import ChecksumMismatch, ObjectMissing, Store
from keepwell.verdict import Finding, Verdict

SLICES = 30
_READERS = 4
_NAMED = 50
_LOST_HINT = (
    "The next backup sends it anew, if the file is still there with the same content; otherwise take it from a copy."
)


@dataclass(frozen=True)
class UploadsChecked:
    """What was found of a set's uploaded files.

    Attributes:
        summary: What was read and what was only looked at, for the level; empty where the set holds none.
        findings: What is wrong or worth knowing.
    """

    summary: str = ""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class _Content:
    """One content that a set needs, and the first path that it lies under."""

    key: str
    sha256: str
    size_bytes: int
    stored_bytes: int
    sent: bool
    path: str
    paths: int

    @property
    def told(self) -> str:
        """For people."""
        more = f" and {self.paths - 1} more files of the same content" if self.paths > 1 else ""
        return f"The uploaded file {self.path}{more}"


def check_uploads(
    store: Store, manifest: Manifest, reader: SetReader, progress: Progress, *, today: date, everything: bool
) -> UploadsChecked:
    """Read a set's index back, look for every content, and read some of them, or all.

    A content that is found damaged is marked, so that the next backup sends it anew.

    Args:
        store: Where the set and the contents lie.
        manifest: Of the set.
        reader: Reads the index, and remembers what is wrong with it as a part.
        progress: Told how far it is.
        today: Chooses the slice.
        everything: Read all contents.

    Raises:
        KeepwellError: The store cannot be read.
    """
    if manifest.uploads is None:
        return UploadsChecked()
    sink = IndexSink()
    read = reader.feed(layout.UPLOADS_INDEX, sink.write)
    if read is None:
        return UploadsChecked(findings=(_alert("uploads", f"The set has no {layout.UPLOADS_INDEX}."),))
    if not read.sound:
        return UploadsChecked()  # the part itself is told to be damaged
    if fault := sink.finish():
        return UploadsChecked(findings=(_alert(read.part.name, f"{read.part.name} {fault}."),))
    contents = list_contents(sink.entries)
    stored = {found.key: found.size_bytes for found in store.list_objects(layout.UPLOADS)}
    marked = {found.key for found in store.list_objects(layout.DAMAGED_UPLOADS)}
    chosen = [
        content
        for content in contents
        if content.key in stored
        and (everything or needs_reading(content.sha256, content.sent, today))
        or stored.get(content.key, content.stored_bytes) != content.stored_bytes
        or layout.damaged_upload_key(content.key) in marked
    ]
    chosen = [content for content in chosen if content.key in stored]
    findings = [*_compare_index(manifest.uploads, sink.entries), *_look(contents, stored)]
    findings += _read_all(store, chosen, marked, progress)
    return UploadsChecked(_summarize(contents, chosen, today), tuple(_cut(findings)))


def needs_reading(sha256: str, sent: bool, today: date) -> bool:
    """Whether a night reads a content: it was sent with the set, or it is in the day's slice."""
    return sent or int(sha256[:8], 16) % SLICES == today.toordinal() % SLICES


def list_contents(entries: Iterable[FileEntry]) -> list[_Content]:
    """Each content of an index once, with the first path that it lies under."""
    paths: dict[str, list[FileEntry]] = {}
    for entry in entries:
        if entry.kind == "file":
            paths.setdefault(entry.key, []).append(entry)
    return [
        _Content(
            key=key,
            sha256=first.sha256,
            size_bytes=first.size_bytes,
            stored_bytes=first.stored_bytes,
            sent=any(entry.sent for entry in under),
            path=first.path,
            paths=len(under),
        )
        for key, under in paths.items()
        for first in under[:1]
    ]


def _compare_index(expected: UploadedFiles, entries: Iterable[FileEntry]) -> Iterable[Finding]:
    files = [entry for entry in entries if entry.kind == "file"]
    found = (len(files), sum(entry.size_bytes for entry in files))
    if found != (expected.files, expected.size_bytes):
        yield _alert(
            layout.UPLOADS_INDEX,
            f"{layout.UPLOADS_INDEX} lists {found[0]} files with {found[1]} bytes, "
            f"the manifest says {expected.files} with {expected.size_bytes}.",
        )
    if expected.left_out:
        named = "; ".join(expected.named_left_out[:3])
        yield Finding(
            name="uploads",
            verdict=Verdict.WARN,
            message=f"{expected.left_out} entries of the uploads folder are not in the set: {named}.",
            hint=f"Keep them by other means, or let Keepwell read them; {layout.UPLOADS_INDEX} names each.",
        )


def _look(contents: Iterable[_Content], stored: Mapping[str, int]) -> Iterable[Finding]:
    for content in contents:
        if content.key not in stored:
            yield _alert(content.path, f"{content.told} is missing from the store ({content.key}).")


def _read_all(store: Store, chosen: list[_Content], marked: set[str], progress: Progress) -> list[Finding]:
    done = 0
    findings = []
    with ThreadPoolExecutor(_READERS, "reading uploads back") as readers:
        for content, finding in zip(chosen, readers.map(lambda one: _read(store, one), chosen), strict=True):
            done += 1
            progress(Step("reading uploaded files back", done, len(chosen), "files"))
            mark = layout.damaged_upload_key(content.key)
            if finding is None:
                if mark in marked:
                    store.delete([mark])  # it was sent anew, or somebody put it right
                continue
            findings.append(finding)
            if finding.verdict is Verdict.ALERT and mark not in marked:
                store.put_bytes(mark, b"")
    return findings


def _read(store: Store, content: _Content) -> Finding | None:
    """Read one content back; what is wrong with it, or None."""
    folder, _, name = content.key.rpartition("/")
    expected = Part(
        name=name,
        size_bytes=content.stored_bytes,
        sha256="0" * 64,  # another set may have sent it, so only its content is known
        compression="zstd",
        encryption="age" if name.endswith(".age") else None,
        content_size_bytes=content.size_bytes,
        content_sha256=content.sha256,
    )
    try:
        received = receive(store, f"{folder}/", expected, _nowhere)
    except ObjectMissing:
        return _alert(content.path, f"{content.told} vanished from the store ({content.key}).")
    except ChecksumMismatch:
        return _alert(content.path, f"{content.told} does not fit the store's own checksum ({content.key}).")
    if received.for_others:
        return Finding(
            name=content.path,
            verdict=Verdict.UNKNOWN,
            message=f"{content.told} {received.fault} ({content.key}).",
            hint="sealing.identities_file must hold the key that it was sealed for; old ones belong there too.",
        )
    if received.fault:
        return _alert(content.path, f"{content.told} {received.fault} ({content.key}).")
    if received.content.sha256 != content.sha256:
        return _alert(content.path, f"{content.told} reads back with another content than it had ({content.key}).")
    return None


def _summarize(contents: list[_Content], chosen: list[_Content], today: date) -> str:
    files = sum(content.paths for content in contents)
    total = f"{files:,} uploaded files with {len(contents):,} contents"
    if len(chosen) == len(contents):
        return f"{total}, all read back, SHA-256 as written"
    sent = sum(1 for content in chosen if content.sent)
    return (
        f"{total}: {sent:,} new ones and {len(chosen) - sent:,} older ones (slice {today.toordinal() % SLICES + 1} of "
        f"{SLICES}) read back, SHA-256 as written; the other {len(contents) - len(chosen):,} there and of their size"
    )


def _cut(findings: list[Finding]) -> list[Finding]:
    """No more than can be read; the rest is counted."""
    rest = findings[_NAMED:]
    if not rest:
        return findings
    return [*findings[:_NAMED], _alert("uploads", f"And {len(rest)} more uploaded files are missing or damaged.")]


def _alert(name: str, message: str) -> Finding:
    return Finding(name=name, verdict=Verdict.ALERT, message=message, hint=_LOST_HINT)


def _nowhere(chunk: bytes) -> None:
    """Keep nothing."""
