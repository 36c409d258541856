"""A platform file as it is being written: tried beside its place first, and the keys that it names."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

from keepwell.cli import console, keys
from keepwell.errors import ConfigurationError


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
    text = render_platform_file(answers["name"], {section: section_of(section, answers) for section in sections})
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


def section_of(section: str, answers: Mapping[str, Any]) -> dict[str, Any]:
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
