"""A dump is somebody else's text, and restoring it runs their code: what that can reach, tried from inside."""

import gzip
import lzma
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from dump_files import Dumps, pg_dump
from real_servers import Server
from typer.testing import CliRunner

from keepwell.cli.main import app
from keepwell.dumps import restoring, script
from keepwell.dumps.prove import prove_dump
from keepwell.progress import silent
from keepwell.verdict import Verdict

BEGINNING = b"SET statement_timeout = 0;\n"


@pytest.fixture
def marked() -> Iterator[Path]:
    """A place outside of every scratch folder, which only an escape could write."""
    place = Path("/tmp") / f"keepwell-escaped-{os.getpid()}"
    place.unlink(missing_ok=True)
    yield place
    assert not place.exists(), "the dump's code reached this machine"


def with_line(dumps: Callable[[int], Dumps], line: str, tmp_path: Path) -> Path:
    path = tmp_path / "hostile.sql"
    path.write_bytes(dumps(17).read("plain.sql").replace(BEGINNING, BEGINNING + line.encode() + b"\n", 1))
    return path


@pytest.mark.parametrize(
    "line",
    [
        "\\! touch {marked}",
        "\\copy (SELECT 1) TO PROGRAM 'touch {marked}'",
        "\\o {marked}",
        "\\i /etc/passwd",
        "\\set x `touch {marked}`",
        "SELECT 1 \\g {marked}",
        "SELECT 'touch {marked}' \\gexec",
        "SELECT $$touch$$ AS a; \\! touch {marked}",
        "/* comment */ \\! touch {marked}",
        "SELECT E'it\\'s' AS a; \\! touch {marked}",
        "\\connect 'host=192.0.2.1 dbname=x'",
        "\\connect postgresql://192.0.2.1/x",
        "\\unknown",
    ],
)
def test_commands_to_psql_are_refused_with_their_line(
    line: str, dumps: Callable[[int], Dumps], marked: Path, tmp_path: Path
) -> None:
    proof = prove_dump(with_line(dumps, line.format(marked=marked), tmp_path), silent)
    assert proof.verdict is Verdict.ALERT
    (finding,) = [finding for finding in proof.findings if finding.verdict is Verdict.ALERT]
    assert finding.message.startswith("Line 11 holds a command to psql, \\")
    assert (proof.levels[2].verdict, proof.rows_restored) == (Verdict.UNKNOWN, None)


def test_programs_started_by_sql_are_refused(dumps: Callable[[int], Dumps], marked: Path, tmp_path: Path) -> None:
    path = with_line(dumps, f"COPY (SELECT 1) TO PROGRAM 'touch {marked}';", tmp_path)
    assert "Line 11 starts a program" in prove_dump(path, silent).findings[0].message


@pytest.mark.parametrize("restricts", [True, False])
def test_psql_itself_obeys_nothing_where_our_reading_was_fooled(
    restricts: bool, dumps: Callable[[int], Dumps], marked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """psql is told to obey no commands; and an old one, which cannot be told, is confined."""
    monkeypatch.setattr(script.ScriptReader, "_refuse", lambda self, message: None)
    if not restricts:
        monkeypatch.setattr(restoring, "knows_restrict", lambda binaries: False)
    proof = prove_dump(with_line(dumps, f"\\! touch {marked} /usr/bin/keepwell-escaped", tmp_path), silent)
    assert not Path("/usr/bin/keepwell-escaped").exists()
    errors = [finding.message for finding in proof.findings if finding.name == "errors"]
    if restricts:
        assert "backslash commands are restricted" in errors[0]
        assert (proof.verdict, proof.rows_restored) == (Verdict.ALERT, 2523)


def test_rows_that_look_like_commands_are_rows(server: Server, database: str, tmp_path: Path) -> None:
    """COPY writes a carriage return as \\r, so a row may begin like \\restrict; and a text may hold anything."""
    with server.connect(database) as connection:
        connection.execute(
            "CREATE TABLE t (a text); INSERT INTO t VALUES (E'\\restrict me'), (E'\\\\! ls'), (E'\\\\.')"
        )
        connection.execute(
            "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $body$SELECT E'a\n\\\\! ls\n\\\\restrict x\n'$body$"
        )
    for form in ("", "--inserts"):
        pg_dump(server, database, form, tmp_path / "d.sql")
        proof = prove_dump(tmp_path / "d.sql", silent)
        assert (proof.verdict, proof.rows_restored) == (Verdict.OK, 3), proof.findings


def test_code_of_the_dump_reaches_nothing(dumps: Callable[[int], Dumps], marked: Path, tmp_path: Path) -> None:
    """Hidden in a block that no reader could see through, run by the server as its superuser."""
    secret = tmp_path / "secret"
    secret.write_text("marked-secret")
    attempts = [f"touch {marked}", f"cat {secret} > /dev/null", "cat /etc/shadow > /dev/null", f"kill -9 {os.getpid()}"]
    attempts += ["bash -c 'exec 3<>/dev/tcp/127.0.0.1/22'"]
    blocks = "".join(
        f"DO $x$ BEGIN EXECUTE 'CO' || 'PY (SELECT 1) TO PROG' || $y$RAM '{attempt.replace(chr(39), chr(39) * 2)}'$y$; "
        f"INSERT INTO public.reached VALUES (1); EXCEPTION WHEN OTHERS THEN NULL; END $x$;\n"
        for attempt in attempts
    )
    path = with_line(dumps, f"CREATE TABLE public.reached (a int);\n{blocks}", tmp_path)
    proof = prove_dump(path, silent)
    reached = next(table for table in proof.tables if table.name == "reached")
    assert (reached.rows_restored, proof.rows_restored) == (0, 2523)


def test_what_a_dump_says_cannot_command_the_terminal(tmp_path: Path) -> None:
    sql = b"CREATE TABLE \"evil\x1b]0;owned\x07\x1b[2J\xe2\x80\xae[red]\" (a int);\nSELECT '\x1b[31m'::int;\n"
    (tmp_path / "evil\x1b[2J.sql").write_bytes(sql)
    result = CliRunner().invoke(app, ["prove-dump", str(tmp_path / "evil\x1b[2J.sql")])
    assert result.exit_code == 1
    for sign in ("\x1b", "\x07", "\u202e"):
        assert sign not in result.stdout
    assert "[red]" in result.stdout


@pytest.mark.parametrize("wrapping", ["gzip", "zstd", "xz"])
def test_a_bomb_is_read_in_constant_memory(wrapping: str, tmp_path: Path) -> None:
    """300 MB of one byte, read by a process of its own whose peak is measured."""
    path = tmp_path / "bomb"
    openers = {"gzip": gzip.open, "zstd": zstandard.open, "xz": lzma.open}
    with openers[wrapping](path, "wb") as bomb:  # type: ignore[operator]
        bomb.write(b"CREATE TABLE t (a int);\n")
        for _ in range(300):
            bomb.write(b"x" * 1_000_000)
    probe = """
import sys
from pathlib import Path
from keepwell.dumps.opening import recognize
from keepwell.dumps.survey import survey
from keepwell.progress import silent
found = survey(recognize(Path(sys.argv[1])), silent)
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")]
print(found.content_bytes, peak)
"""
    said = subprocess.run([sys.executable, "-c", probe, path], capture_output=True, text=True, check=True).stdout
    content_bytes, peak_kilobytes = map(int, said.split())
    assert content_bytes > 300_000_000
    assert peak_kilobytes < 200_000
