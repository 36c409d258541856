"""Every object of a set damaged in turn, sealed and unsealed: each damage is found, and the object is named.

One set of each kind, and its uploaded files and keys of Redis; each object is put right again afterwards.
"""

import os
import random
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import redis
from backup_sets import back_up, copy_set, failed_level, pack, part_of, prove, read_content, write_manifest
from pydantic import SecretStr
from real_servers import Server, bucket_settings, build_platform, fresh_database

from deployments.local.objectstore import RunningObjectStore
from deployments.local.redis_server import RunningRedis
from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue, read_entry
from keepwell.backup.expire import read_plan
from keepwell.backup.manifest import Manifest
from keepwell.backup.proof import Proof
from keepwell.backup.retention import Standing
from keepwell.backup.verify import verify_backup
from keepwell.errors import ConfigurationError, VerificationFailed
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.store import SIGNATURE_SUFFIX, Store
from keepwell.progress import silent
from keepwell.settings import Platform, RedisSettings, RetentionSettings, SealingSettings, UploadsSettings
from keepwell.verdict import Finding, Verdict

SOURCE = (
    "CREATE TABLE people (id int PRIMARY KEY, name text)",
    "INSERT INTO people SELECT n, md5(n::text) FROM generate_series(1, 300) n",
    "CREATE TABLE notes AS SELECT md5((-n)::text) AS name FROM generate_series(1, 300) n",
    "SELECT lo_from_bytea(77, 'a large object')",
)
# What a set consists of, by the beginnings of its names; a set that lacks one was not damaged whole.
PARTS = {
    "database/toc.dat",
    "database/blobs_",
    "database/blob_",
    "globals.sql",
    "schema.jsonl",
    "platform.toml",
    "RESTORE.md",
    "redis.jsonl",
    "uploads.jsonl",
    "manifest.json",
    "proofs/",
}
KINDS = ["sealed", "unsealed"]


@dataclass(frozen=True)
class Stored:
    """A platform with a proven set and a newer one that has one row changed.

    Attributes:
        manifest: Of the proven set.
        newer: Of the newer one, which nobody has proven.
        objects: Keys of everything that the proven set consists of.
    """

    platform: Platform
    store: Store
    manifest: Manifest
    newer: Manifest
    objects: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Where the proven set lies."""
        return layout.set_folder(self.manifest.backup_id)

    def prove(self, backup_id: str) -> Proof:
        """One verification, without opening the store anew, which takes as long as finding most damage."""
        return verify_backup(self.platform, self.store, backup_id, silent)


@pytest.fixture(scope="module", params=KINDS)
def stored(
    request: pytest.FixtureRequest,
    servers: Callable[[int], Server],
    objectstore: RunningObjectStore,
    redis_server: RunningRedis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stored]:
    folder, server = tmp_path_factory.mktemp("damaged"), servers(17)
    (folder / "spool").mkdir()
    (folder / "uploads").mkdir()
    for number in range(3):
        (folder / "uploads" / f"{number}.bin").write_bytes(os.urandom(500 + number))
    login = {"host": "127.0.0.1", "port": redis_server.port, "password": SecretStr(redis_server.password)}
    with redis.Redis(host="127.0.0.1", port=redis_server.port, password=redis_server.password) as client:
        client.set("a key", "a value")
    with fresh_database(server) as database:
        with server.connect(database) as connection:
            for statement in SOURCE:
                connection.execute(statement)
        platform = build_platform(
            server,
            database,
            bucket_settings(objectstore),
            folder / "spool",
            redis=RedisSettings(**login),
            uploads=UploadsSettings(directory=folder / "uploads"),
        )
        if request.param == "unsealed":
            platform = platform.model_copy(update={"sealing": SealingSettings(mode="none")})
        store, manifest = open_store(platform), back_up(platform)
        assert prove(platform, manifest.backup_id).reached == "serving"
        with server.connect(database) as connection:
            connection.execute("UPDATE people SET name = md5('other') WHERE id = 7")
        kept = [layout.set_folder(manifest.backup_id), layout.UPLOADS]
        objects = tuple(found.key for folder in kept for found in store.list_objects(folder))
        yield Stored(platform, store, manifest, back_up(platform), objects)


@pytest.fixture
def no_scratch_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without server programs: everything is read back, and nothing restored, which takes its time."""

    def choose_none(*_: object, **__: object) -> None:
        raise ConfigurationError("No server here.", hint="")

    monkeypatch.setattr("keepwell.backup.source_image.choose_server", choose_none)


