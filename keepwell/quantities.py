"""Sizes and durations in words that can be read at a glance."""


def describe_bytes(size: float) -> str:
    """A size in the largest unit below it, powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def describe_seconds(seconds: float) -> str:
    """A duration that can be read at a glance."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
