"""The proof of a dump in three plain lines, and what to do next. Pure."""

import shlex
from pathlib import Path

from keepwell.dumps.proof import Described, DumpProof
from keepwell.quantities import describe_bytes, describe_seconds
from keepwell.verdict import Verdict

_NAMED = 6


def summarize(proof: DumpProof) -> tuple[str, str, str]:
    """Three lines: what the dump is, what a restore of it brings back, and the verdict's reason."""
    return tuple(map(printable, (_what(proof), _brings(proof), _why(proof))))  # type: ignore[return-value]


def next_step(proof: DumpProof, path: Path, *, compared: bool) -> str:
    """What to do next, one line.

    Args:
        proof: Of the dump.
        path: As it was named.
        compared: Whether it was compared with a live database.
    """
    if proof.verdict is Verdict.ALERT:
        return (
            "Next: do not rely on this file. Prove an older one, and make a new dump now: "
            "pg_dump -Fc -f FILE DATABASE && keepwell prove-dump FILE"
        )
    if proof.verdict is Verdict.UNKNOWN:
        hint = next(
            (finding.hint for finding in proof.findings if finding.verdict is Verdict.UNKNOWN and finding.hint), ""
        )
        return (
            f"Next: {printable(hint)}"
            if hint
            else "Next: nothing is known of it yet; see above what could not be told."
        )
    if not compared:
        file = shlex.quote(str(path))
        return (
            "Next: this shows that the file restores whole, not that it is today's data. Compare them: "
            f"keepwell prove-dump {printable(file)} --against postgresql://USER@HOST/DATABASE"
        )
    return "Next: have every night's backup proven like this, without asking: keepwell init"


def printable(text: str) -> str:
    """Text that others wrote, so that no terminal takes it for anything else; line breaks become blanks."""
    flat = " ".join(text.split("\n"))
    return "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in flat)


def _what(proof: DumpProof) -> str:
    dump = proof.dump
    if dump is None:
        return next(level.summary for level in proof.levels if level.verdict is proof.verdict)
    wrapped = "" if dump.wrapping == "none" else f", compressed with {dump.wrapping}"
    of = f" of {_source(dump)}" if _source(dump) else ", which does not say of what"
    by = f", written by pg_dump {_short(dump.tool_version)}" if dump.tool_version else ""
    form = f"({dump.format}{wrapped}, {describe_bytes(dump.size_bytes)})"
    return f"{dump.file} is {_kind(dump)}{of}{by}, {_when(dump)} {form}."


def _kind(dump: Described) -> str:
    return {
        "cluster": "a dump of all databases of a server",
        "schema only": "a dump of a schema without rows",
        "rows only": "a dump of rows without their tables",
        "roles only": "a dump of a server's roles",
    }.get(dump.scope, "a dump")


def _source(dump: Described) -> str:
    server = f"PostgreSQL {_short(dump.server_version)}" if dump.server_version else ""
    return " on ".join(filter(None, (f"the database {dump.database}" if dump.database else "", server)))


def _short(version: str) -> str:
    return version.partition(" ")[0]


def _when(dump: Described) -> str:
    if dump.made_at is not None:
        return f"made {dump.made_at:%Y-%m-%d %H:%M:%S} by its server's clock"
    if dump.modified_at is not None:
        return f"dated {dump.modified_at:%Y-%m-%d %H:%M:%S} UTC by the file"
    return "of an unknown date"


def _brings(proof: DumpProof) -> str:
    if proof.rows_restored is None or proof.size_restored_bytes is None or proof.restore_seconds is None:
        return "What a restore of it would bring back is not known: it did not come to one."
    tables = sum(table.rows_restored is not None and table.kind == "table" for table in proof.tables)
    took = f"in {describe_seconds(proof.restore_seconds)} on {proof.server}"
    line = (
        f"A restore brings back {tables:,} table{'' if tables == 1 else 's'} with {proof.rows_restored:,} rows "
        f"({describe_bytes(proof.size_restored_bytes)}), {took}"
    )
    missing = proof.dump.roles_missing if proof.dump else ()
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        line += f". Not in it: the role{'s' if len(missing) > 1 else ''} {', '.join(missing[:_NAMED])}{more}"
    return f"{line}."


def _why(proof: DumpProof) -> str:
    if proof.verdict in (Verdict.ALERT, Verdict.UNKNOWN):
        first = next((finding for finding in proof.findings if finding.verdict is proof.verdict), None)
        said = first.message if first else next(one.summary for one in proof.levels if one.verdict is proof.verdict)
        if proof.dump is None and first:
            said = first.hint  # what it is was said in the first line
        return f"{'do not rely on it' if proof.verdict is Verdict.ALERT else 'it could not be proven'}. {said}"
    if proof.dump is not None and proof.dump.scope in ("schema only", "roles only"):
        return "it restores without an error, but holds no rows: alone it is no backup of a database."
    shown = "it is whole, restores without an error, every row of it came back, and what came back is sound"
    warnings = sum(finding.verdict is Verdict.WARN for finding in proof.findings)
    noted = f". {warnings} thing{'' if warnings == 1 else 's'} to know below" if warnings else ""
    return f"proven: {shown}{noted}."
