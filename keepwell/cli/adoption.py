"""Writing the platform file of something that runs here already, with its secrets and keys beside it."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.cli.draft import SealingAnswers, ask_for_keys, drafted, make_keys
from keepwell.errors import ConfigurationError, PreconditionFailed

if TYPE_CHECKING:
    from rich.console import Console

    from keepwell.discovery.judgement import Candidate, FoundServer
    from keepwell.discovery.ways import Way
    from keepwell.verdict import Finding

SECRETS, KEYS = "secrets", "keys"
_UNCHANGED = "Nothing was changed. `keepwell platform list`."
# Secrets that somebody has to give: key, question, and where else they may be told.
_SECRETS = {
    "bucket.access_key_id": ("Access key id of the bucket (empty: found by AWS's own rules)", "AWS_ACCESS_KEY_ID"),
    "bucket.secret_access_key": ("Its secret access key (empty: as above)", "AWS_SECRET_ACCESS_KEY"),
    "notify.urls": ("Where messages go: an Apprise address, such as ntfy://… or tgram://… (empty: nowhere)", ""),
}
_QUESTIONS = {
    "bucket.name": ("Bucket for backup sets", None),
    "bucket.endpoint_url": ("S3 endpoint (empty: AWS)", ""),
}


@dataclass(frozen=True)
class Adopted:
    """What a platform file is to hold.

    Attributes:
        answers: `section.key` to value, and `name`; None leaves a key out.
        secrets: `section.key` to what goes into a file of its own.
        findings: What was found, measured, and not found.
    """

    answers: dict[str, Any]
    secrets: dict[str, str]
    findings: "tuple[Finding, ...]"


def adopt(
    directory: Path,
    given: Mapping[str, Any],
    wanted: SealingAnswers | None,
    *,
    project: str | None,
    ask: bool,
) -> Outcome:
    """Look at what runs here, and write what is found as a platform file of a folder.

    Args:
        directory: Made for its owner only, unless it is there.
        given: Values of flags: `section.key`, and `name`; they count more than what is found.
        wanted: Which keys; None where `given` holds [sealing] already.
        project: Which one, by its compose project or its container's name, where several run.
        ask: Whether there is somebody to ask for what is missing.

    Raises:
        PreconditionFailed: There is such a platform already, or nothing that could be taken runs here.
        ConfigurationError: Something that is needed was not told or cannot be meant, or a file cannot be written.
    """
    from keepwell.verdict import worst

    told = given.get("name") or _environment("name")
    if told:
        _require_new(directory, told)
    with console.working("Looking at what runs here"):
        candidate = _choose(project, given)
    output = _require_new(directory, told or candidate.name)
    adopted = _complete(candidate, given, ask=ask)
    if wanted is not None:
        wanted = ask_for_keys(wanted) if ask else wanted
        wanted.require_whole()
    _write(directory, output, adopted, wanted)
    findings = (*adopted.findings, _write_roles(output))
    return Outcome(
        worst([finding.verdict for finding in findings]),
        data={"path": output.absolute(), "name": adopted.answers["name"], "findings": findings},
        hint=f"Wrote {output}. Next: keepwell serve --detach, or keepwell serve reload where it serves already",
        show=lambda screen: _show(screen, findings, wanted),
    )


def _require_new(directory: Path, name: str) -> Path:
    """The file of a platform that the folder does not hold yet, by any file's name or by what one says in it."""
    from keepwell.settings import PLATFORM_NAME, SCHEDULES_FILE, name_files, platform_files

    output = directory / f"{name}.toml"
    if not re.fullmatch(PLATFORM_NAME, name) or output.name == SCHEDULES_FILE:
        raise ConfigurationError(
            f"No platform can be called {name!r}.",
            hint="Nothing was changed. Such as esn: a-z, 0-9 and dashes, and not the name of another file there.",
        )
    given = name_files(platform_files(directory)).get(name)
    if given is not None and given != output:
        raise PreconditionFailed(f"{given} describes a platform {name} already.", hint=_UNCHANGED)
    if output.exists():
        raise PreconditionFailed(f"{output} is there already.", hint=_UNCHANGED)
    return output


