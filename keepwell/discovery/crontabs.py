"""Crontab lines that make dumps: found, and retired by an approved plan that can be taken back.

A line is commented out where it stands, with everything else of its file as it was: contents, owner, rights. The
comment holds the line itself, so that taking it back needs nothing but the file.
"""

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from keepwell.approval import digest_plan
from keepwell.discovery.facts import CronLine
from keepwell.errors import ConfigurationError, KeepwellError, PreconditionFailed

# What cron reads on Debian and its kin, and on Red Hat's.
PLACES = (Path("/etc/crontab"), Path("/etc/cron.d"), Path("/var/spool/cron/crontabs"), Path("/var/spool/cron"))
_DUMPS = re.compile(r"\bpg_dump(all)?\b")
_RETIRED = re.compile(r"^# keepwell retired this line on \S+: ")
_SETTING = re.compile(r"^\w+\s*=")
# What variables, options and connection words that are called like a secret hold, and a password in an address.
_CALLED_SO = r"\w*(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|ACCESS_KEY)\w*="
_QUOTED_WITH_ITS_NAME = re.compile(rf"""(["'])({_CALLED_SO})(?:(?!\1).)+""", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    rf"""({_CALLED_SO})(?!…)(?:(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s'"\\])+|["'].*)""", re.IGNORECASE
)
_SECRET_IN_ADDRESS = re.compile(r"(://[^\s:/@]*:)\S+(?=@)")
_LARGEST_SCRIPT_BYTES = 100_000
# A name that every cron passes over, in both kinds of folder: Debian's takes no dot at all, cronie none in front.
_TEMPORARY = ".keepwell.{}"
_LEFT_BY_PACKAGES = ".dpkg-"


@dataclass(frozen=True)
class Change:
    """What becomes of one line.

    Attributes:
        file: Of the crontab.
        number: Of the line, from 1.
        before: The line as it stands.
        after: The line as it will stand.
    """

    file: Path
    number: int
    before: str
    after: str


@dataclass(frozen=True)
class CronPlan:
    """Lines to change, and nothing else.

    Attributes:
        changes: In the files' order; may be empty.
    """

    changes: tuple[Change, ...]

    @property
    def digest(self) -> str:
        """What is approved: it stands for these lines as they are now."""
        return digest_plan([(str(change.file), change.number, change.before) for change in self.changes])

    @property
    def shown(self) -> tuple[Change, ...]:
        """The changes as people may see them."""
        return tuple(
            replace(change, before=hide_secrets(change.before), after=hide_secrets(change.after))
            for change in self.changes
        )


def hide_secrets(text: str) -> str:
    """A line with an ellipsis where it holds a password; for showing only."""
    text = _QUOTED_WITH_ITS_NAME.sub(r"\1\2…", text)
    return _SECRET_IN_ADDRESS.sub(r"\1…", _SECRET_VALUE.sub(r"\1…", text))


def read_crontabs(places: Iterable[Path] = PLACES) -> tuple[list[CronLine], list[str]]:
    """Every line of this machine's crontabs that starts something.

    Returns:
        The lines, and what could not be read, one sentence each.
    """
    lines: list[CronLine] = []
    unread = []
    for place in places:
        try:
            for file in _files_in(place):
                lines += _read_lines(file)
        except OSError as error:
            unread.append(f"The crontabs in {place} cannot be read: {error.strerror}.")
    return lines, unread


def _files_in(place: Path) -> list[Path]:
    """Those that cron heeds: neither hidden ones, as ours are while they are written, nor what a package left."""
    found = sorted(place.iterdir()) if place.is_dir() else [place]
    return [
        file
        for file in found
        if file.is_file() and not file.name.startswith(".") and _LEFT_BY_PACKAGES not in file.name
    ]


def _read_lines(file: Path) -> Iterator[CronLine]:
    for number, text in enumerate(_split(file), start=1):
        if text.strip() and not text.lstrip().startswith("#") and not _SETTING.match(text):
            yield CronLine(file, number, text, _read_script(text))


def _read_script(text: str) -> str:
    """What the first readable script of a line holds: many a line only calls one."""
    for word in text.split():
        path = Path(word)
        if path.is_absolute() and path.suffix in ("", ".sh", ".bash", ".py") and path.is_file():
            try:
                content = path.read_bytes()[:_LARGEST_SCRIPT_BYTES]
            except OSError:
                continue
            if b"\0" not in content:  # a program of the system is none
                return content.decode(errors="replace")
    return ""


