"""The one success that people hear of: a platform's first proven backup. From then on, silence has a meaning.

It is told once, and a mark in the store remembers that. The mark is written behind the message, so a run that is killed
in between tells twice rather than never; and where no channel took the message, the next proven backup tells it. Where
there are sets already, such as those of a release that told nobody, the message calls none the first.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, Field

from keepwell.backup import layout
from keepwell.backup.catalogue import read_manifest
from keepwell.backup.proof import Proof
from keepwell.backup.report import build_first_message
from keepwell.document import Document
from keepwell.notify import Delivery, Message, send
from keepwell.objectstore.store import Store
from keepwell.settings import NotifySettings, Platform


class FirstProven(Document):
    """That people were told, and of which set."""

    format_version: Literal[1] = 1
    backup_id: str = Field(description="The set that the message named.")
    told_at: AwareDatetime


def tell_first_proven(
    platform: Platform,
    store: Store,
    proof: Proof,
    *,
    sender: Callable[[NotifySettings, Message], Delivery] = send,
) -> Delivery | None:
    """Tell people of a proven set, if they were never told of one.

    Args:
        platform: Whose set, and whose channels.
        store: The platform's folder in its bucket.
        proof: Of the set; one that is not proven is nothing to tell.
        sender: Sends to every channel.

    Returns:
        What became of the message on each channel; None when there was nothing to tell.

    Raises:
        KeepwellError: The store could not be asked, or did not take the mark.
    """
    if not proof.proves(platform.backup.proven_level) or not store.may_write:
        return None
    if store.find(layout.FIRST_PROVEN) is not None:
        return None
    message = build_first_message(
        read_manifest(store, proof.backup_id),
        proof,
        platform=platform.name,
        is_watched=platform.notify.dead_mans_switch_url is not None,
        is_oldest=not any(name < proof.backup_id for name in store.list_folders(layout.BACKUPS)),
    )
    delivery = sender(platform.notify, message)
    if any(outcome.delivered for outcome in delivery.outcomes):
        mark = FirstProven(backup_id=proof.backup_id, told_at=datetime.now(UTC))
        store.put_bytes(layout.FIRST_PROVEN, mark.to_json())
    return delivery
