"""`keepwell backup`: make, prove, list and restore backups, with or without the orchestrator."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli import console, second
from keepwell.cli.console import Outcome
from keepwell.cli.sets import In, Which, choose, show_expiring, size, tell_waiting
from keepwell.destination import Destination

if TYPE_CHECKING:
    from rich.console import Console

    from keepwell.backup.catalogue import BackupEntry
    from keepwell.backup.database import Database
    from keepwell.backup.manifest import Manifest
    from keepwell.backup.pins import Pin
    from keepwell.backup.proof import Proof
    from keepwell.backup.restore import Restored
    from keepwell.backup.restore_uploads import RestoredUploads
    from keepwell.objectstore.store import Store
    from keepwell.settings import Platform
    from keepwell.verdict import Verdict

    Pins = dict[str, Pin | None]

app = console.group("Make, prove, list and restore backups.")

_MAKE_ONE = {Destination.FIRST: "keepwell backup create", Destination.SECOND: "keepwell backup copy"}


@app.command("create")
@console.command("backup.create")
def create(
    *,
    proof: Annotated[bool, typer.Option(help="Prove it at once; without a proof it is no backup yet.")] = True,
    platform: console.PlatformName = None,
) -> Outcome:
    """Dump the platform's databases into a new backup set, and prove that it restores equal."""
    from keepwell.backup.create import create_backup
    from keepwell.backup.sweep import judge_left_over
    from keepwell.backup.verify import verify_backup
    from keepwell.holding import hold_platform, hold_sets
    from keepwell.interlock import Procedure
    from keepwell.objectstore.bucket import open_store
    from keepwell.objectstore.destinations import has_second
    from keepwell.verdict import Verdict

    settings = console.load_platform(platform)
    store = open_store(settings)
    with console.progress_shown() as progress:
        with hold_platform(settings, store, Procedure.BACKUP, on_wait=tell_waiting):
            manifest = create_backup(settings, store, progress)
        for finding in judge_left_over(store):
            console.say(f"{finding.name}: {finding.message} {finding.hint}")
        if not proof:
            return Outcome(
                Verdict.WARN,
                data={"backup": _summarize(manifest), "proof": None},
                hint=f"Not proven yet: keepwell backup verify {manifest.backup_id}",
                show=lambda screen: _show_set(screen, manifest, None),
            )
        with hold_sets(settings, store):
            proven = verify_backup(settings, store, manifest.backup_id, progress, all_uploads=False)
        outcome = _told_of_first(_proof_outcome(settings, manifest, proven), settings, store, proven)
        if not has_second(settings) or not proven.proves(settings.backup.proven_level):
            return outcome
        copies = second.copy_after_proof(settings, store, manifest.backup_id, progress)
    return second.joined(outcome, settings, copies)


@app.command("list")
@console.command("backup.list")
def list_backups(*, destination: In = Destination.FIRST, platform: console.PlatformName = None) -> Outcome:
    """List the backup sets of a destination, newest first, each with the level that was proven there."""
    from keepwell.backup.catalogue import read_catalogue
    from keepwell.backup.expire import read_expiring
    from keepwell.backup.pins import read_pins
    from keepwell.backup.sweep import read_left_over
    from keepwell.objectstore.destinations import open_destination
    from keepwell.verdict import Verdict

    settings = console.load_platform(platform)
    store = open_destination(settings, destination)
    entries, pins, expiring = read_catalogue(store), read_pins(store), read_expiring(store)
    left_over = read_left_over(store)
    level = settings.backup.proven_level
    proven = [entry for entry in entries if entry.is_proven(level)]
    verdict = Verdict.OK if entries and entries[0].is_proven(level) else Verdict.WARN if proven else Verdict.ALERT
    if any(entry.damaged for entry in entries):
        verdict = Verdict.ALERT
    return Outcome(
        verdict,
        data={
            "backups": [_describe(entry, settings, pins) for entry in entries],
            "proven": len(proven),
            "expiring": expiring,
            "left_over": left_over,
        },
        hint="" if proven else f"There is no proven backup: make one with `{_MAKE_ONE[destination]}`.",
        show=lambda screen: _show_list(screen, entries, settings, pins, expiring | left_over),
    )


