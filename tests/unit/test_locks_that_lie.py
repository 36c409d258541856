"""Stores that take a lock or a storage class and do not keep it: found before a backup, and at each write."""

from datetime import UTC, datetime

import pytest
from lying_store import lying_store

from keepwell.errors import AccessDenied, PreconditionFailed, VerificationFailed
from keepwell.objectstore.capabilities import require_keeping
from keepwell.objectstore.store import Store
from keepwell.objectstore.uploads import Uploads

DAYS = 3
SET = f"backups/{datetime.now(UTC):%Y%m%dT%H%M%SZ}-abcdef/"


def write(store: Store, key: str, content: bytes) -> None:
    with Uploads(2) as uploads:
        writer = store.open_writer(key, uploads)
        writer.write(content)
        writer.finish()


@pytest.mark.parametrize("lie", ["accepts-retention", "accepts-locks-and-deletes", ""])
def test_a_store_that_takes_a_lock_and_does_not_hold_it_is_refused(lie: str) -> None:
    with lying_store(*filter(None, [lie])) as lying:
        store = lying.open(lock_days=DAYS)
        with pytest.raises(PreconditionFailed, match="deletes all the same" if "deletes" in lie else "keeps no lock"):
            require_keeping(store)
        assert lying.objects == {}


def test_a_store_that_takes_a_class_and_forgets_it_is_refused() -> None:
    with lying_store() as lying, pytest.raises(PreconditionFailed, match="does not keep it"):
        require_keeping(lying.open(storage_class="STANDARD_IA"))


def test_nothing_is_tried_where_nothing_is_asked() -> None:
    with lying_store("denies") as lying:
        require_keeping(lying.open())
        with pytest.raises(AccessDenied):
            require_keeping(lying.open(lock_days=DAYS))


def test_an_object_whose_lock_the_store_forgot_is_no_success() -> None:
    with lying_store("accepts-retention") as lying:
        store = lying.open(lock_days=DAYS)
        with pytest.raises(VerificationFailed, match="is not locked until"):
            write(store, f"{SET}globals.sql", b"roles")
        with pytest.raises(VerificationFailed, match="is not locked until"):
            store.put_bytes(f"{SET}manifest.json", b"{}")
