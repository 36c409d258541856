"""A set verified on a machine that lacks something: nothing is known of the set, least of all that it is damaged."""

import shutil
from pathlib import Path

import pytest
from backup_sets import back_up, failed_level, prove
from real_servers import Server

from keepwell.backup.catalogue import read_entry
from keepwell.backup.rehearsal import restore_finding
from keepwell.errors import CommandFailed
from keepwell.objectstore.store import Store
from keepwell.postgres.binaries import Binaries, find_installations
from keepwell.settings import Platform
from keepwell.verdict import Verdict


def installation_without(extension: str, folder: Path) -> Binaries:
    """The package's PostgreSQL 17, but for one extension: a server looks for them from where its program lies."""
    whole = next(found for found in find_installations() if found.origin == "package")
    shutil.copytree(whole.folder, folder / "bin")
    shutil.copytree(whole.folder.parent / "share", folder / "share")
    shutil.copytree(whole.folder.parent / "lib", folder / "lib", symlinks=True)
    left_out = list((folder / "share").rglob(f"{extension}*"))
    assert left_out
    for file in left_out:
        file.unlink()
    return Binaries(folder / "bin", whole.version, "configured")


def test_a_missing_extension_makes_a_set_unknown_and_not_damaged(
    platform: Platform, server: Server, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.connect(platform.database.name) as connection:
        connection.execute("CREATE EXTENSION pg_trgm; CREATE TABLE t (a text); INSERT INTO t VALUES ('a')")
        connection.execute("CREATE INDEX ON t USING gin (a gin_trgm_ops)")
    manifest = back_up(platform)
    lacking = installation_without("pg_trgm", tmp_path)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("keepwell.backup.scratch_restore.find_installations", lambda configured: [lacking])
        proof = prove(platform, manifest.backup_id)
    failed = failed_level(proof)
    assert (failed.level, failed.verdict, proof.damaged) == ("restored", Verdict.UNKNOWN, False)
    assert 'extension "pg_trgm" is not available' in failed.summary
    assert "source's extensions" in failed.findings[0].hint
    entry = read_entry(store, manifest.backup_id)
    assert (entry.damaged, entry.is_proven("equal")) == (False, False)
    assert prove(platform, manifest.backup_id).reached == "serving"


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ('ERROR:  extension "postgis" is not available', Verdict.UNKNOWN),
        ('ERROR:  could not open extension control file "/x.control": No such file or directory', Verdict.UNKNOWN),
        ('ERROR:  could not access file "$libdir/postgis-3": No such file or directory', Verdict.UNKNOWN),
        ("ERROR:  ICU is not supported in this build", Verdict.UNKNOWN),
        ('ERROR:  could not create locale "xx_YY": No such file or directory', Verdict.UNKNOWN),
        ("ERROR:  timescaledb must be loaded via shared_preload_libraries", Verdict.UNKNOWN),
        ('ERROR:  could not extend file "base/1/2": No space left on device', Verdict.UNKNOWN),
        ('ERROR:  relation "public.t" does not exist', Verdict.ALERT),
        ('ERROR:  duplicate key value violates unique constraint "t_pkey"', Verdict.ALERT),
        ("could not read from input file: end of file", Verdict.ALERT),
        ("it said nothing", Verdict.ALERT),
    ],
)
def test_a_failed_restore_is_the_sets_fault_unless_this_machine_lacks_something(said: str, verdict: Verdict) -> None:
    finding = restore_finding("database", CommandFailed(f"pg_restore ended with exit code 1: {said}", exit_code=1))
    assert finding.verdict is verdict
    assert finding.hint