@app.command("show")
@console.command("backup.show")
def show(
    which: Which = "newest", *, destination: In = Destination.FIRST, platform: console.PlatformName = None
) -> Outcome:
    """Show one backup set: what it holds, how far it was proven, and how to restore it."""
    from keepwell.backup.catalogue import read_entry
    from keepwell.backup.pins import read_pins
    from keepwell.errors import PreconditionFailed
    from keepwell.objectstore.destinations import open_destination
    from keepwell.verdict import Verdict

    settings = console.load_platform(platform)
    store = open_destination(settings, destination)
    entry = read_entry(store, choose(settings, store, which))
    manifest = entry.manifest
    if manifest is None:
        raise PreconditionFailed(entry.fault, hint="List what there is: keepwell backup list.")
    pins = read_pins(store)
    verdict = Verdict.ALERT if entry.damaged else Verdict.OK
    if not entry.damaged and not entry.is_proven(settings.backup.proven_level):
        verdict = Verdict.WARN
    return Outcome(
        verdict,
        data={"manifest": manifest, "proof": entry.proof, "pin": _describe_pin(entry.backup_id, pins)},
        hint="It is damaged: restore another." if entry.damaged else _restore_hint(manifest, destination),
        show=lambda screen: _show_set(screen, manifest, entry.proof, pins),
    )


@app.command("verify")
@console.command("backup.verify")
def verify(
    which: Which = "newest", *, destination: In = Destination.FIRST, platform: console.PlatformName = None
) -> Outcome:
    """Read a backup set back from the store, restore it on a scratch server, and compare it with its source."""
    from keepwell.backup.catalogue import read_manifest
    from keepwell.backup.verify import verify_backup
    from keepwell.holding import hold_sets
    from keepwell.objectstore.destinations import open_destination

    settings = console.load_platform(platform)
    store = open_destination(settings, destination)
    backup_id = choose(settings, store, which)
    with console.progress_shown() as progress, hold_sets(settings, store):
        proven = verify_backup(settings, store, backup_id, progress)
    if not store.may_write:
        console.say("This machine has a key that only reads, so this proof was not stored beside the set.")
    elif not store.seal.is_believed:
        console.say("This machine signs nothing that counts here, so this proof was not stored beside the set.")
    return _proof_outcome(settings, read_manifest(store, backup_id), proven, destination)


@app.command("restore")
@console.command("backup.restore")
def restore(
    which: Which,
    *,
    into: Annotated[str, typer.Option(help="Name of the new database; there must be none of that name.")],
    database: Annotated[
        str | None, typer.Option(help="Which of the set's databases; its main one by default.", show_default=False)
    ] = None,
    unproven: Annotated[bool, typer.Option(help="Restore even a set that was never proven.")] = False,
    destination: In = Destination.FIRST,
    platform: console.PlatformName = None,
) -> Outcome:
    """Restore a database of a backup set into a new one beside the live one, and prove it equal there."""
    from keepwell.backup.restore import restore_into
    from keepwell.holding import hold_platform
    from keepwell.interlock import Procedure
    from keepwell.objectstore.destinations import open_destination
    from keepwell.verdict import Verdict

    settings = console.load_platform(platform)
    store = open_destination(settings, destination)
    backup_id = choose(settings, store, which)
    with console.progress_shown() as progress, hold_platform(settings, store, Procedure.RESTORE, on_wait=tell_waiting):
        restored = restore_into(settings, store, backup_id, into, progress, source=database, allow_unproven=unproven)
    return Outcome(Verdict.OK, data=restored, show=lambda screen: _show_restored(screen, restored, database))


@app.command("restore-uploads")
@console.command("backup.restore-uploads")
def restore_uploads(
    which: Which,
    *,
    into: Annotated[Path, typer.Option(help="New or empty folder; nothing that exists is touched.")],
    unproven: Annotated[bool, typer.Option("--unproven", help="Take even a set that was never proven.")] = False,
    destination: In = Destination.FIRST,
    platform: console.PlatformName = None,
) -> Outcome:
    """Put the uploaded files of a backup set into a folder, each compared with its hash; needs no database."""
    from keepwell.holding import hold_sets
    from keepwell.objectstore.destinations import open_destination
    from keepwell.restore.uploads_beside import restore_uploads_beside
    from keepwell.verdict import Verdict, worst

    settings = console.load_platform(platform)
    store = open_destination(settings, destination)
    with console.progress_shown() as progress, hold_sets(settings, store):
        backup_id = choose(settings, store, which)
        restored = restore_uploads_beside(settings, store, backup_id, into, progress, allow_unproven=unproven)
    verdict = worst([Verdict.OK, *(finding.verdict for finding in restored.findings)])
    return Outcome(verdict, data=restored, show=lambda screen: _show_restored_uploads(screen, restored))


