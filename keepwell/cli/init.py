"""`keepwell init`: write a platform file with every key explained."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.errors import ConfigurationError, PreconditionFailed

Text = Annotated[str | None, typer.Option(metavar="TEXT")]
Number = Annotated[int | None, typer.Option(metavar="PORT")]
File = Annotated[Path | None, typer.Option(metavar="PATH")]


@console.command("init")
def init(  # noqa: PLR0917 - each flag is a parameter; typer passes them by name
    output: Annotated[Path, typer.Option("--output", help="Where the file is written.")] = Path("keepwell.toml"),
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
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; take the defaults.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> Outcome:
    """Write a platform file, every key of it explained, and check it before it takes its place."""
    from keepwell.verdict import Verdict

    if output.exists() and not force:
        raise PreconditionFailed(f"{output} is there already.", hint="Pass --force to replace it, or --output.")
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
    if console.is_interactive() and not yes:
        answers |= ask_missing(answers)
    require_answers(answers)
    write_platform_file(output, answers)
    return Outcome(
        Verdict.OK,
        data={"path": output.absolute(), "name": answers["name"]},
        hint=_next_step(output, answers),
        show=lambda screen: screen.print(f"Wrote {output}, readable by you only.", markup=False),
    )


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


def write_platform_file(path: Path, answers: Mapping[str, Any]) -> None:
    """Render the file, load it as every command will, and only then put it in its place.

    Args:
        path: Where; replaced if it is there.
        answers: `section.key` to value, and `name`; None leaves a key out.

    Raises:
        ConfigurationError: It would not load, or cannot be written; nothing was changed.
    """
    from keepwell.cli.platform_file import render_platform_file

    values: dict[str, dict[str, Any]] = {}
    for key, value in answers.items():
        section, dot, field = key.partition(".")
        if dot and value is not None:
            values.setdefault(section, {})[field] = value
    text = render_platform_file(answers["name"], values)
    try:
        descriptor, draft_name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.", suffix=".draft")
        draft = Path(draft_name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(descriptor)
            _require_loadable(draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror}.", hint="Check its folder, or pass --output."
        ) from error


def _require_loadable(draft: Path) -> None:
    from keepwell.settings import load_platform_file

    try:
        load_platform_file(draft)
    except ConfigurationError as error:
        message = error.message.replace(f"{draft}: ", "")
        raise ConfigurationError(f"Nothing was written, since it would not load: {message}", hint=error.hint) from error


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
