"""Comparing clocks: schedules, ages and signatures all rest on them."""

from keepwell.doctor.outcome import alert, ok, warn
from keepwell.verdict import Finding

_WARN_SECONDS = 2.0
_ALERT_SECONDS = 60.0


def judge_clock(name: str, whose: str, offset_seconds: float) -> Finding:
    """Judge how far another clock is from this machine's.

    Args:
        name: Of the finding.
        whose: The other's owner, such as "the database server".
        offset_seconds: The other clock minus ours.
    """
    direction = "ahead of" if offset_seconds > 0 else "behind"
    message = f"The clock of {whose} is {abs(offset_seconds):.1f} s {direction} this machine's."
    hint = "Let both take their time from NTP."
    if abs(offset_seconds) > _ALERT_SECONDS:
        return alert(name, message, hint=hint)
    if abs(offset_seconds) > _WARN_SECONDS:
        return warn(name, message, hint=hint)
    return ok(name, message)
