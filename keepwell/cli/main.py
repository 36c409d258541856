"""The operator's console: `keepwell <command>`."""

from typing import Annotated

import typer

from keepwell.cli import (
    backup,
    bucket,
    console,
    cron,
    drill,
    incident,
    itself,
    keys,
    notify,
    platform,
    restore,
    restore_parts,
    retention,
    second,
    serve,
    stack,
)
from keepwell.cli.approve import approve, reject
from keepwell.cli.doctor import doctor
from keepwell.cli.guide import guide
from keepwell.cli.init import init
from keepwell.cli.pause import pause, resume
from keepwell.cli.prove_dump import prove_dump
from keepwell.cli.roles import roles
from keepwell.cli.run_flow import run_flow
from keepwell.cli.schedules import schedules
from keepwell.cli.upgrade import upgrade

app = console.group("Your backups, proven; your maintenance guide, run.")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib import metadata  # noqa: PLC0415 - 40 ms that only this option needs

        typer.echo(f"keepwell {metadata.version('keepwell')}")
        raise typer.Exit


@app.callback()
def keepwell(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Your backups, proven; your maintenance guide, run."""
    del version


app.command()(init)
app.command()(doctor)
backup.app.command()(retention.expire)
backup.app.command()(retention.pin)
backup.app.command()(retention.unpin)
backup.app.command()(second.copy)
backup.app.command()(second.prepare_second)
app.add_typer(backup.app, name="backup")
for part in (
    restore_parts.tables,
    restore_parts.uploads,
    restore_parts.redis,
    restore_parts.roles,
    restore_parts.elsewhere,
):
    restore.app.command()(part)
app.add_typer(restore.app, name="restore")
app.add_typer(bucket.app, name="bucket")
app.add_typer(cron.app, name="cron")
app.add_typer(drill.app, name="drill")
app.add_typer(incident.app, name="incident")
app.add_typer(keys.app, name="keys")
app.add_typer(itself.app, name="self")
app.add_typer(platform.app, name="platform")
app.command()(roles)
app.command("prove-dump")(prove_dump)
app.command("run")(run_flow)
app.command()(approve)
app.command()(reject)
app.command()(schedules)
app.command()(pause)
app.command()(resume)
app.command(context_settings=stack.HAND_ON)(upgrade)
app.command()(guide)
app.add_typer(notify.app, name="notify")
app.command(context_settings=serve.HAND_ON)(serve.serve)
app.command(context_settings=stack.HAND_ON)(stack.up)
app.command(context_settings=stack.HAND_ON)(stack.status)
app.command(context_settings=stack.HAND_ON)(stack.down)


def run() -> None:
    """Entry point of the `keepwell` program."""
    app()
