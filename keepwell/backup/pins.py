"""Pins: sets that stay whatever the retention policy says, each by a small document beside it."""

from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, Field

from keepwell.backup import layout
from keepwell.document import Document
from keepwell.errors import KeepwellError, PreconditionFailed, VerificationFailed
from keepwell.objectstore.store import ObjectMissing, Store

_SUFFIX = ".json"
_LONGEST_REASON = 500


class Pin(Document):
    """Why one set stays."""

    format_version: Literal[1] = 1
    backup_id: str
    reason: str = Field(max_length=_LONGEST_REASON, description="In the words of whoever pinned it; may be empty.")
    pinned_at: AwareDatetime


def pin_set(store: Store, backup_id: str, reason: str, now: datetime) -> Pin:
    """Pin a set, or give its pin another reason; the caller keeps sets from being removed meanwhile.

    Args:
        store: The platform's folder in its bucket.
        backup_id: Which set; a damaged one may be pinned as well.
        reason: For those who find the pin later; put on one line.
        now: Aware.

    Returns:
        The pin as it was read back.

    Raises:
        PreconditionFailed: There is no such set, or the reason is too long.
        VerificationFailed: The pin reads back differently from what was written.
    """
    reason = " ".join(reason.split())
    if len(reason) > _LONGEST_REASON:
        raise PreconditionFailed(
            f"The reason has {len(reason)} signs.", hint=f"Say it in {_LONGEST_REASON}, and the rest where it belongs."
        )
    _require_set(store, backup_id)
    pin = Pin(backup_id=backup_id, reason=reason, pinned_at=now)
    store.put_bytes(layout.pin_key(backup_id), pin.to_json())
    if Pin.from_json(store.get_bytes(layout.pin_key(backup_id))) != pin:
        raise VerificationFailed(
            f"The pin of {backup_id} reads back differently from what was written.", hint="Look at the store."
        )
    return pin


def _require_set(store: Store, backup_id: str) -> None:
    """Go on only when there is something to keep: a set that is being removed has no way back."""
    hint = "List what there is: keepwell backup list."
    if next(iter(store.list_objects(layout.set_folder(backup_id))), None) is None:
        raise PreconditionFailed(f"There is no backup set {backup_id}.", hint=hint)
    is_whole = store.find(layout.manifest_key(backup_id)) is not None
    if not is_whole and store.find(layout.expiring_key(backup_id)) is not None:
        raise PreconditionFailed(f"{backup_id} is being removed, and is no set any more.", hint=hint)


def unpin_set(store: Store, backup_id: str) -> None:
    """Take a pin away: from now on the retention policy decides.

    Raises:
        PreconditionFailed: It is not pinned.
        KeepwellError: The store kept the pin.
    """
    if store.find(layout.pin_key(backup_id)) is None:
        raise PreconditionFailed(f"{backup_id} is not pinned.", hint="See what is: keepwell backup list.")
    store.delete([layout.pin_key(backup_id)])
    if store.find(layout.pin_key(backup_id)) is not None:
        raise KeepwellError(f"The store kept the pin of {backup_id}.", hint="May this key delete objects?")


def read_pins(store: Store) -> dict[str, Pin | None]:
    """Every pin by its set's id; None for one that cannot be read, which pins all the same.

    Raises:
        KeepwellError: The store cannot be listed or read.
    """
    pins: dict[str, Pin | None] = {}
    for stored in store.list_objects(layout.PINS):
        backup_id = stored.key.removeprefix(layout.PINS).removesuffix(_SUFFIX)
        try:
            pins[backup_id] = Pin.from_json(store.get_bytes(stored.key))
        except VerificationFailed:
            pins[backup_id] = None
        except ObjectMissing:
            continue  # taken away meanwhile
    return pins


def describe_pin(pin: Pin | None) -> str:
    """A pin in words, to follow its set's name."""
    if pin is None:
        return "pinned, by a document that cannot be read"
    reason = f": {pin.reason}" if pin.reason else ""
    return f"pinned since {pin.pinned_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC{reason}"
