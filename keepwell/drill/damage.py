"""How a drill damages a copy of a set: each kind once, where the recorded seed says.

The deeper kinds make the manifest agree with the damage, so that a level further up must find it. Such a manifest is
signed with a key that is thrown away and that only this copy's reader believes: the platform's own key never signs a
lie, and need not be at hand. A forged one is signed by a stranger, and read with the platform's own trust.
"""

import hashlib
import io
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import zstandard

from keepwell import sealing
from keepwell.backup import layout
from keepwell.backup.database import Table
from keepwell.backup.manifest import Manifest, Part
from keepwell.backup.transfer import receive
from keepwell.drill.documents import DetectedAt
from keepwell.drill.overlay import DamagedCopy
from keepwell.objectstore.store import SIGNATURE_SUFFIX, Store
from keepwell.sealing import Seal
from keepwell.settings import DamageKind, ProofLevel

# What is damaged is held in memory, whole: the smallest one is taken where all are larger.
_LARGEST_BYTES = 32 * 1024 * 1024
_TERMINATOR = b"\\.\n"
_NULL = b"\\N"
_UNFREE = 2

EXPECTED: dict[DamageKind, DetectedAt] = {
    "bit flipped": "readable",
    "object dropped": "uploaded",
    "stream cut": "complete",
    "objects swapped": "readable",
    "row altered": "equal",
    "manifest forged": "manifest",
    "wrong key": "readable",
}

# How many copies are damaged at most until one comes as far as the level that is on trial. An altered row may be
# refused by the database itself, for a type or a constraint that is not seen from outside, and each costs a restore.
ATTEMPTS: dict[DamageKind, int] = dict.fromkeys(EXPECTED, 1) | {"row altered": 4}


@dataclass(frozen=True)
class Damage:
    """A damaged copy, and what must be found in it.

    Attributes:
        kind: How.
        what: The object, and what was done to it, for people.
        copy: Reads the set so.
        suspects: Names of parts or tables, of which the checker should name one; empty where the fault is everywhere.
        up_to: How far the ladder must be climbed to see whether it is found.
    """

    kind: DamageKind
    what: str
    copy: DamagedCopy
    suspects: tuple[str, ...]
    up_to: ProofLevel

    @property
    def expected_at(self) -> DetectedAt:
        """The level that must find it, unless one before does."""
        return EXPECTED[self.kind]


@dataclass(frozen=True)
class NoDamage:
    """A kind that says nothing of this set, with its reason."""

    kind: DamageKind
    reason: str


def make_damage(
    kind: DamageKind, store: Store, manifest: Manifest, seed: int, *, attempt: int = 0
) -> Damage | NoDamage:
    """Damage a copy of a set.

    Args:
        kind: How.
        store: Where the set lies; it is only read.
        manifest: Of the set.
        seed: Chooses where; the same one does the same to the same set.
        attempt: Of a kind that may be tried more than once, which; each does it elsewhere.

    Raises:
        KeepwellError: The store cannot be read.
    """
    makers: dict[DamageKind, Callable[[_Workshop], Damage | NoDamage]] = {
        "bit flipped": _flip_bit,
        "object dropped": _drop_object,
        "stream cut": _cut_stream,
        "objects swapped": _swap_objects,
        "row altered": _alter_row,
        "manifest forged": _forge_manifest,
        "wrong key": _take_wrong_key,
    }
    return makers[kind](_Workshop(kind, store, manifest, random.Random(f"{seed} {kind}"), attempt))


