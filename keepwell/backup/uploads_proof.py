"""Proving uploaded files: every content is there, and those that are read back are what their index says.

A night reads what no proof has read before and, of the rest, a thirtieth that moves on from day to day; so each content
is read within thirty days however seldom it changes. Whoever asks for it reads all.
"""

from collections.abc import Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date

from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.manifest import Manifest, UploadedFiles
from keepwell.backup.read_back import SetReader
from keepwell.backup.uploads_index import (
    Content,
    FileEntry,
    IndexSink,
    list_contents,
    read_upload_objects,
)
from keepwell.errors import PreconditionFailed, VerificationFailed
from keepwell.objectstore.store import Store
from keepwell.progress import Progress, Step
from keepwell.sealing import SealForOthers
from keepwell.settings import ProofLevel
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


def check_uploads(
    store: Store,
    manifest: Manifest,
    reader: SetReader,
    progress: Progress,
    *,
    today: date,
    trusted: Container[str] | None,
) -> UploadsChecked:
    """Read a set's index back, look for every content, and read some of them, or all.

    A content that is found damaged is marked, so that the next backup sends it anew; not by a machine that only reads.

    Args:
        store: Where the set and the contents lie.
        manifest: Of the set.
        reader: Reads the index, and remembers what is wrong with it as a part.
        progress: Told how far it is.
        today: Chooses the slice.
        trusted: Keys of contents that an earlier proof has read, of which only the day's slice is read again; None
            reads all contents.

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
        if (size_bytes := stored.get(content.first.key)) is not None
        and (
            trusted is None
            or needs_reading(content.first, today, trusted)
            # It was sent anew since, or it is cut: what it holds tells which.
            or size_bytes != content.first.stored_bytes
            or layout.damaged_upload_key(content.first.key) in marked
        )
    ]
    findings = [*_compare_index(manifest.uploads, sink.entries), *_look(contents, stored)]
    findings += _read_all(store, chosen, marked, progress)
    return UploadsChecked(_summarize(contents, chosen, today, trusted), tuple(_cut(findings)))


def read_trusted(store: Store, backup_id: str, proven_level: ProofLevel) -> frozenset[str]:
    """Contents of the newest proven set before this one: its proof read those that none before it had read.

    What a killed run sent, or a set that nobody proved, is not among them. Nor is anything once the recipients changed:
    contents are not sealed anew unasked, so each must be shown to open with the keys that there are now.

    Raises:
        KeepwellError: The store cannot be read.
    """
    entries = read_catalogue(store)
    sealed_for = next((own.manifest.sealed_for for own in entries if own.manifest and own.backup_id == backup_id), ())
    for entry in entries:
        if entry.manifest is not None and entry.backup_id < backup_id and entry.is_proven(proven_level):
            if set(entry.manifest.sealed_for) != set(sealed_for):
                break
            try:
                return read_upload_objects(store, entry.manifest)
            except (VerificationFailed, PreconditionFailed):
                break  # damaged since, or removed this moment: then nothing is taken on trust
    return frozenset()


def needs_reading(entry: FileEntry, today: date, trusted: Container[str]) -> bool:
    """Whether a night reads a content: nobody has read it yet, or it is in the day's slice."""
    return entry.key not in trusted or int(entry.sha256[:8], 16) % SLICES == today.toordinal() % SLICES


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


def _look(contents: Iterable[Content], stored: Mapping[str, int]) -> Iterable[Finding]:
    for content in contents:
        if content.first.key not in stored:
            yield _alert(content.first.shown, f"{content.told} is missing from the store ({content.first.key}).")


def _read_all(store: Store, chosen: list[Content], marked: set[str], progress: Progress) -> list[Finding]:
    done = 0
    findings = []
    with ThreadPoolExecutor(_READERS, "reading uploads back") as readers:
        for content, finding in zip(chosen, readers.map(lambda one: _read(store, one), chosen), strict=True):
            done += 1
            progress(Step("reading uploaded files back", done, len(chosen), "files"))
            mark = layout.damaged_upload_key(content.first.key)
            if finding is None:
                if mark in marked and store.may_write:
                    store.delete([mark])  # it was sent anew, or somebody put it right
                continue
            findings.append(finding)
            if finding.verdict is Verdict.ALERT and mark not in marked and store.may_write:
                store.put_bytes(mark, b"")
    return findings


def _read(store: Store, content: Content) -> Finding | None:
    """Read one content back; what is wrong with it, or None."""
    try:
        fault = content.first.read_content(store, _nowhere)
    except SealForOthers as error:
        message = f"{content.told} cannot be opened: {error.message}"
        return Finding(name=content.first.shown, verdict=Verdict.UNKNOWN, message=message, hint=error.hint)
    return _alert(content.first.shown, f"{content.told} {fault} ({content.first.key}).") if fault else None


def _summarize(contents: list[Content], chosen: list[Content], today: date, trusted: Container[str] | None) -> str:
    files = sum(content.files for content in contents)
    total = f"{files:,} uploaded files with {len(contents):,} contents"
    if len(chosen) == len(contents):
        return f"{total}, all read back, SHA-256 as written"
    new = sum(1 for content in chosen if content.first.key not in (trusted or ()))
    return (
        f"{total}: {new:,} new ones and {len(chosen) - new:,} older ones (slice {today.toordinal() % SLICES + 1} of "
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
