"""Pausing a platform: for a while nothing of it starts by itself, and it is known since when, until when and what.

Whatever starts runs is switched off: the schedules, and the automation that has old sets expire. The hourly check goes
on, since somebody must say that it is a pause, and notice one that does not end. What is paused is written down before
anything is switched, so that a pause which was cut short can be ended like any other. What is written down alone
excuses no missed backup: somebody may have ended the pause in Prefect's own pages, or nothing was switched after all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from keepwell.errors import KeepwellError, VerificationFailed
from keepwell.orchestrator import REGISTER_HINT, Automation, Deployment, FlowRun, Orchestrator

BACKUP, CHECK, RESUME = "backup-and-verify", "check-backups", "resume-platform"
RESTORE, RECOVER, REMIND = "restore-backup", "recover-from-disaster", "remind-of-incidents"
# What these start stays switched on in a pause: checks, and what somebody starts by hand.
_STAYS = {CHECK, RESUME, RESTORE, RECOVER, REMIND}
# So long are ended pauses remembered: the nights within them were not missed.
_REMEMBERED = timedelta(days=7)


class Span(BaseModel):
    """A pause that is over."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: AwareDatetime
    resumed_at: AwareDatetime


class Pause(BaseModel):
    """What the orchestrator keeps of a platform's pauses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = 1
    since: AwareDatetime | None = Field(default=None, description="Of the present pause; null when there is none.")
    until: AwareDatetime | None = Field(default=None, description="When it ends by itself; null: not by itself.")
    off_before: tuple[str, ...] = Field(
        default=(), description="Deployments and automations that were off before it, and stay so when it ends."
    )
    earlier: tuple[Span, ...] = Field(default=(), description="Pauses that are over, the newest last.")

    @property
    def is_on(self) -> bool:
        """Whether the platform is paused."""
        return self.since is not None

    def is_over(self, now: datetime) -> bool:
        """Whether it should have ended by itself."""
        return self.is_on and self.until is not None and now >= self.until

    def covers(self, moment: datetime) -> bool:
        """Whether a moment lies in a pause that is over.

        The present one covers nothing: while it holds, no schedule is active and nothing is due, and one that does not
        hold must hide nothing.
        """
        return any(span.since <= moment <= span.resumed_at for span in self.earlier)


@dataclass(frozen=True)
class Switched:
    """What a pause or its end did.

    Attributes:
        platform: Whose.
        since: When the pause began; None: there was none.
        until: When it ends by itself; None: not by itself, or it has ended.
        switched: Deployments and automations, by their names, that are off now, or on again.
        still_off: Those that were off before the pause, and are not touched.
        at_work: Runs that have begun, or wait to begin, and go on.
    """

    platform: str
    since: datetime | None
    until: datetime | None
    switched: tuple[str, ...]
    still_off: tuple[str, ...]
    at_work: tuple[str, ...] = ()


def read_pause(client: Orchestrator, platform: str) -> Pause:
    """What is known of a platform's pauses.

    Raises:
        KeepwellError: It cannot be understood.
    """
    return parse_pause(client.read_variable(variable_name(platform)))


def parse_pause(document: object) -> Pause:
    """The document that the orchestrator keeps.

    Args:
        document: None where it keeps none.

    Raises:
        KeepwellError: It cannot be understood.
    """
    if document is None:
        return Pause()
    try:
        return Pause.model_validate(document)
    except ValidationError as error:
        raise KeepwellError(
            f"What the orchestrator keeps of the pause is not understood: {error.error_count()} faults.",
            hint="Remove its variable in the Prefect UI, and switch the deployments there.",
        ) from None


def variable_name(platform: str) -> str:
    """Where the orchestrator keeps it."""
    return f"keepwell_pause_{platform}"


def pause(client: Orchestrator, platform: str, *, until: datetime | None, now: datetime) -> Switched:
    """Pause a platform, or change until when it is paused.

    Args:
        client: Of the orchestrator.
        platform: Whose.
        until: When it shall end by itself, aware; None: not by itself.
        now: Aware.

    Raises:
        KeepwellError: Nothing is registered for the platform, or nothing that could end the pause; nothing is paused.
        VerificationFailed: Read back, something of it is still on.
    """
    deployments, automations = _read_switches(client, platform)
    before = read_pause(client, platform)
    off = {one.title for one in deployments if one.paused} | {one.name for one in automations if not one.enabled}
    planned = Pause(
        since=before.since if before.since and _holds(deployments) else now,
        until=until,
        off_before=before.off_before if before.is_on else tuple(sorted(off)),
        earlier=before.earlier,
    )
    # An end without a pause does no harm; a record of a pause that was refused would stay.
    _plan_end(client, platform, until)
    client.write_variable(variable_name(platform), planned.model_dump(mode="json"))
    for deployment in deployments:
        client.switch_deployment(deployment, paused=True)
    for automation in automations:
        client.switch_automation(automation, enabled=False)
    deployments, automations = _read_switches(client, platform)
    still_on = [one.title for one in deployments if not one.paused] + [one.name for one in automations if one.enabled]
    if still_on or read_pause(client, platform) != planned:
        raise VerificationFailed(
            f"{platform} is not paused whole: {', '.join(still_on) or 'its record'} was changed meanwhile.",
            hint="Pause it again.",
        )
    names = {one.title for one in deployments} | {one.name for one in automations}
    at_work = [_describe(run) for one in deployments for run in client.read_open_runs(one)]
    return Switched(
        platform,
        planned.since,
        until,
        tuple(sorted(names - set(planned.off_before))),
        tuple(sorted(names & set(planned.off_before))),
        tuple(at_work),
    )


def resume(client: Orchestrator, platform: str, *, now: datetime) -> Switched:
    """End a platform's pause: what it switched off is on again, and what was off before stays so.

    Returns:
        Nothing switched where there was no pause.

    Raises:
        KeepwellError: Nothing is registered for the platform.
        VerificationFailed: Read back, something of it is still off.
    """
    deployments, automations = _read_switches(client, platform)
    before = read_pause(client, platform)
    if before.since is None:
        off = {one.title for one in deployments if one.paused} | {one.name for one in automations if not one.enabled}
        return Switched(platform, None, None, (), tuple(sorted(off)))
    own, earlier = set(before.off_before), _end(before, deployments, now)
    # Before anything is switched: cut short and tried again, it is not seen any more that the pause held until now.
    noted = before.model_copy(update={"earlier": earlier})
    client.write_variable(variable_name(platform), noted.model_dump(mode="json"))
    for deployment in deployments:
        if deployment.title not in own:
            client.switch_deployment(deployment, paused=False)
    for automation in automations:
        if automation.name not in own:
            client.switch_automation(automation, enabled=True)
    deployments, automations = _read_switches(client, platform)
    off = {one.title for one in deployments if one.paused} | {one.name for one in automations if not one.enabled}
    if off - own:
        raise VerificationFailed(f"{platform} is not resumed whole: {', '.join(sorted(off - own))}.", hint="Try again.")
    _plan_end(client, platform, None)
    client.write_variable(variable_name(platform), Pause(earlier=earlier).model_dump(mode="json"))
    names = {one.title for one in deployments} | {one.name for one in automations}
    return Switched(platform, before.since, None, tuple(sorted(names - own)), tuple(sorted(off)))


def _read_switches(client: Orchestrator, platform: str) -> tuple[list[Deployment], list[Automation]]:
    """Everything that starts runs of a platform by itself, but for what must go on in a pause."""
    own = [one for one in client.read_deployments() if one.platform == platform]
    if not own:
        raise KeepwellError(f"Nothing is registered for {platform}.", hint=f"Register it: {REGISTER_HINT}.")
    named = [one for one in client.read_automations() if one.name == expiry_name(platform)]
    return [one for one in own if one.procedure not in _STAYS], named


def _holds(deployments: Sequence[Deployment]) -> bool:
    """Whether backups really are paused."""
    return all(one.paused for one in deployments if one.procedure == BACKUP)


def _end(before: Pause, deployments: Sequence[Deployment], now: datetime) -> tuple[Span, ...]:
    """The pauses that are over now. One that somebody ended otherwise is none: nobody knows how long it held."""
    recent = tuple(span for span in before.earlier if now - span.resumed_at < _REMEMBERED)
    if before.since is None or not _holds(deployments):
        return recent
    others = (span for span in recent if span.since != before.since)
    return (*others, Span(since=before.since, resumed_at=now))


def expiry_name(platform: str) -> str:
    """Name of the automation that has a platform's old sets expire."""
    return f"keepwell: expire old sets of {platform} after a proven backup"


def _plan_end(client: Orchestrator, platform: str, until: datetime | None) -> None:
    """A run that ends the pause at its time, in place of any that was planned before."""
    found: Sequence[Deployment] = [
        one for one in client.read_deployments() if (one.platform, one.procedure) == (platform, RESUME)
    ]
    if not found and until is not None:
        raise KeepwellError(
            f"Nothing is registered that could end the pause of {platform} by itself.",
            hint=f"Register it: {REGISTER_HINT}. Without --until, it is paused until it is resumed.",
        )
    for deployment in found:
        for run in client.read_open_runs(deployment):
            if run.state_type == "SCHEDULED":
                client.delete_run(run)
        if until is not None:
            client.create_run(deployment, {"platform": platform}, at=until)


def _describe(run: FlowRun) -> str:
    return f"{run.name}, {str(run.state_name).lower()}"