def _proof_outcome(
    settings: "Platform", manifest: "Manifest", proof: "Proof", destination: Destination = Destination.FIRST
) -> Outcome:
    proven = proof.proves(settings.backup.proven_level)
    hint = _restore_hint(manifest, destination) if proven else "Do not rely on this set; the findings above say why."
    return Outcome(
        _proof_verdict(proof, proven=proven),
        data={"backup": _summarize(manifest), "proof": proof, "level": proof.reached, "proven": proven},
        hint=hint,
        show=lambda screen: _show_set(screen, manifest, proof),
    )


def _told_of_first(outcome: Outcome, settings: "Platform", store: "Store", proof: "Proof") -> Outcome:
    """The outcome with what became of the message on the first proven backup; if that fails, the backup stands."""
    from dataclasses import replace

    from keepwell.backup.first_proven import tell_first_proven
    from keepwell.errors import KeepwellError

    try:
        delivery = tell_first_proven(settings, store, proof)
    except KeepwellError as error:
        console.say(f"Whether people were told of the first proven backup is not known: {error}")
        return outcome
    for channel in delivery.outcomes if delivery else ():
        said = "was told that backups are proven" if channel.delivered else f"was not told: it {channel.reason}"
        console.say(f"Channel {channel.channel} {said}.")
    return replace(outcome, data={**outcome.data, "told": delivery})


def _proof_verdict(proof: "Proof", *, proven: bool) -> "Verdict":
    from keepwell.verdict import Verdict, worst

    return proof.verdict if proven else worst([Verdict.UNKNOWN, proof.verdict])


def _summarize(manifest: "Manifest") -> dict[str, Any]:
    return {
        "backup_id": manifest.backup_id,
        "snapshot_at": manifest.snapshot_at,
        "database": manifest.main.name,
        "databases": [_summarize_database(database) for database in manifest.databases],
        "server_version": manifest.main.source.server_version,
        "tables": len(manifest.tables),
        "rows": manifest.rows,
        "bytes_source": manifest.source_bytes,
        "bytes_stored": manifest.stored_bytes,
        "seconds": manifest.seconds,
        "role_passwords": manifest.role_passwords,
        "uploads": manifest.uploads,
        "redis": manifest.cache,
    }


def _summarize_database(database: "Database") -> dict[str, Any]:
    return {
        "name": database.name,
        "snapshot_at": database.snapshot_at,
        "tables": len(database.tables),
        "rows": database.rows,
        "bytes_source": database.source.size_bytes,
    }


def _describe(entry: "BackupEntry", settings: "Platform", pins: "Pins") -> dict[str, Any]:
    described: dict[str, Any] = {
        "backup_id": entry.backup_id,
        "level": entry.level,
        "state": _state(entry, settings),
        "proven_at": entry.proof.finished_at if entry.proof else None,
        "fault": entry.fault,
        "pin": _describe_pin(entry.backup_id, pins),
    }
    return described | (_summarize(entry.manifest) if entry.manifest else {})


def _describe_pin(backup_id: str, pins: "Pins") -> str | None:
    """The pin in words; None where there is none."""
    from keepwell.backup.pins import describe_pin

    return describe_pin(pins[backup_id]) if backup_id in pins else None


def _state(entry: "BackupEntry", settings: "Platform") -> str:
    if entry.damaged:
        return "damaged"
    return "proven" if entry.is_proven(settings.backup.proven_level) else "not proven"


def _restore_hint(manifest: "Manifest", destination: Destination = Destination.FIRST) -> str:
    from keepwell.backup.report import build_restore_commands

    commands = build_restore_commands(manifest, manifest.platform, destination)
    return f"Restore it beside the live database: {'; '.join(commands)}"