def _choose(project: str | None, given: Mapping[str, Any]) -> "Candidate":
    from keepwell.discovery.judgement import find_candidates, find_ended
    from keepwell.discovery.machine import read_machine

    machine = read_machine()
    found = find_candidates(machine)
    wanted = project or given.get("name")
    fitting = [one for one in found if wanted in (one.name, one.database.contained.project)]
    fitting = (
        fitting if len(fitting) == 1 else [one for one in found if wanted == one.database.contained.name] or fitting
    )
    chosen = fitting if project or fitting else found
    if len(chosen) == 1:
        return chosen[0]
    if len(chosen) > 1:
        raise PreconditionFailed(
            f"Several platforms run here: {', '.join(_tell_apart(chosen))}.", hint="Name one with --project."
        )
    ended = ", ".join(one.name for one in find_ended(machine))
    told = [
        *machine.unread,
        f"These have ended: {ended}." if ended else "",
        f"Others run: {len(found)}." if found else "",
    ]
    raise PreconditionFailed(
        " ".join(["No container with a PostgreSQL server that fits was found.", *filter(None, told)]),
        hint="Start the platform; or describe it by flags: `keepwell init --help`.",
    )


def _tell_apart(candidates: "Sequence[Candidate]") -> Iterator[str]:
    """What --project takes for each: its project, or its container's name where the project has several or is none."""
    projects = Counter(one.database.contained.project for one in candidates)
    for one in candidates:
        project = one.database.contained.project
        yield project if project and projects[project] == 1 else one.database.contained.name


def _complete(candidate: "Candidate", given: Mapping[str, Any], *, ask: bool) -> Adopted:
    """What is found, overridden by what was given, completed by what is asked for; and the ways in, measured."""
    from keepwell.verdict import Finding

    answers: dict[str, Any] = {"name": candidate.name, "uploads.directory": candidate.uploads}
    answers |= {key: told for key in given if (told := _environment(key)) is not None}
    answers |= {key: value for key, value in given.items() if value is not None}
    secrets = _find_secrets(answers, ask=ask)
    findings: list[Finding] = [*candidate.findings]
    database = _logged_in(candidate.database, answers, ask=ask)
    with console.working("Measuring the ways into its servers"):
        findings += _take_database(database, answers, secrets)
        if candidate.cache is not None:
            findings += _take_cache(candidate.cache, answers, secrets)
    for key, (question, default) in _QUESTIONS.items():
        if answers.get(key) is None:
            answers[key] = _environment(key) or (_ask(question, default) if ask else None)
    if answers["bucket.name"] is None:
        raise ConfigurationError(
            "Where backups go was not told: --bucket is missing.",
            hint="Pass it, or run this on a terminal to be asked.",
        )
    return Adopted(answers, secrets, tuple(findings))


def _take_database(found: "FoundServer", answers: dict[str, Any], secrets: dict[str, str]) -> "Iterable[Finding]":
    from keepwell.discovery.ways import Way, measure_database

    measured = measure_database(found, found.password)
    if not isinstance(measured, Way):
        raise PreconditionFailed(measured.message, hint=measured.hint)
    _fill(answers, "database", measured, {"name": found.name, "user": found.user})
    if found.password and answers.get("database.password_file") is None:
        secrets["database.password"] = found.password
    return [measured.finding]


def _take_cache(found: "FoundServer", answers: dict[str, Any], secrets: dict[str, str]) -> "Iterable[Finding]":
    """A cache that cannot be reached is told and left out: a backup needs none."""
    from keepwell.discovery.ways import Way, measure_cache

    measured = measure_cache(found)
    if not isinstance(measured, Way):
        return [measured]
    _fill(answers, "redis", measured, {"user": found.user})
    if found.password and answers.get("redis.password_file") is None:
        secrets["redis.password"] = found.password
    return [measured.finding]


def _fill(answers: dict[str, Any], section: str, way: "Way", more: Mapping[str, Any]) -> None:
    for key, value in {**way.values, **more}.items():
        answers.setdefault(f"{section}.{key}", value)


def _logged_in(found: "FoundServer", answers: Mapping[str, Any], *, ask: bool) -> "FoundServer":
    """The server with the login that was told, as far as one was; what is measured is what the file will say."""
    user, name = answers.get("database.user") or found.user, answers.get("database.name") or found.name
    # The password that was found is the found role's, and nobody else's.
    known = found.password if user == found.user else ""
    told = replace(found, user=user, name=name, password=known)
    return replace(told, password=_database_password(told, answers, ask=ask))


