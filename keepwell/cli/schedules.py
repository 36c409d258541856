"""`keepwell schedules`: what runs when, as the orchestrator has it."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console

    from keepwell.orchestrator import Deployment, Orchestrator
    from keepwell.verdict import Finding


@dataclass(frozen=True)
class Scheduled:
    """When one procedure of a platform starts by itself.

    Attributes:
        platform: Whose.
        procedure: Name of its flow.
        rules: Cron and time zone of each schedule that is switched on.
        next_at: When the server has its next run planned; None when it has none.
        paused: Whether its deployment is paused.
        source: Where its rules stand: `schedules.toml` or `release`.
    """

    platform: str
    procedure: str
    rules: tuple[str, ...]
    next_at: datetime | None
    paused: bool
    source: str


@console.command("schedules")
def schedules(platform: console.PlatformName = None) -> Outcome:
    """Show what runs when: every registered schedule with its next time, by the clock of UTC.

    Schedules stand in schedules.toml beside the platform files; what it does not name starts as the release says.
    Ends with 1 when the server has no run planned for a schedule, and warns where the file was not registered.
    """
    from keepwell import orchestrator
    from keepwell.settings import read_platform_names
    from keepwell.verdict import worst

    names = [platform] if platform else list(read_platform_names())
    client = orchestrator.connect(console.load_platform(names[0]).orchestrator)
    if client is None:
        raise ConfigurationError(
            "No Prefect server is configured, so nothing starts by itself.",
            hint="Set orchestrator.api_url or PREFECT_API_URL; `keepwell up` starts one to try.",
        )
    with client:
        deployments = [one for one in client.read_deployments() if one.platform in names]
        found = [describe(client, one) for one in deployments]
    findings = judge(found, deployments, names)
    return Outcome(
        worst(finding.verdict for finding in findings),
        data={"schedules": found, "findings": findings},
        show=lambda screen: _show(screen, found, findings),
    )


def describe(client: "Orchestrator", deployment: "Deployment") -> Scheduled:
    """One deployment's schedules, and its next run."""
    from keepwell.schedules import OWN_SLUG

    own = any((one.slug or "").startswith(OWN_SLUG) for one in deployment.schedules)
    active = [one for one in deployment.schedules if one.active]
    run = client.read_next_run(deployment) if active and not deployment.paused else None
    at = run.expected_start_time if run else None
    return Scheduled(
        platform=str(deployment.platform),
        procedure=deployment.procedure,
        rules=tuple(f"{one.cron} {one.timezone}" for one in active),
        next_at=at.astimezone(UTC) if at else None,
        paused=deployment.paused,
        source="schedules.toml" if own else "release",
    )


def judge(found: "list[Scheduled]", deployments: "list[Deployment]", names: "list[str]") -> "list[Finding]":
    """Platforms without a deployment, schedules without a next run, and rules that were not registered."""
    from keepwell.doctor.schedules import find_differences
    from keepwell.orchestrator import REGISTER_HINT
    from keepwell.verdict import Finding, Verdict

    hint = f"It takes effect with a registration: {REGISTER_HINT}."
    findings = []
    for name in names:
        if not any(one.platform == name for one in found):
            message = f"Nothing is registered for {name}."
            findings.append(Finding(name=name, verdict=Verdict.ALERT, message=message, hint=hint))
            continue
        findings += [
            Finding(name=name, verdict=Verdict.WARN, message=f"{difference}.", hint=hint)
            for difference in find_differences(deployments, name)
        ]
    findings += [
        Finding(
            name=one.platform,
            verdict=Verdict.ALERT,
            message=f"{one.procedure} has a schedule, and the server has no run of it planned.",
            hint="Is the server's scheduler up? A registration made seconds ago needs a minute.",
        )
        for one in found
        if one.rules and not one.paused and one.next_at is None
    ]
    if findings:
        return findings
    message = f"{sum(len(one.rules) for one in found)} schedules, as the release and schedules.toml say."
    return [Finding(name="schedules", verdict=Verdict.OK, message=message)]


def _show(screen: "Console", found: "list[Scheduled]", findings: "list[Finding]") -> None:
    from rich.text import Text

    shown = console.table("platform", "procedure", "starts", "next, UTC", "said by")
    for one in sorted(found, key=lambda one: (one.platform, one.next_at is None, one.next_at or datetime.now(UTC))):
        at = "paused" if one.paused else f"{one.next_at:%a %Y-%m-%d %H:%M}" if one.next_at else "-"
        starts = "\n".join(one.rules) or "not by itself"
        shown.add_row(Text(one.platform), Text(one.procedure), Text(starts), at, one.source if one.rules else "-")
    screen.print(shown)
    screen.print(console.findings_table(findings))
