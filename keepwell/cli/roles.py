"""`keepwell roles`: SQL for roles that back up, vacuum and restore a platform, each with the least that it needs."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console

    from keepwell.postgres.roles import RolePlan
    from keepwell.settings import DatabaseSettings

_PURPOSES = ("backup", "vacuum", "restore")


@console.command("roles")
def roles(
    *,
    print_it: Annotated[
        bool, typer.Option("--print", help="Print the script: what happens anyway without --output.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Print what takes the roles away again.")] = False,
    role: Annotated[
        list[str] | None,
        typer.Option("--role", metavar="PURPOSE", help="`backup`, `vacuum` or `restore` alone; may be repeated."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="New file for the script, readable by you only.", show_default=False)
    ] = None,
    passwords_directory: Annotated[
        Path | None,
        typer.Option(
            help="Generate passwords into files of this folder, readable by you only, and let the script in --output "
            "set their SCRAM verifiers. Without it, psql asks for them.",
            show_default=False,
        ),
    ] = None,
    platform: console.PlatformName = None,
) -> Outcome:
    """Print SQL for roles that back up, vacuum and restore a platform, each with the least that it needs.

    Nothing is changed: read the script, then have a superuser run it with psql. It is planned from what the server
    says of its owners, databases and large objects now; print it anew after these have changed.
    """
    from keepwell.keyring import require_new, write_secret
    from keepwell.postgres.role_facts import read_role_facts
    from keepwell.postgres.roles import Purpose, plan_roles, render_role_script, render_undo_script
    from keepwell.verdict import Verdict

    purposes = _choose(role)
    if output is not None:
        require_new(output)
    if passwords_directory is not None and (output is None or undo):
        raise ConfigurationError(
            "--passwords-directory needs --output, and makes no sense with --undo.",
            hint="Name a new file for the script: what it sets does not belong on a screen.",
        )
    settings = console.load_platform(platform)
    database = settings.database
    with console.working(f"Looking at the roles of {database.place}"):
        plan = plan_roles(
            read_role_facts(database),
            platform=settings.name,
            maintenance=database.maintenance_name,
            jobs=settings.backup.jobs,
            purposes=[Purpose(purpose) for purpose in purposes],
        )
    files = _password_files(plan, passwords_directory)
    verifiers = _make_verifiers(database, files)
    script = render_undo_script(plan) if undo else render_role_script(plan, verifiers=verifiers)
    if output is not None:
        write_secret(output, script)
    shown = print_it or output is None
    return Outcome(
        Verdict.WARN if plan.impossible and not undo else Verdict.OK,
        data=_describe(plan, script if shown else None, output, files),
        hint=_hint(plan, output, undo=undo) if output is not None else "",
        show=lambda screen: _show(screen, script if shown else "", files),
    )


def _choose(role: list[str] | None) -> list[str]:
    unknown = [purpose for purpose in role or () if purpose not in _PURPOSES]
    if unknown:
        raise ConfigurationError(f"There is no role for {unknown[0]}.", hint=f"Known are {', '.join(_PURPOSES)}.")
    return [purpose for purpose in _PURPOSES if not role or purpose in role]


def _password_files(plan: "RolePlan", folder: Path | None) -> dict[str, Path]:
    """Where each planned role's password lies, by its name; a file that is there stays, so that a second try fits."""
    from keepwell.keyring import write_secret
    from keepwell.postgres.roles import make_password

    if folder is None:
        return {}
    if not folder.is_dir():
        raise ConfigurationError(f"There is no folder {folder}.", hint="Make it, readable by you only.")
    files = {role.name: folder.absolute() / f"{role.name}.password" for role in plan.roles}
    for file in files.values():
        if not file.exists():
            write_secret(file, f"{make_password()}\n")
    return files


def _make_verifiers(database: "DatabaseSettings", files: dict[str, Path]) -> dict[str, str]:
    """What the server keeps in a password's stead, so that no log of its shows one."""
    from keepwell.postgres.connection import connect

    if not files:
        return {}
    with connect(database) as connection:
        return {
            name: connection.pgconn.encrypt_password(
                file.read_text().strip().encode(), name.encode(), b"scram-sha-256"
            ).decode()
            for name, file in files.items()
        }


def _describe(plan: "RolePlan", script: str | None, output: Path | None, files: dict[str, Path]) -> dict[str, Any]:
    return {
        "platform": plan.platform,
        "server_major": plan.server_major,
        "roles": [
            {
                "purpose": role.purpose,
                "name": role.name,
                "exists": role.exists,
                "attributes": role.attributes,
                "member_of": [membership.role for membership in role.memberships],
                "password_file": files.get(role.name),
            }
            for role in plan.roles
        ],
        "impossible": dict(plan.impossible),
        "notes": plan.notes,
        "closing": dict(plan.closing),
        "script": script,
        "output": output,
    }


def _hint(plan: "RolePlan", output: Path, *, undo: bool) -> str:
    """Only where the script goes to a file: what is printed says by itself how to run it, and may go through a pipe."""
    if not plan.roles:
        return f"There is nothing to run; {output} says why."
    run = f"Read it, then as a superuser: psql -X -v ON_ERROR_STOP=1 -d postgres -f {output}"
    return run if undo else f"{run}\nThen name the role in [database], and try it: keepwell doctor"


def _show(screen: "Console", script: str, files: dict[str, Path]) -> None:
    if script:
        console.print_plain(screen, script.rstrip("\n"))
    for file in files.values():
        console.print_plain(screen, f"Its password lies in {file}, readable by you only.")
