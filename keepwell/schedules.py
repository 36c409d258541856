"""`schedules.toml`: when the procedures of every platform start, in one place beside the platform files.

    timezone = "Europe/Rome"                    # UTC without a word

    [all]                                       # every platform, but for what its own table says
    check-backups = "*/30 * * * *"

    [platform.esn]
    backup-and-verify = "30 3 * * *"
    verify-backups = ["0 5 1 * *", "0 5 15 * *"]
    expire-backups = []                         # never by itself

What it does not name starts as the release's own `prefect.yaml` says. It takes effect with a registration.
"""

import difflib
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from keepwell.errors import ConfigurationError

_ALL, _PLATFORMS, _TIMEZONE = "all", "platform", "timezone"
# What a schedule's slug begins with, by where its rule stands; nothing else of ours tells them apart on the server.
OWN_SLUG = "own"


@dataclass(frozen=True)
class Rule:
    """When something starts.

    Attributes:
        cron: Five fields: minute, hour, day of the month, month, day of the week.
        timezone: Whose clock it goes by, such as `Europe/Rome`.
    """

    cron: str
    timezone: str

    def __str__(self) -> str:
        return f"{self.cron} {self.timezone}"


@dataclass(frozen=True)
class Registered:
    """A schedule as the orchestrator has it.

    Attributes:
        rule: When it starts something.
        slug: Its name within its deployment.
        active: False when an operator switched it off.
    """

    rule: Rule
    slug: str
    active: bool = True


@dataclass(frozen=True)
class ScheduleFile:
    """What `schedules.toml` says; empty where there is no such file.

    Attributes:
        of_all: Rules by procedure, for every platform.
        of_platforms: Rules by platform and procedure; they come before those for all.
    """

    of_all: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    of_platforms: Mapping[str, Mapping[str, tuple[Rule, ...]]] = field(default_factory=dict)

    def rules_for(self, platform: str, procedure: str) -> tuple[Rule, ...] | None:
        """When a procedure of a platform starts: never when empty; None when the file leaves it to `prefect.yaml`."""
        own = self.of_platforms.get(platform, {})
        return own[procedure] if procedure in own else self.of_all.get(procedure)


def read_schedules(path: Path, *, platforms: Collection[str], procedures: Collection[str]) -> ScheduleFile:
    """Read and check the file.

    Args:
        path: Of `schedules.toml`, which need not exist.
        platforms: Names that it may speak of.
        procedures: The same, such as `backup-and-verify`.

    Raises:
        ConfigurationError: It is not TOML, names what is not known, or holds a rule or a time zone that is none.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ScheduleFile()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.", hint="Look at the named line.") from None
    _require_known(path, "", table, (_TIMEZONE, _ALL, _PLATFORMS))
    timezone = _read_timezone(path, _TIMEZONE, table.get(_TIMEZONE, "UTC"))
    own = _require_table(path, _PLATFORMS, table.get(_PLATFORMS, {}))
    _require_known(path, f"{_PLATFORMS}.", own, platforms)
    return ScheduleFile(
        _read_rules(path, _ALL, table.get(_ALL, {}), timezone, procedures),
        {name: _read_rules(path, f"{_PLATFORMS}.{name}", rules, timezone, procedures) for name, rules in own.items()},
    )


def next_time(rule: Rule, now: datetime) -> datetime:
    """When a rule starts something next, in UTC.

    Args:
        rule: As `read_schedules` let it pass.
        now: Aware.
    """
    return next(CronSim(rule.cron, now.astimezone(ZoneInfo(rule.timezone)))).astimezone(UTC)


def describe_difference(wanted: Sequence[Rule] | None, registered: Sequence[Registered]) -> str:
    """How the orchestrator's schedules of one deployment differ from the file's; empty when they do not.

    Args:
        wanted: As `ScheduleFile.rules_for` gives them.
        registered: What the orchestrator has.
    """
    if wanted is None:
        stale = [str(one.rule) for one in registered if one.slug.startswith(OWN_SLUG)]
        return f"{', '.join(stale)} is registered, and the file does not say so any more" if stale else ""
    said, had = {str(rule) for rule in wanted}, {str(one.rule) for one in registered}
    if said == had:
        return ""
    return f"the file says {', '.join(sorted(said)) or 'never'}, registered is {', '.join(sorted(had)) or 'nothing'}"


def _read_rules(
    path: Path, place: str, said: Any, timezone: str, procedures: Collection[str]
) -> dict[str, tuple[Rule, ...]]:
    table = _require_table(path, place, said)
    _require_known(path, f"{place}.", table, {*procedures, _TIMEZONE})
    own = _read_timezone(path, f"{place}.{_TIMEZONE}", table.get(_TIMEZONE, timezone))
    return {
        procedure: _read_crons(path, f"{place}.{procedure}", crons, own)
        for procedure, crons in table.items()
        if procedure != _TIMEZONE
    }


def _read_crons(path: Path, place: str, said: Any, timezone: str) -> tuple[Rule, ...]:
    crons = [said] if isinstance(said, str) else said
    if not isinstance(crons, list) or not all(isinstance(cron, str) for cron in crons):
        raise ConfigurationError(
            f"{path}: {place} is no rule.", hint='Such as "0 2 * * *", a list of such, or [] for never.'
        )
    if len(set(crons)) < len(crons):
        raise ConfigurationError(f"{path}: {place} says the same twice.", hint="Leave one out.")
    return tuple(Rule(_read_cron(path, place, cron), timezone) for cron in crons)


def _read_cron(path: Path, place: str, cron: str) -> str:
    """One rule, with one blank between its fields, and a moment that it really comes to."""
    fields = cron.split()
    if len(fields) != 5:
        raise ConfigurationError(
            f"{path}: {place}: {cron!r} has {len(fields)} fields, not 5.",
            hint='Minute, hour, day of the month, month, day of the week: "0 2 * * *" is every day at 02:00.',
        )
    tidy = " ".join(fields)
    try:
        next(CronSim(tidy, datetime(2026, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration) as error:
        fault = str(error) or "it never comes"
        raise ConfigurationError(
            f"{path}: {place}: {cron!r} is no rule: {fault}.",
            hint="Minute 0-59, hour 0-23, day 1-31, month 1-12, day of the week 0-7 or SUN-SAT.",
        ) from None
    return tidy


def _read_timezone(path: Path, place: str, said: Any) -> str:
    try:
        return ZoneInfo(said).key
    except (TypeError, ValueError, OSError, LookupError):
        raise ConfigurationError(
            f"{path}: {place}: {said!r} is no time zone.", hint='Such as "Europe/Rome", or "UTC".'
        ) from None


def _require_table(path: Path, place: str, said: Any) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise ConfigurationError(f"{path}: {place} is no table.", hint=f"Write [{place}] on a line of its own.")
    return said


def _require_known(path: Path, place: str, table: Mapping[str, Any], known: Collection[str]) -> None:
    for key in table:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f"Did you mean {nearest[0]}?" if nearest else f"Known are: {', '.join(sorted(known)) or 'none'}."
            raise ConfigurationError(f"{path}: unknown key {place}{key}.", hint=hint)