@contextmanager
def replaced(store: Store, contents: dict[str, bytes]) -> Iterator[None]:
    """Other objects under some keys, for the length of a block; proofs that were made meanwhile go with it."""
    before = {key: store.get_bytes(key) for key in contents}
    proofs = {found.key for found in store.list_objects(layout.BACKUPS) if layout.PROOFS in found.key}
    for key, content in contents.items():
        store.put_bytes(key, content)
    try:
        yield
    finally:
        for key, content in before.items():
            store.put_bytes(key, content)
        made = {found.key for found in store.list_objects(layout.BACKUPS) if layout.PROOFS in found.key} - proofs
        store.delete([*made, *(found.key for found in store.list_objects(layout.DAMAGED_UPLOADS))])


def flipped(content: bytes, bit: int) -> bytes:
    place = bit // 8
    return content[:place] + bytes([content[place] ^ (1 << bit % 8)]) + content[place + 1 :]


def header_bytes(key: str, content: bytes) -> int:
    """How many bytes of a content no hash covers: those in which age names for whom it is sealed."""
    if not (key.startswith(layout.UPLOADS) and key.endswith(".age")):
        return 0
    return content.index(b"\n", content.index(b"\n--- ") + 1) + 1


def require_found(stored: Stored, key: str, told: str) -> Finding | None:
    """The set does not count any more, and what is wrong with it names the object.

    Returns:
        The finding, where there is one of a verification.
    """
    backup_id, name = stored.manifest.backup_id, key.removeprefix(stored.folder)
    entry = read_entry(stored.store, backup_id)
    if layout.PROOFS in key:
        assert not entry.is_proven("restored"), f"{told}: the proof counts"
        assert (entry.proof, entry.unreadable_proofs) == (None, True), told
        return None
    if name.startswith(layout.MANIFEST):
        assert not entry.is_proven("restored"), f"{told}: the manifest is believed, and its proof counts for it"
        if entry.manifest is None:
            assert "manifest" in entry.fault, told
            with pytest.raises(VerificationFailed, match="manifest"):
                stored.prove(backup_id)
        else:
            assert not stored.store.seal.recipients, f"{told}: a manifest that was changed is believed"
        return None
    proof = stored.prove(backup_id)
    assert (proof.damaged, proof.proves("readable")) == (True, False), f"{told} was not found"
    findings = [finding for finding in proof.findings if finding.verdict is Verdict.ALERT]
    assert len(findings) == 1, f"{told}: {findings}"
    assert name in (findings[0].name, *findings[0].message.replace("(", " ").replace(")", " ").split()), told
    assert read_entry(stored.store, backup_id).damaged, told
    return findings[0]


def test_a_set_consists_of_every_kind_of_object(stored: Stored) -> None:
    names = [key.removeprefix(stored.folder) for key in stored.objects]
    assert {part for part in PARTS if not any(name.startswith(part) for name in names)} == set()
    assert len([key for key in stored.objects if key.startswith(layout.UPLOADS)]) == 3
    signatures = sum(key.endswith(SIGNATURE_SUFFIX) for key in stored.objects)
    assert signatures == (2 if stored.store.seal.recipients else 0)
    assert len(names) >= 16


@pytest.mark.usefixtures("no_scratch_server")
def test_a_bit_flipped_in_any_object_is_found_and_the_object_named(stored: Stored) -> None:
    seed = secrets.randbelow(2**32)
    dice = random.Random(seed)
    for key in stored.objects:
        content = stored.store.get_bytes(key)
        bit = dice.randrange(header_bytes(key, content) * 8, len(content) * 8)
        if layout.PROOFS in key and not stored.store.seal.recipients:
            continue  # nothing signs it: see below
        with replaced(stored.store, {key: flipped(content, bit)}):
            require_found(stored, key, f"bit {bit} of {key} (seed {seed})")
    assert read_entry(stored.store, stored.manifest.backup_id).is_proven("equal")


