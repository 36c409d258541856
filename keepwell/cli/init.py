"""`keepwell init`: write a platform file with every key explained."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli import console, keys
from keepwell.cli.console import Outcome
from keepwell.cli.draft import SealingAnswers, ask_for_keys, drafted, make_keys, section_of
from keepwell.errors import ConfigurationError, PreconditionFailed

if TYPE_CHECKING:
    from rich.console import Console

Text = Annotated[str | None, typer.Option(metavar="TEXT")]
Number = Annotated[int | None, typer.Option(metavar="PORT")]
File = Annotated[Path | None, typer.Option(metavar="PATH")]


@console.command("init")
def init(  # noqa: PLR0917 - each flag is a parameter; typer passes them by name
    output: Annotated[Path, typer.Option("--output", help="Where the file is written.")] = Path("keepwell.toml"),
    directory: Annotated[
        Path | None,
        typer.Option(
            "--directory",
            metavar="DIR",
            help="Look at what runs here under Docker, and take it into a file of this folder.",
        ),
    ] = None,
    project: Annotated[
        str | None,
        typer.Option(
            "--project", metavar="TEXT", help="Compose project, or database container, where several run here."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="TEXT", help="Short name of the platform.")] = None,
    database_host: Text = None,
    database_port: Number = None,
    database_name: Text = None,
    database_user: Text = None,
    database_password_file: File = None,
    bucket: Annotated[str | None, typer.Option("--bucket", metavar="TEXT", help="Name of the bucket.")] = None,
    endpoint_url: Text = None,
    region: Text = None,
    prefix: Text = None,
    access_key_id_file: File = None,
    secret_access_key_file: File = None,
    redis_host: Text = None,
    redis_port: Number = None,
    redis_password_file: File = None,
    uploads_directory: File = None,
    notify_urls_file: File = None,
    dead_mans_switch_url_file: File = None,
    api_url: Text = None,
    keys_directory: Annotated[
        Path | None,
        typer.Option("--keys-directory", metavar="DIR", help="Folder for this machine's keys; beside the file if not."),
    ] = None,
    offline_recipient: keys.OfflineRecipient = None,
    offline_identity_file: keys.OfflineFile = None,
    *,
    sealing: Annotated[
        bool, typer.Option("--sealing/--no-sealing", help="Whether backups are encrypted and signed.")
    ] = True,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; take the defaults.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> Outcome:
    """Write a platform file, every key of it explained, and check it before it takes its place.

    Makes the keys that backups are sealed and signed with, or takes those that are in --keys-directory already. With
    --directory it looks at the Docker Engine, the crontabs and earlier dumps of this machine first, measures which way
    leads to the database, and says what it could not find. Flags count more than what is found; secrets are asked for,
    or taken from the environment (KEEPWELL_…, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) into files of their own.
    """
    from keepwell.verdict import Verdict

    answers: dict[str, Any] = {
        "name": name,
        "database.host": database_host,
        "database.port": database_port,
        "database.name": database_name,
        "database.user": database_user,
        "database.password_file": database_password_file,
        "bucket.name": bucket,
        "bucket.endpoint_url": endpoint_url,
        "bucket.region": region,
        "bucket.prefix": prefix,
        "bucket.access_key_id_file": access_key_id_file,
        "bucket.secret_access_key_file": secret_access_key_file,
        "redis.host": redis_host,
        "redis.port": redis_port,
        "redis.password_file": redis_password_file,
        "uploads.directory": uploads_directory,
        "notify.urls_file": notify_urls_file,
        "notify.dead_mans_switch_url_file": dead_mans_switch_url_file,
        "orchestrator.api_url": api_url,
    }
    beside = (directory or output.parent).absolute()
    wanted = SealingAnswers(sealing, keys_directory or beside / "keys", offline_recipient, offline_identity_file)
    if directory is not None:
        from keepwell.cli.adoption import adopt

        return adopt(directory, answers, wanted, project=project, ask=console.is_interactive() and not yes)
    if output.exists() and not force:
        raise PreconditionFailed(f"{output} is there already.", hint="Pass --force to replace it, or --output.")
    if console.is_interactive() and not yes:
        answers |= ask_missing(answers)
        wanted = ask_for_keys(wanted)
    require_answers(answers)
    wanted.require_whole()
    # Tried without the keys first: a file that would not load must not leave keys behind.
    with drafted(output, answers):
        pass
    answers |= {f"sealing.{key}": value for key, value in make_keys(wanted).items()}
    with drafted(output, answers) as draft:
        draft.replace(output)
    return Outcome(
        Verdict.OK,
        data={"path": output.absolute(), "name": answers["name"], "sealing": section_of("sealing", answers)},
        hint=_next_step(output, answers),
        show=lambda screen: _show(screen, output, wanted),
    )


def _show(screen: "Console", output: Path, wanted: SealingAnswers) -> None:
    console.print_plain(screen, f"Wrote {output}, readable by you only.")
    if not wanted.wanted:
        console.print_plain(
            screen, "NOT SEALED: whoever reads the bucket will read your data. `keepwell keys make` makes keys."
        )
        return
    console.print_plain(screen, f"Keys of this machine: {wanted.directory}.")
    if wanted.offline_identity_file:
        console.print_plain(screen, f"Made {wanted.offline_identity_file}: the offline key. Take it away from here.")
    console.print_plain(screen, keys.WHAT_LOSING_MEANS)


# What to ask on a terminal: key, question, default. An empty answer leaves an optional key out.
_REQUIRED = {
    "name": ("--name", "Short name of the platform (a-z, 0-9, dashes)"),
    "database.name": ("--database-name", "Database to back up"),
    "database.user": ("--database-user", "Role that may read every table"),
    "bucket.name": ("--bucket", "Bucket for backup sets"),
}
_QUESTIONS = (
    ("name", ""),
    ("database.host", "Database host", "127.0.0.1"),
    ("database.port", "Database port", "5432"),
    ("database.name", ""),
    ("database.user", ""),
    ("database.password_file", "File that holds its password (empty: none)", ""),
    ("bucket.name", ""),
    ("bucket.endpoint_url", "S3 endpoint (empty: AWS)", ""),
    ("bucket.access_key_id_file", "File that holds the access key id (empty: found by AWS's own rules)", ""),
    ("bucket.secret_access_key_file", "File that holds the secret access key (empty: as above)", ""),
)


def ask_missing(answers: Mapping[str, Any]) -> dict[str, Any]:
    """Ask on the terminal for what no flag gave."""
    given = {}
    for key, *rest in _QUESTIONS:
        if answers[key] is not None:
            continue
        if key in _REQUIRED:
            given[key] = typer.prompt(_REQUIRED[key][1], err=True)
            continue
        question, default = rest
        answer = typer.prompt(question, default=default, show_default=bool(default), err=True)
        if answer:
            given[key] = int(answer) if answer.isdigit() and key.endswith(".port") else answer
    return given


def require_answers(answers: Mapping[str, Any]) -> None:
    """Go on only when every key without a default has its value.

    Raises:
        ConfigurationError: Names the flags that are missing.
    """
    missing = [flag for key, (flag, _) in _REQUIRED.items() if answers[key] is None]
    if missing:
        raise ConfigurationError(
            f"These are missing: {', '.join(missing)}.", hint="Pass them, or run this on a terminal to be asked."
        )


def _next_step(output: Path, answers: Mapping[str, Any]) -> str:
    from keepwell.settings import CONFIG_VARIABLE, DEFAULT_FILE

    prefix = "" if output == DEFAULT_FILE else f"{CONFIG_VARIABLE}={output} "
    secrets = ("database.password_file", "bucket.access_key_id_file", "bucket.secret_access_key_file")
    lines = []
    if any(answers[key] is None for key in secrets):
        lines.append(
            "Secrets: write each into a file of its own (mode 0600) and name it in the file, such as "
            "database.password_file, or set KEEPWELL_DATABASE__PASSWORD and the like."
        )
    return "\n".join([*lines, f"Next: {prefix}keepwell doctor"])