def _database_password(found: "FoundServer", answers: Mapping[str, Any], *, ask: bool) -> str:
    """By the same precedence as at every load: the environment, a file, what is found."""
    if told := _environment("database.password"):
        return told
    named = answers.get("database.password_file")
    if named is not None:
        try:
            return Path(named).read_text().strip()
        except OSError as error:
            raise ConfigurationError(f"{named} cannot be read: {error.strerror}.", hint="Check its path.") from error
    if found.password or not ask:
        return found.password
    return _ask(f"Password of {found.user} (empty: none)", "", hidden=True) or ""


def _find_secrets(answers: Mapping[str, Any], *, ask: bool) -> dict[str, str]:
    """From the environment, or asked for; those whose file was named are there already."""
    found = {}
    for key, (question, usual) in _SECRETS.items():
        if answers.get(f"{key}_file") is not None:
            continue
        told = _environment(key) or os.environ.get(usual or key)
        told = told or (_ask(question, "", hidden=True) if ask else None)
        if told:
            found[key] = _lines(told)
    return found


def _lines(told: str) -> str:
    """A list is written as JSON in the environment, and one to a line in a file."""
    with suppress(ValueError):
        parsed = json.loads(told)
        if isinstance(parsed, list):
            return "\n".join(map(str, parsed))
    return told


def _environment(key: str) -> str | None:
    """The variable that would override this key, which is taken into the file."""
    return os.environ.get(f"KEEPWELL_{key.replace('.', '__').upper()}")


def _ask(question: str, default: str | None, *, hidden: bool = False) -> str | None:
    told = typer.prompt(question, default=default, show_default=False, hide_input=hidden, err=True)
    return str(told) or None


def _write(directory: Path, output: Path, adopted: Adopted, wanted: SealingAnswers | None) -> None:
    """The file last: until it is there, nothing that was written counts, and all of it may be written again."""
    from keepwell.keyring import write_secret

    answers = dict(adopted.answers)
    secrets = directory / SECRETS / answers["name"]
    try:
        for folder in (directory, secrets.parent, secrets):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{directory} cannot be written: {error.strerror}.", hint="Run this as root, or name another --directory."
        ) from error
    for key, value in adopted.secrets.items():
        path = secrets.absolute() / key.replace(".", "_")
        write_secret(path, f"{value}\n")
        answers[f"{key}_file"] = path
    # Tried without the keys first: a file that would not load must not leave keys behind.
    with drafted(output, answers):
        pass
    if wanted is not None:
        answers |= {f"sealing.{key}": value for key, value in make_keys(wanted).items()}
    with drafted(output, answers) as draft:
        draft.replace(output)


def _write_roles(output: Path) -> "Finding":
    """The SQL for roles that may do less than the one that was found; nobody runs it but people."""
    from keepwell.errors import KeepwellError
    from keepwell.keyring import write_secret
    from keepwell.postgres.role_facts import read_role_facts
    from keepwell.postgres.roles import Purpose, plan_roles, render_role_script
    from keepwell.settings import load_platform_file
    from keepwell.verdict import Finding, Verdict

    platform = load_platform_file(output)
    database, script = platform.database, output.with_name(f"{platform.name}-roles.sql")
    try:
        plan = plan_roles(
            read_role_facts(database),
            platform=platform.name,
            maintenance=database.maintenance_name,
            jobs=platform.backup.jobs,
            purposes=[*Purpose],
        )
        write_secret(script, render_role_script(plan))
    except KeepwellError as error:
        return Finding(name="roles", verdict=Verdict.UNKNOWN, message=error.message, hint=error.hint)
    message = f"{script} would make roles that may do less than {database.user}."
    return Finding(name="roles", verdict=Verdict.OK, message=message, hint="Read it, then have a superuser run it.")


def _show(screen: "Console", findings: "Iterable[Finding]", wanted: SealingAnswers | None) -> None:
    from keepwell.cli import keys

    screen.print(console.findings_table(findings))
    if wanted is not None and wanted.offline_identity_file:
        console.print_plain(screen, f"Made {wanted.offline_identity_file}: the offline key. Take it away from here.")
        console.print_plain(screen, keys.WHAT_LOSING_MEANS)
