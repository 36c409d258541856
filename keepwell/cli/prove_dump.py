"""`keepwell prove-dump`: prove any existing dump, with no configuration at all."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome

if TYPE_CHECKING:
    from rich.console import Console

    from keepwell.dumps.proof import DumpProof

_TABLES_SHOWN = 30


@console.command("prove-dump")
def prove_dump(
    dump: Annotated[Path, typer.Argument(metavar="FILE", help="A dump of pg_dump or pg_dumpall, or a -Fd folder.")],
    *,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="DSN",
            help="Compare with this live database, read-only: postgresql://user@host/name. "
            "Its password comes from PGPASSWORD or ~/.pgpass.",
        ),
    ] = None,
    scratch_directory: Annotated[
        Path | None,
        typer.Option(help="Where there is space for one copy of the database; the temporary folder by default."),
    ] = None,
) -> Outcome:
    """Prove an existing dump: read it whole, restore it into a scratch server, count every row, check what came back.

    Plain SQL, .gz, .zst, .xz, .bz2, and pg_dump's custom, directory and tar formats, told by their content. Nothing of
    yours is touched.
    """
    from keepwell.dumps.comparison import live_database
    from keepwell.dumps.prove import prove_dump as prove
    from keepwell.dumps.report import next_step

    live = live_database(against) if against is not None else None
    with console.progress_shown() as progress:
        proof = prove(dump, progress, scratch_directory=scratch_directory, live=live)
    return Outcome(
        proof.verdict,
        data=proof,
        hint=next_step(proof, dump, compared=live is not None),
        show=lambda screen: _show(screen, proof),
    )


def _show(screen: "Console", proof: "DumpProof") -> None:
    from rich.text import Text

    from keepwell.dumps.report import printable, summarize

    what, brings, verdict = summarize(proof)
    screen.print(Text(what))
    screen.print(Text(brings))
    line = console.styled(proof.verdict)
    line.plain = _word(proof.verdict)
    line.append(f": {verdict}", style="")
    screen.print(line)

    levels = console.table("level", "verdict", "seconds", "what was shown")
    for level in proof.levels:
        word = console.styled(level.verdict)
        word.plain = _word(level.verdict)
        seconds = "" if level.seconds is None else f"{level.seconds:.1f}"
        levels.add_row(level.level, word, seconds, Text(printable(level.summary)))
    screen.print(levels)
    _show_tables(screen, proof)
    _show_findings(screen, proof)


def _show_tables(screen: "Console", proof: "DumpProof") -> None:
    from rich.text import Text

    from keepwell.dumps.report import printable
    from keepwell.quantities import describe_bytes

    if not proof.tables:
        return
    with_live = any(table.rows_live is not None for table in proof.tables)
    columns = ["table", "rows in the dump", "rows restored", *(["rows live"] if with_live else []), "size", "", ""]
    shown = console.table(*columns)
    for column in shown.columns[1:-2]:
        column.justify = "right"
    # Whatever is not in order is shown, however small; of the others the largest.
    ranked = sorted(proof.tables, key=lambda table: (table.verdict == "ok", -table.size_bytes, table.qualified))
    for table in ranked[:_TABLES_SHOWN] + [t for t in ranked[_TABLES_SHOWN:] if t.verdict != "ok"]:
        word = console.styled(table.verdict)
        word.plain = _word(table.verdict)
        live = [_number(table.rows_live)] if with_live else []
        shown.add_row(
            Text(printable(table.qualified)),
            _number(table.rows_in_dump),
            _number(table.rows_restored),
            *live,
            describe_bytes(table.size_bytes),
            word,
            Text(printable(table.remark)),
        )
    screen.print(shown)
    hidden = [table for table in ranked[_TABLES_SHOWN:] if table.verdict == "ok"]
    if hidden:
        screen.print(f"and {len(hidden)} smaller tables, each ok.\n", highlight=False)


def _show_findings(screen: "Console", proof: "DumpProof") -> None:
    from keepwell.dumps.report import printable

    findings = [
        finding.model_copy(update={part: printable(getattr(finding, part)) for part in ("name", "message", "hint")})
        for finding in proof.findings
    ]
    if findings:
        screen.print(console.findings_table(findings))


def _word(verdict: str) -> str:
    """A verdict as it is written here: what must not be overlooked is in capitals."""
    return "ALERT" if verdict == "alert" else verdict.replace("_", " ")


def _number(rows: int | None) -> str:
    return "-" if rows is None else f"{rows:,}"