@pytest.mark.usefixtures("no_scratch_server")
@pytest.mark.parametrize("stored", ["sealed"], indirect=True)
def test_a_bit_flipped_in_the_header_of_a_sealed_content_is_named_and_never_called_readable(stored: Stored) -> None:
    """For whom it was sealed stands there: damaged, or sealed for others, is not always to be told apart."""
    key = next(key for key in stored.objects if key.startswith(layout.UPLOADS))
    content = stored.store.get_bytes(key)
    for bit in range(0, header_bytes(key, content) * 8, 211):
        with replaced(stored.store, {key: flipped(content, bit)}):
            proof = stored.prove(stored.manifest.backup_id)
            told = [finding for finding in proof.findings if finding.verdict in {Verdict.ALERT, Verdict.UNKNOWN}]
            assert not proof.proves("readable"), f"bit {bit}"
            assert any(key in finding.message for finding in told), f"bit {bit}: {told}"


def test_a_bit_flipped_in_a_stream_ends_its_restore(stored: Stored) -> None:
    """While pg_restore reads it: what has been restored already does not make it any better."""
    for table in ("public.people", "public.notes"):
        part = part_of(stored.manifest, table)
        key = stored.folder + part.name
        content = stored.store.get_bytes(key)
        with replaced(stored.store, {key: flipped(content, secrets.randbelow(len(content) * 8))}):
            finding = require_found(stored, key, key)
            assert finding is not None
            assert f"(rows of {table})" in finding.message


def test_no_flipped_bit_makes_an_unsigned_proof_say_more_than_it_did(stored: Stored) -> None:
    """Nothing tells that a word of its summary was changed, and no change of one bit turns bad into good."""
    good = next(key for key in stored.objects if layout.PROOFS in key and not key.endswith(SIGNATURE_SUFFIX))
    content = stored.store.get_bytes(good)
    manifest_sha256 = Proof.from_json(content).manifest_sha256
    bad = Proof.from_json(content)
    worse = bad.levels[-1].model_copy(update={"level": "readable", "verdict": Verdict.ALERT})
    bad = bad.model_copy(update={"levels": (bad.levels[0], worse)})
    for document, proves in ((content, True), (bad.to_json(), False)):
        counted = 0
        for bit in range(len(document) * 8):
            try:
                proof = Proof.from_json(flipped(document, bit))
            except VerificationFailed:
                continue
            if proof.is_of(stored.manifest.backup_id, str(manifest_sha256)):
                counted += 1
                assert (proof.proves("equal"), proof.damaged) == (proves, not proves), f"bit {bit}"
        assert counted > 0, "no change of a word or a number is let through: then this belongs to the test above"


@pytest.mark.usefixtures("no_scratch_server")
def test_an_object_that_is_cut_at_any_length_is_found_and_named(stored: Stored) -> None:
    seed = secrets.randbelow(2**32)
    dice = random.Random(seed)
    for key in stored.objects:
        content = stored.store.get_bytes(key)
        # A document's last byte is the end of its last line, which says nothing.
        lengths = {0, dice.randrange(1, len(content) - 2)}
        if key.removeprefix(stored.folder).startswith((layout.DATABASE, layout.MANIFEST)):
            lengths |= {1, len(content) - 2}
        for length in lengths:
            with replaced(stored.store, {key: content[:length]}):
                require_found(stored, key, f"{key} cut to {length} bytes (seed {seed})")


@pytest.mark.usefixtures("no_scratch_server")
def test_a_part_that_was_packed_anew_is_found_though_its_content_is_the_same(stored: Stored) -> None:
    for part in stored.manifest.parts:
        if not (part.compression or part.encryption):
            continue  # its content is what is stored
        again = pack(stored.store, part, read_content(stored.store, stored.manifest, part))
        if part.compression and not part.encryption:
            again += pack(stored.store, part, b"")  # an empty frame behind it: nothing more for stock tools
        key = stored.folder + part.name
        with replaced(stored.store, {key: again}):
            require_found(stored, key, f"{part.name} packed anew")