@dataclass(frozen=True)
class _Workshop:
    """What every kind of damage needs."""

    kind: DamageKind
    store: Store
    manifest: Manifest
    dice: random.Random
    attempt: int = 0

    def key(self, part: Part) -> str:
        return layout.set_folder(self.manifest.backup_id) + part.name

    def stored(self, part: Part) -> bytes:
        return self.store.get_bytes(self.key(part))

    def content(self, part: Part) -> bytes:
        """What a part holds, opened and decompressed."""
        held = bytearray()
        receive(self.store, layout.set_folder(self.manifest.backup_id), part, held.extend)
        return bytes(held)

    def choose(self, parts: Iterable[Part]) -> Part | None:
        """One by lot among those that fit into memory, or the smallest; None without any."""
        all_parts = sorted(parts, key=lambda part: part.name)
        small = [part for part in all_parts if _fits(part)]
        if small:
            return self.dice.choice(small)
        return min(all_parts, key=lambda part: part.content_size_bytes, default=None)

    def streams(self) -> list[tuple[Part, Table]]:
        """Parts that hold a table's rows, with the table, whose content can be compared."""
        parts = {part.name: part for part in self.manifest.parts}
        return [
            (parts[table.part], table)
            for database in self.manifest.databases
            for table in database.dumped_tables
            if table.part in parts and table.rows and table.content_hash is not None and table.unproven is None
        ]

    def pack(self, part: Part, content: bytes) -> bytes:
        """Content as a part of its kind is stored: compressed and sealed anew."""
        packed = zstandard.ZstdCompressor(write_checksum=True).compress(content) if part.compression else content
        if not part.encryption:
            return packed
        recipients = self.store.seal.recipients or tuple(i.to_public() for i in self.store.seal.identities)
        sealed = io.BytesIO()
        sealing.encrypt(io.BytesIO(packed), sealed, recipients)
        return sealed.getvalue()

    def damage(
        self,
        what: str,
        changes: dict[str, bytes | None],
        *,
        suspects: Sequence[str],
        up_to: ProofLevel,
        seal: Seal | None = None,
    ) -> Damage:
        return Damage(self.kind, what, DamagedCopy(self.store, changes, seal), tuple(suspects), up_to)

    def with_content(self, what: str, part: Part, content: bytes, table: Table, *, up_to: ProofLevel) -> Damage:
        """Other content in one stream, and a manifest that agrees with it."""
        stored = self.pack(part, content)
        agreeing = part.model_copy(
            update={
                "size_bytes": len(stored),
                "sha256": hashlib.sha256(stored).hexdigest(),
                "content_size_bytes": len(content),
                "content_sha256": hashlib.sha256(content).hexdigest(),
            }
        )
        parts = tuple(agreeing if known.name == part.name else known for known in self.manifest.parts)
        document = self.manifest.model_copy(update={"parts": parts}).to_json()
        signed, seal = self.believed(document)
        changes = {self.key(part): stored, **signed}
        return self.damage(what, changes, suspects=(part.name, table.qualified, table.name), up_to=up_to, seal=seal)

    def believed(self, document: bytes) -> tuple[dict[str, bytes | None], Seal]:
        """A manifest that only the damaged copy's reader believes."""
        signer = sealing.parse_signing_key(sealing.make_signing_key()[0])
        seal = replace(self.store.seal, trusted=(*self.store.seal.trusted, signer.public_key()))
        return self.manifest_signed(document, signer.sign(document)), seal

    def manifest_signed(self, document: bytes, signature: bytes) -> dict[str, bytes | None]:
        key = layout.manifest_key(self.manifest.backup_id)
        return {key: document, key + SIGNATURE_SUFFIX: signature}


