"""Whether what was to be locked is: read back from the store, set by set."""

from datetime import UTC, datetime

from keepwell.backup import layout
from keepwell.backup.manifest import Manifest
from keepwell.objectstore.store import Store
from keepwell.verdict import Finding, Verdict


def judge_lock(store: Store, manifest: Manifest) -> list[Finding]:
    """Whether a set is locked for as long as the platform file asks, by its manifest and one of its parts.

    Returns:
        Nothing where no lock is asked for, or its time is over.

    Raises:
        KeepwellError: The store does not answer.
    """
    key = layout.manifest_key(manifest.backup_id)
    wanted = store.keeping.find_lock(key, datetime.now(UTC))
    if wanted is None:
        return []
    looked_at = [key, *(layout.set_folder(manifest.backup_id) + part.name for part in manifest.parts[:1])]
    locks = [stored.locked_until if (stored := store.find(one)) else None for one in looked_at]
    earliest = None if None in locks else min(until for until in locks if until is not None)
    if earliest is None or earliest < wanted:
        found = f"locked until {earliest:%Y-%m-%d %H:%M} UTC at the longest" if earliest else "not locked"
        return [
            Finding(
                name="lock",
                verdict=Verdict.WARN,
                message=f"The set is {found}, and bucket.lock_days asks for {wanted:%Y-%m-%d %H:%M} UTC.",
                hint="A set from before that setting stays as it was written. Otherwise: keepwell doctor.",
            )
        ]
    return [
        Finding(
            name="lock",
            verdict=Verdict.OK,
            message=f"Its manifest and a part of it are locked until {earliest:%Y-%m-%d %H:%M} UTC.",
        )
    ]
