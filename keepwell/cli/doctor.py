"""`keepwell doctor`: try every part of a platform."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

from typing import TYPE_CHECKING

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from keepwell.verdict import Finding


@console.command("doctor")
def doctor(platform: console.PlatformName = None) -> Outcome:
    """Check each part of a platform against reality, and say what to do.

    It logs in to the database, tries the bucket on throw-away keys, and asks the cache, the orchestrator and the
    folders. Nothing of the platform's is changed.
    """
    from keepwell.verdict import Finding, Verdict, worst

    try:
        settings = console.load_platform(platform)
    except ConfigurationError as error:
        broken = Finding(name="platform file", verdict=Verdict.ALERT, message=error.message, hint=error.hint)
        return Outcome(
            Verdict.ALERT,
            data={"platform": platform, "findings": [broken]},
            show=lambda screen: _show(screen, "the platform", [broken]),
        )
    with console.working(f"Examining {settings.name}"):
        from keepwell.doctor import examine

        loaded = Finding(name="platform file", verdict=Verdict.OK, message=f"It describes {settings.name}.")
        findings = [loaded, *examine(settings)]
    return Outcome(
        worst(finding.verdict for finding in findings),
        data={"platform": settings.name, "findings": findings},
        show=lambda screen: _show(screen, settings.name, findings),
    )


def _show(screen: "Console", name: str, findings: "Sequence[Finding]") -> None:
    from collections import Counter

    from keepwell.verdict import Verdict

    screen.print(console.findings_table(findings, title=f"keepwell doctor · {name}"))
    counts = Counter(finding.verdict for finding in findings)
    counted = [f"{counts[verdict]} {verdict.replace('_', ' ')}" for verdict in Verdict if counts[verdict]]
    screen.print(" · ".join(counted), markup=False)