def _show_list(
    screen: "Console", entries: "list[BackupEntry]", settings: "Platform", pins: "Pins", expiring: dict[str, int]
) -> None:
    looks = {"proven": "ok", "not proven": "unknown", "damaged": "alert"}
    table = console.table("backup", "age", "state", "level", "rows", "database", "stored", "proven at (UTC)")
    now = datetime.now(UTC)
    for entry in entries:
        state, manifest = _state(entry, settings), entry.manifest
        word = console.styled(looks[state])
        word.plain = state
        table.add_row(
            entry.backup_id,
            _age(now, manifest.snapshot_at) if manifest else "?",
            word,
            entry.level or "-",
            f"{manifest.rows:,}" if manifest else "?",
            size(manifest.source_bytes) if manifest else "?",
            size(manifest.stored_bytes) if manifest else "?",
            f"{entry.proof.finished_at:%Y-%m-%d %H:%M}" if entry.proof else "-",
        )
    screen.print(table)
    for entry in entries:
        if entry.fault:
            screen.print(f"{entry.backup_id}: {entry.fault}", markup=False)
        if pin := _describe_pin(entry.backup_id, pins):
            screen.print(f"{entry.backup_id} is {pin}", markup=False)
    show_expiring(screen, expiring)


def _show_set(screen: "Console", manifest: "Manifest", proof: "Proof | None", pins: "Pins | None" = None) -> None:
    from keepwell.backup.report import (
        database_word,
        describe_companions,
        describe_databases,
        describe_names,
        describe_sealing,
    )

    screen.print(
        f"{manifest.backup_id}: {describe_names(manifest)} on PostgreSQL {manifest.main.source.server_version}, "
        f"as of {manifest.snapshot_at:%Y-%m-%d %H:%M:%S} UTC",
        markup=False,
    )
    screen.print(
        f"{len(manifest.tables)} tables, {manifest.rows:,} rows, {database_word(manifest)} "
        f"{size(manifest.source_bytes)}, stored {size(manifest.stored_bytes)} in {len(manifest.parts)} objects, "
        f"written in {manifest.seconds.total:.1f} s",
        markup=False,
    )
    for line in (*describe_databases(manifest), *describe_companions(manifest)):
        screen.print(line, markup=False)
    screen.print(f"{describe_sealing(manifest)}.", markup=False)
    if pin := _describe_pin(manifest.backup_id, pins or {}):
        screen.print(f"It is {pin}", markup=False)
    if proof is None:
        screen.print("Never verified.")
        return
    table = console.table("level", "verdict", "what was shown", "seconds")
    for outcome in proof.levels:
        table.add_row(outcome.level, console.styled(outcome.verdict), _plain(outcome.summary), f"{outcome.seconds:.1f}")
    screen.print(table)
    worth_telling = [finding for finding in proof.findings if finding.verdict != "ok" or finding.hint]
    if worth_telling:
        screen.print(console.findings_table(worth_telling))
    for finding in proof.findings:
        if finding not in worth_telling:
            screen.print(f"{finding.name}: {finding.message}", markup=False)
    if proof.restore_seconds is not None:
        screen.print(
            f"Restored and compared on {proof.server} ({proof.isolation}) in {proof.restore_seconds:.1f} s.",
            markup=False,
        )


def _show_restored(screen: "Console", restored: "Restored", chosen: str | None) -> None:
    screen.print(
        f"{f'{chosen} of ' if chosen else ''}{restored.backup_id} is restored as the database {restored.database}: "
        f"{restored.tables} tables and {restored.rows:,} rows, equal to their source, in {restored.seconds:.1f} s. "
        "The live database is untouched.",
        markup=False,
    )
    for finding in restored.findings:
        screen.print(f"{finding.name}: {finding.message}", markup=False)


def _show_restored_uploads(screen: "Console", restored: "RestoredUploads") -> None:
    screen.print(
        f"{restored.files:,} uploaded files of {restored.backup_id} with {size(restored.size_bytes)} are in "
        f"{restored.folder}, each with its SHA-256 as written, in {restored.seconds:.1f} s.",
        markup=False,
    )
    if restored.findings:
        screen.print(console.findings_table(restored.findings))


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)


def _age(now: datetime, then: datetime) -> str:
    hours = (now - then).total_seconds() / 3600
    if hours < 1:
        return f"{hours * 60:.0f} min"
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} d"
