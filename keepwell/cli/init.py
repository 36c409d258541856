"""`keepwell init`: write a platform file with every key explained."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli import console, keys
from keepwell.cli.console import Outcome
from keepwell.errors import ConfigurationError, PreconditionFailed

if TYPE_CHECKING:
    from rich.console import Console

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

    Makes the keys that backups are sealed and signed with, or takes those that are in --keys-directory already.
    """
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
    wanted = SealingAnswers(
        sealing, keys_directory or output.absolute().parent / "keys", offline_recipient, offline_identity_file
    )
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
        data={"path": output.absolute(), "name": answers["name"], "sealing": _section("sealing", answers)},
        hint=_next_step(output, answers),
        show=lambda screen: _show(screen, output, wanted),
    )


@dataclass(frozen=True)
class SealingAnswers:
    """What was said of keys.

    Attributes:
        wanted: Whether backups are encrypted and signed at all.
        directory: For this machine's keys.
        offline_recipient: Public key of a pair that is kept elsewhere.
        offline_identity_file: Where to write the secret of such a pair, to be taken away.
    """

    wanted: bool
    directory: Path
    offline_recipient: str | None
    offline_identity_file: Path | None

    @property
    def offline_named(self) -> bool:
        """Whether an offline key was named at all."""
        return self.offline_recipient is not None or self.offline_identity_file is not None

    def require_whole(self) -> None:
        """Go on only when one offline key is named, or none is wanted.

        Raises:
            ConfigurationError: None is named, or two, or one beside --no-sealing.
            PreconditionFailed: The file for its secret is there already.
        """
        if self.wanted:
            keys.require_offline(self.offline_recipient, self.offline_identity_file, or_else=_NO_SEALING)
        elif self.offline_named:
            raise ConfigurationError("An offline key was named, and --no-sealing too.", hint="Leave one of them out.")


_NO_SEALING = "For a trial, --no-sealing stores everything unencrypted and unsigned."


def ask_for_keys(given: SealingAnswers) -> SealingAnswers:
    """Ask on the terminal which offline key there is, unless a flag told."""
    if not given.wanted or given.offline_named:
        return given
    console.say(keys.WHAT_LOSING_MEANS)
    recipient = typer.prompt(
        "Public key (age1…) of a pair that is kept elsewhere (empty: make one)",
        default="",
        show_default=False,
        err=True,
    )
    if recipient:
        return replace(given, offline_recipient=recipient)
    path = typer.prompt("File to write its secret to, on a stick, say; you take it away from here", err=True)
    return replace(given, offline_identity_file=Path(path))


def make_keys(wanted: SealingAnswers) -> dict[str, Any]:
    """The values of [sealing]; this machine's keys are made unless they are there.

    Raises:
        ConfigurationError: They cannot be read or written.
    """
    from keepwell.keyring import take_key_files

    if not wanted.wanted:
        return {"mode": "none"}
    return keys.seal_with(take_key_files(wanted.directory), wanted.offline_recipient, wanted.offline_identity_file)


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


@contextmanager
def drafted(path: Path, answers: Mapping[str, Any]) -> Iterator[Path]:
    """Render a platform file beside its place and load it as every command will.

    Args:
        path: Where it belongs; what is there is left alone.
        answers: `section.key` to value, and `name`; None leaves a key out.

    Yields:
        The draft, to be put in its place; gone afterwards if it was not.

    Raises:
        ConfigurationError: It would not load, or cannot be written; nothing was changed.
    """
    from keepwell.cli.platform_file import render_platform_file

    sections = {key.partition(".")[0] for key in answers if "." in key}
    text = render_platform_file(answers["name"], {section: _section(section, answers) for section in sections})
    try:
        descriptor, draft_name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.", suffix=".draft")
        draft = Path(draft_name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(descriptor)
            _require_loadable(draft)
            yield draft
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror}.", hint="Check its folder, or pass --output."
        ) from error


def _section(section: str, answers: Mapping[str, Any]) -> dict[str, Any]:
    """What was answered for one table of the file."""
    named = {key.removeprefix(f"{section}."): value for key, value in answers.items() if key.startswith(f"{section}.")}
    return {key: value for key, value in named.items() if value is not None}


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