def _flip_bit(shop: _Workshop) -> Damage | NoDamage:
    part = shop.choose(part for part in shop.manifest.parts if part.size_bytes)
    if part is None:
        return NoDamage(shop.kind, "The set holds no object that has a bit.")
    content = bytearray(shop.stored(part))
    bit = shop.dice.randrange(len(content) * 8)
    content[bit // 8] ^= 1 << bit % 8
    what = f"bit {bit} of {part.name}"
    return shop.damage(what, {shop.key(part): bytes(content)}, suspects=(part.name,), up_to="readable")


def _drop_object(shop: _Workshop) -> Damage | NoDamage:
    part = shop.choose(shop.manifest.parts)
    if part is None:
        return NoDamage(shop.kind, "The set holds no object.")
    return shop.damage(f"{part.name} is gone", {shop.key(part): None}, suspects=(part.name,), up_to="uploaded")


def _swap_objects(shop: _Workshop) -> Damage | NoDamage:
    """Two that differ, and of one size where there are such, so that no listing tells."""
    one = shop.choose(shop.manifest.parts)
    others = [part for part in shop.manifest.parts if one and part.content_sha256 != one.content_sha256]
    alike = [part for part in others if one and part.size_bytes == one.size_bytes]
    other = shop.choose(alike or others)
    if one is None or other is None:
        return NoDamage(shop.kind, "The set holds no two objects that differ.")
    changes: dict[str, bytes | None] = {shop.key(one): shop.stored(other), shop.key(other): shop.stored(one)}
    return shop.damage(f"{one.name} and {other.name}", changes, suspects=(one.name, other.name), up_to="readable")


def _cut_stream(shop: _Workshop) -> Damage | NoDamage:
    """Half of the rows and a proper end: what a restore takes without a word."""
    chosen = _choose_stream(shop)
    if chosen is None:
        return NoDamage(shop.kind, "No table of the set has a row.")
    part, table = chosen
    rows, end = _split_rows(shop.content(part))
    kept = rows[: len(rows) // 2]
    what = f"{len(rows) - len(kept)} of {len(rows)} rows of {table.qualified} are gone, packed anew"
    return shop.with_content(what, part, b"".join(kept) + end, table, up_to="complete")


def _alter_row(shop: _Workshop) -> Damage | NoDamage:
    """One sign of one row, in a way that its type takes, where that can be told from outside."""
    if not shop.streams():
        return NoDamage(shop.kind, "No table of the set has a row.")
    found = next(islice(_alter_rows(shop), shop.attempt, None), None)
    return found or NoDamage(shop.kind, "No further row of the set holds a sign that can be altered.")


def _alter_rows(shop: _Workshop) -> Iterator[Damage]:
    """One row of each table in turn, then another one of each."""
    tables = list(_shuffle_streams(shop))
    for _ in range(ATTEMPTS["row altered"]):
        for part, table in tables:
            rows, end = _split_rows(shop.content(part))
            number = shop.dice.randrange(len(rows))
            for tried in [*range(number, len(rows)), *range(number)]:
                altered = alter_row(rows[tried], shop.dice)
                if altered is not None:
                    rows[tried] = altered
                    what = f"one sign of row {tried + 1} of {table.qualified}, packed anew"
                    yield shop.with_content(what, part, b"".join(rows) + end, table, up_to="equal")
                    break


def _shuffle_streams(shop: _Workshop) -> Iterator[tuple[Part, Table]]:
    """Each table's stream once, by lot; of those that are too large for memory the smallest alone."""
    left = shop.streams()
    while left:
        part = shop.choose(part for part, _ in left)
        yield next(pair for pair in left if pair[0] is part)
        left = [pair for pair in left if pair[0] is not part and _fits(pair[0])]


def _forge_manifest(shop: _Workshop) -> Damage | NoDamage:
    """One that leaves an object out, signed by a stranger."""
    if not shop.store.seal.trusted:
        return NoDamage(
            shop.kind, "Manifests are not signed here (sealing.mode), so that a forged one is not to be told."
        )
    part = shop.choose(shop.manifest.parts)
    parts = tuple(known for known in shop.manifest.parts if known is not part)
    document = shop.manifest.model_copy(update={"parts": parts}).to_json()
    signature = sealing.parse_signing_key(sealing.make_signing_key()[0]).sign(document)
    left_out = part.name if part else "nothing"
    what = f"the manifest, without {left_out}, signed by a stranger"
    return shop.damage(what, shop.manifest_signed(document, signature), suspects=(layout.MANIFEST,), up_to="readable")


def _take_wrong_key(shop: _Workshop) -> Damage | NoDamage:
    if not any(part.encryption for part in shop.manifest.parts):
        return NoDamage(shop.kind, "The set is not sealed (sealing.mode), so that it opens without a key.")
    stranger = sealing.parse_identity(sealing.make_identity()[0])
    seal = replace(shop.store.seal, identities=(stranger,))
    return shop.damage("a key that the set was not sealed for", {}, suspects=(), up_to="readable", seal=seal)


def _fits(part: Part) -> bool:
    return max(part.size_bytes, part.content_size_bytes) <= _LARGEST_BYTES


def _choose_stream(shop: _Workshop) -> tuple[Part, Table] | None:
    streams = shop.streams()
    part = shop.choose(part for part, _ in streams)
    return next((pair for pair in streams if pair[0] is part), None)


def _split_rows(content: bytes) -> tuple[list[bytes], bytes]:
    """A COPY stream's rows, and its end."""
    lines = content.splitlines(keepends=True)
    end = lines.index(_TERMINATOR)
    return lines[:end], b"".join(lines[end:])


def alter_row(row: bytes, dice: random.Random) -> bytes | None:
    """Another row of the same shape: one letter or digit of one field is another one.

    The freer a field's type looks, the sooner it is taken: then the altered row restores, and only a comparison can
    find it.

    Args:
        row: One line of a COPY stream.
        dice: Chooses the sign.

    Returns:
        None where no field holds such a sign.
    """
    fields = row.removesuffix(b"\n").split(b"\t")
    order = sorted(range(len(fields)), key=lambda number: (_rank(fields[number]), -len(fields[number])))
    for number in order:
        field = fields[number]
        places = [at for at, sign in enumerate(field) if chr(sign).isascii() and chr(sign).isalnum()]
        # After a backslash stands a sign that means something to COPY.
        places = [at for at in places if b"\\" not in field[max(0, at - 3) : at]]
        if field == _NULL or not places:
            continue
        digits = [at for at in places if chr(field[at]).isdigit()]
        # The last digit of a number, a moment or a hexadecimal text is another one of the same type.
        at = dice.choice(places) if _rank(field) < _UNFREE else (digits or places)[-1]
        fields[number] = field[:at] + _another(field[at]) + field[at + 1 :]
        return b"\t".join(fields) + b"\n"
    return None


def _rank(field: bytes) -> int:
    """How free a field's type looks: a sentence, a name, a moment, a number; last what may be a word of a list."""
    text = field.decode("ascii", errors="replace")
    if " " in text and 2 * sum(map(str.isalpha, text)) > len(text):
        return 0
    if text.isalpha() and text.istitle() and len(text) > 1:
        return 1
    if any(map(str.isdigit, text)):
        return _UNFREE if ":" in text else _UNFREE + 1
    return _UNFREE + 2


def _another(sign: int) -> bytes:
    """A sign of the same kind that is not this one."""
    if chr(sign).isdigit():
        return b"%d" % ((sign - ord("0") + 1) % 10)
    first = ord("A") if chr(sign).isupper() else ord("a")
    return bytes([first + (sign - first + 1) % 26])
