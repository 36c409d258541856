"""What databases are called on their way: beside the live one, replaced by a restored one, taken back by an undo."""

from datetime import UTC, datetime

_MOMENT = "%Y%m%dT%H%M%SZ"
_NAME_BYTES = 63


def restored_name(live: str, snapshot_at: datetime) -> str:
    """What a restored database is called unless somebody names it: the same for the same set, however often planned."""
    return _joined(live, f"_restored_{_told(snapshot_at)}")


def replaced_name(live: str, at: datetime) -> str:
    """What the live database is called once a restored one took its place."""
    return _joined(live, f"_replaced_{_told(at)}")


def undone_name(live: str, at: datetime) -> str:
    """What a restored database is called once the one that it had replaced is live again."""
    return _joined(live, f"_undone_{_told(at)}")


def _told(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime(_MOMENT)


def _joined(live: str, ending: str) -> str:
    """A name that the server does not cut, as it would do in silence."""
    kept = live.encode()[: _NAME_BYTES - len(ending)]
    return kept.decode(errors="ignore") + ending
