"""Counts an archive's rows through pg_restore, where they are compressed in a way that is not read here: lz4."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from keepwell import command
from keepwell.dumps.content import Content, Fault, HeldRows
from keepwell.dumps.opening import DumpFile, Wrapping
from keepwell.dumps.restoring import ToolErrors, confined, may_be_read_confined, pour, read_restore_error
from keepwell.dumps.script import Script, ScriptReader
from keepwell.dumps.survey import UNCOUNTED
from keepwell.postgres.binaries import Binaries
from keepwell.progress import Progress, Step

_READ_BYTES = 1 << 20


def count_through_pg_restore(
    dump: DumpFile, content: Content, binaries: Binaries, folder: Path, progress: Progress
) -> Content:
    """An archive's content with the rows counted that its reader left out.

    pg_restore writes it as SQL, which is then read like any plain dump. Where it cannot, they stay unknown.

    Args:
        dump: A custom archive or a folder.
        content: As it was read.
        binaries: Whose pg_restore; new enough for the archive.
        folder: A scratch folder.
        progress: Told how far it is.
    """
    progress(Step("counting the rows of the archive"))
    argv = [binaries.program("pg_restore"), "--file=-"]
    with ExitStack() as stack:
        piped = dump.wrapping is not Wrapping.NONE or not may_be_read_confined(binaries, folder, dump.path)
        path = dump.path.resolve()
        readable = () if piped else (path,)
        call = confined(binaries, folder, folder, [*argv, *map(str, readable)], *readable)
        process = command.start(
            call, stdin=subprocess.PIPE if piped else None, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        stack.callback(command.stop, process, grace_seconds=0)
        errors = ToolErrors(process, read_restore_error())
        if process.stdin is not None:
            pouring = threading.Thread(target=pour, args=(dump, process.stdin, progress), daemon=True)
            pouring.start()
            stack.callback(pouring.join)
        assert process.stdout is not None  # noqa: S101 - it was started with a pipe
        reader = ScriptReader()
        while piece := process.stdout.read(_READ_BYTES):
            reader.feed(piece)
        exit_code = process.wait()
        errors.wait()
    if exit_code != 0 and not errors.count:
        return content
    if any("not support compression" in error.message for error in errors.named):
        return content
    faults = tuple(
        Fault(error.place or "archive", f"pg_restore cannot read it: {error.message}.") for error in errors.named
    )
    return replace(
        content,
        rows=tuple(_recounted(content, reader.close())),
        faults=content.faults + faults,
        unknowns=tuple(unknown for unknown in content.unknowns if unknown.name != UNCOUNTED),
    )


def _recounted(content: Content, script: Script) -> Iterator[HeldRows]:
    found = {(held.schema, held.table): held for held in script.content.rows}
    for held in content.rows:
        again = found.get((held.schema, held.table))
        if held.rows is not None or not held.whole:
            yield held
        elif again is None:
            # What does not end with COPY's terminator swallows what follows it.
            yield replace(held, rows=0, whole=False)
        else:
            yield replace(held, rows=again.rows, whole=again.whole)