def choose_dumping(lines: Iterable[CronLine], names: Sequence[str]) -> list[CronLine]:
    """Lines that dump a platform's database, by themselves or by a script.

    Args:
        lines: Of any crontab.
        names: What the platform's container, project and database are called; a line must name one of them.
    """
    words = re.compile("|".join(rf"(?<![\w-]){re.escape(name)}(?![\w-])" for name in names if name) or r"(?!)")
    told = ((line, f"{line.text}\n{line.script}") for line in lines)
    return [line for line, text in told if _DUMPS.search(text) and words.search(text)]


def find_folders(lines: Iterable[CronLine]) -> list[Path]:
    """Folders that lines and their scripts name, themselves or as where a file goes; they need not exist."""
    found: dict[Path, None] = {}
    for line in lines:
        for word in re.findall(r"(/[\w./-]+)", f"{line.text}\n{line.script}"):
            path = Path(word)
            found.update(dict.fromkeys((path, path.parent)))
    return [path for path in found if len(path.parts) > 1]


def plan_retirement(lines: Iterable[CronLine], now: datetime) -> CronPlan:
    """Comment lines out.

    Args:
        lines: Which.
        now: An aware time, for the comment.
    """
    mark = f"# keepwell retired this line on {now:%Y-%m-%dT%H:%M:%SZ}: "
    return CronPlan(tuple(Change(line.file, line.number, line.text, mark + line.text) for line in lines))


def plan_return(places: Iterable[Path] = PLACES) -> CronPlan:
    """Take back every line that was retired.

    Raises:
        ConfigurationError: A crontab cannot be read.
    """
    changes: list[Change] = []
    for place in places:
        try:
            for file in _files_in(place):
                changes += _retired_in(file)
        except OSError as error:
            raise _unreadable(place, error) from error
    return CronPlan(tuple(changes))


def _retired_in(file: Path) -> Iterator[Change]:
    for number, text in enumerate(_split(file), start=1):
        if mark := _RETIRED.match(text):
            yield Change(file, number, text, text[mark.end() :])


def apply_plan(plan: CronPlan, approved: str) -> None:
    """Change the lines of an approved plan, each file whole or not at all, and see that they read back.

    Raises:
        PreconditionFailed: Another plan was approved, or a file has changed since; nothing more was changed.
        ConfigurationError: A file cannot be written.
    """
    if approved != plan.digest:
        raise PreconditionFailed(
            f"The plan {approved} is not what there is to do now; that is {plan.digest}.",
            hint="Look at it with --plan, and approve that one.",
        )
    files = dict.fromkeys(change.file for change in plan.changes)
    for folder in dict.fromkeys(file.parent for file in files):
        _sweep(folder)
    for file in files:
        _rewrite(file, [change for change in plan.changes if change.file == file])


def _sweep(folder: Path) -> None:
    """Remove what a killed one of us left half written; what another one writes just now stays."""
    try:
        for path in folder.glob(_TEMPORARY.format("*")):
            number = path.name.rpartition(".")[2]
            if number.isdigit() and (int(number) == os.getpid() or not Path("/proc", number).exists()):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise _unreadable(folder, error) from error


def _rewrite(file: Path, changes: Sequence[Change]) -> None:
    try:
        lines = _split(file)
        for change in changes:
            at = change.number - 1
            if at >= len(lines) or lines[at] != change.before:
                raise PreconditionFailed(f"{file} has changed meanwhile.", hint="Look at the plan again.")
            lines[at] = change.after
        _replace(file, "\n".join(lines).encode(errors="surrogateescape"))
        back = _split(file)
    except OSError as error:
        raise _unreadable(file, error) from error
    if any(back[change.number - 1] != change.after for change in changes):
        raise KeepwellError(f"{file} reads back differently from what was written.", hint="Look at that disk.")


def _split(file: Path) -> list[str]:
    """A crontab's lines, such that joined by line feeds they are the file's own bytes again."""
    return file.read_bytes().decode(errors="surrogateescape").split("\n")


def _replace(file: Path, content: bytes) -> None:
    """Cron sees either the old file or the new one; owner and rights stay, or it would not heed it."""
    partial = file.with_name(_TEMPORARY.format(os.getpid()))
    found = file.stat()
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchown(descriptor, found.st_uid, found.st_gid)
            os.fchmod(descriptor, found.st_mode & 0o7777)
            os.fsync(descriptor)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _unreadable(place: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"{place} cannot be read or written: {error.strerror}.",
        hint=f"Crontabs are root's: sudo keepwell …, or look at `ls -l {shlex.quote(str(place))}`.",
    )