@pytest.mark.usefixtures("no_scratch_server")
def test_objects_that_changed_places_are_found(stored: Stored) -> None:
    people, notes = (stored.folder + part_of(stored.manifest, name).name for name in ("public.people", "public.notes"))
    rows = {key: stored.store.get_bytes(key) for key in (people, notes)}
    with replaced(stored.store, {people: rows[notes], notes: rows[people]}):
        proof = stored.prove(stored.manifest.backup_id)
        named = {finding.name for finding in failed_level(proof).findings}
        assert (proof.damaged, named) == (True, {people.removeprefix(stored.folder), notes.removeprefix(stored.folder)})
    one, other, _ = (key for key in stored.objects if key.startswith(layout.UPLOADS))
    contents = {key: stored.store.get_bytes(key) for key in (one, other)}
    with replaced(stored.store, {one: contents[other], other: contents[one]}):
        proof = stored.prove(stored.manifest.backup_id)
        told = " ".join(finding.message for finding in failed_level(proof).findings)
        assert (proof.damaged, one in told, other in told) == (True, True, True)


@pytest.mark.usefixtures("no_scratch_server")
@pytest.mark.parametrize("name", ["public.people", "globals.sql", "schema.jsonl", "database/toc.dat", "uploads.jsonl"])
def test_a_part_of_an_older_set_is_none_of_a_newer_one(stored: Stored, name: str) -> None:
    part = part_of(stored.newer, name)
    newer = layout.set_folder(stored.newer.backup_id) + part.name
    older = stored.folder + part_of(stored.manifest, name).name
    if stored.store.get_bytes(older) == stored.store.get_bytes(newer):
        assert not stored.store.seal.recipients  # where nothing is sealed, the same content is the same object
        return
    with replaced(stored.store, {newer: stored.store.get_bytes(older)}):
        proof = stored.prove(stored.newer.backup_id)
        assert (proof.damaged, [finding.name for finding in failed_level(proof).findings]) == (True, [part.name])


# Documents that are genuine, and lie where they do not belong.


def documents_of(stored: Stored) -> dict[str, bytes]:
    """The newest proof with its signature, if it has one, and their bytes."""
    folder = layout.proofs_folder(stored.manifest.backup_id)
    return {found.key: stored.store.get_bytes(found.key) for found in stored.store.list_objects(folder)}


def put_all(store: Store, contents: dict[str, bytes]) -> None:
    for key, content in contents.items():
        store.put_bytes(key, content)


@pytest.mark.usefixtures("no_scratch_server")
def test_a_good_proof_laid_behind_the_one_that_found_damage_does_not_count(stored: Stored) -> None:
    key = stored.folder + stored.manifest.parts[0].name
    content, folder = stored.store.get_bytes(key), layout.proofs_folder(stored.manifest.backup_id)
    good = documents_of(stored)
    with replaced(stored.store, {key: flipped(content, 100)}):
        assert stored.prove(stored.manifest.backup_id).damaged
        for old, document in good.items():
            suffix = SIGNATURE_SUFFIX if old.endswith(SIGNATURE_SUFFIX) else ""
            stored.store.put_bytes(f"{folder}29990101T000000.000000Z-ffffff.json{suffix}", document)
        entry = read_entry(stored.store, stored.manifest.backup_id)
        assert (entry.is_proven("restored"), entry.unreadable_proofs) == (False, True)
        # Nor does it once the original is gone.
        stored.store.delete(good)
        assert not read_entry(stored.store, stored.manifest.backup_id).is_proven("restored")
        put_all(stored.store, good)
    assert read_entry(stored.store, stored.manifest.backup_id).is_proven("equal")


