"""How what sets hold is kept in the store: its storage class, and the lock that a stolen key does not open. Pure.

What a set needs lies in two folders. Everything beside them (marks, leases, pins, evidence) is never locked: a run must
be able to take it away again.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from keepwell.settings import BucketSettings

SETS = "backups/"
CONTENTS = "uploads/"

LockMode = Literal["GOVERNANCE", "COMPLIANCE"]

_SET_ID = re.compile(r"(\d{8}T\d{6}Z)-[0-9a-f]{6}")
# Contents are locked for longer than the set that sent them, so that each is locked anew once a week, not each night.
_AHEAD = timedelta(days=7)
# A lock that ends this soon is not worth asking for, and a store whose clock is ahead would refuse it.
_MOMENT = timedelta(minutes=5)


@dataclass(frozen=True)
class Keeping:
    """What a platform asks of its store for what its sets hold.

    Attributes:
        lock_days: For how long nothing of a set may be deleted; 0 for no lock.
        lock_mode: As the store calls it.
        storage_class: Of everything large; None leaves it to the store.
    """

    lock_days: int = 0
    lock_mode: LockMode = "GOVERNANCE"
    storage_class: str | None = None

    def find_lock(self, relative: str, now: datetime) -> datetime | None:
        """Until when an object that is written now is locked: from the moment of its set, or else from now.

        Args:
            relative: Its key in the platform's folder.
            now: Aware. A set that claims to be from the future counts from now: no jump of a clock may lock for years.

        Returns:
            None where it is not locked: none is asked for, it is no part of a set, or the time is over.
        """
        if not self.lock_days:
            return None
        length = timedelta(days=self.lock_days)
        if relative.startswith(CONTENTS):
            return (now + length + _AHEAD).replace(microsecond=0)
        if not relative.startswith(SETS):
            return None
        began_at = _read_moment(relative.removeprefix(SETS).partition("/")[0])
        if began_at is None:
            return None
        until = (min(began_at, now) + length).replace(microsecond=0)
        return until if until > now + _MOMENT else None

    def needs_longer(self, locked_until: datetime | None, now: datetime) -> bool:
        """Whether a content that a set of now uses again would be free before that set is."""
        return bool(self.lock_days) and (locked_until is None or locked_until < now + timedelta(days=self.lock_days))

    def build_lock(self, until: datetime | None) -> dict[str, Any]:
        """A lock, for the call that makes an object; empty for none."""
        return {"ObjectLockMode": self.lock_mode, "ObjectLockRetainUntilDate": until} if until else {}

    def build_class(self, relative: str) -> dict[str, Any]:
        """A storage class, for the call that makes a large object; empty outside sets."""
        if self.storage_class is None or not relative.startswith((SETS, CONTENTS)):
            return {}
        return {"StorageClass": self.storage_class}


def _read_moment(backup_id: str) -> datetime | None:
    """When a set began, by its id; None for what is none."""
    named = _SET_ID.fullmatch(backup_id)
    try:
        return datetime.strptime(named[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) if named else None
    except ValueError:
        return None


def choose_mode(found: str | None, wanted: LockMode) -> str:
    """The mode in which a lock is prolonged: the one that it has, since no store lets it become a weaker one."""
    return found or wanted


def build_keeping(bucket: BucketSettings) -> Keeping:
    """What a platform file asks for."""
    mode: LockMode = "COMPLIANCE" if bucket.lock_mode == "compliance" else "GOVERNANCE"
    return Keeping(bucket.lock_days, mode, bucket.storage_class or None)