@pytest.mark.usefixtures("no_scratch_server")
def test_without_its_signature_a_proof_that_found_damage_lets_no_older_one_speak(stored: Stored) -> None:
    key = stored.folder + stored.manifest.parts[0].name
    content, before = stored.store.get_bytes(key), documents_of(stored)
    with replaced(stored.store, {key: flipped(content, 100)}):
        assert stored.prove(stored.manifest.backup_id).damaged
        made = sorted(set(documents_of(stored)) - set(before))
        if stored.store.seal.recipients:
            stored.store.delete([one for one in made if one.endswith(SIGNATURE_SUFFIX)])
            assert not read_entry(stored.store, stored.manifest.backup_id).is_proven("restored")
        # With both gone nothing tells that it was ever made; the next verification finds what it found.
        stored.store.delete(made)
        assert stored.prove(stored.manifest.backup_id).damaged
        assert not read_entry(stored.store, stored.manifest.backup_id).is_proven("restored")


def test_an_older_manifest_of_the_same_set_brings_no_proof_back(stored: Stored) -> None:
    """Both were genuine once: a proof speaks of the one that it was made for, and only the newest proof speaks."""
    original = {
        key: stored.store.get_bytes(key)
        for key in stored.objects
        if key.removeprefix(stored.folder).startswith(layout.MANIFEST)
    }
    with replaced(stored.store, original):
        changed = stored.manifest.model_copy(update={"platform": "another"})
        write_manifest(stored.store, changed)
        assert not read_entry(stored.store, changed.backup_id).is_proven("equal")
        assert stored.prove(changed.backup_id).reached == "serving"
        assert read_entry(stored.store, changed.backup_id).is_proven("equal")
        put_all(stored.store, original)
        entry = read_entry(stored.store, changed.backup_id)
        assert (entry.manifest, entry.is_proven("equal")) == (stored.manifest, False)


# A clock that was ahead.


@pytest.mark.usefixtures("no_scratch_server")
def test_damage_found_after_the_clock_was_put_right_counts_more_than_a_proof_from_the_future(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = documents_of(stored)
    newest = next(key for key in before if not key.endswith(SIGNATURE_SUFFIX))
    name = "29990101T000000.000000Z-ffffff.json"
    ahead = Proof.from_json(before[newest]).model_copy(update={"stored_as": name})
    folder = layout.proofs_folder(stored.manifest.backup_id)
    stored.store.put_signed(folder + name, ahead.to_json())
    assert read_entry(stored.store, stored.manifest.backup_id).is_proven("equal")
    key = stored.folder + stored.manifest.parts[0].name
    with replaced(stored.store, {key: flipped(stored.store.get_bytes(key), 100)}):
        assert stored.prove(stored.manifest.backup_id).damaged
        assert read_entry(stored.store, stored.manifest.backup_id).damaged
    stored.store.delete([folder + name, folder + name + SIGNATURE_SUFFIX])


# What the damage may not do to the good ones.


@pytest.mark.usefixtures("no_scratch_server")
def test_nights_of_truncated_backups_evict_no_good_one(stored: Stored) -> None:
    """Each newer than the good one, and with a rule that keeps one set only."""
    damaged: list[str] = []
    try:
        for _ in range(5):
            copied = copy_set(stored.store, stored.manifest.backup_id)
            damaged.append(copied.backup_id)
            key = layout.set_folder(copied.backup_id) + part_of(copied, "public.people").name
            stored.store.put_bytes(key, stored.store.get_bytes(key)[:-100])
            assert stored.prove(copied.backup_id).damaged
        rules = RetentionSettings(keep_newest=1, keep_days=1, keep_daily=0, keep_weekly=0, keep_monthly=0)
        greedy = stored.platform.model_copy(update={"retention": rules})
        for entry in read_catalogue(stored.store):
            assert entry.is_proven("equal") == (entry.backup_id == stored.manifest.backup_id)
        plan = read_plan(greedy, stored.store, stored.manifest.finished_at)
        kept = {one.stored.backup_id: one.stored.standing for one in plan.keep}
        assert kept[stored.manifest.backup_id] is Standing.PROVEN
        assert stored.manifest.backup_id not in [one.stored.backup_id for one in plan.remove]
    finally:
        for backup_id in damaged:
            stored.store.delete([found.key for found in stored.store.list_objects(layout.set_folder(backup_id))])


def test_all_the_while_the_set_was_fine(stored: Stored) -> None:
    proof = stored.prove(stored.manifest.backup_id)
    assert (proof.reached, proof.verdict) == ("serving", Verdict.OK)
