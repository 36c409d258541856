"""docs/restore-by-hand.md, run as it stands there: stock tools, a real set, a real store, an empty server."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from backup_sets import back_up, copy_set, part_of, seal
from pydantic import SecretStr
from real_servers import PASSWORD, Server, bucket_settings, build_platform, fresh_database, running_postgres

from deployments.local.objectstore import RunningObjectStore
from keepwell.backup import layout
from keepwell.backup.carry import carry_set
from keepwell.backup.manifest import Manifest
from keepwell.backup.restore_page import Place, render_restore_page
from keepwell.destination import Destination
from keepwell.keyring import make_key_files, make_offline_file, read_identities
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.destinations import open_destination
from keepwell.objectstore.folder import prepare_folder
from keepwell.objectstore.store import SIGNATURE_SUFFIX, Store
from keepwell.progress import silent
from keepwell.settings import Platform, SealingSettings, SecondFolderSettings

pytestmark = [pytest.mark.long, pytest.mark.stock_tools]

BY_HAND = (Path(__file__).parents[2] / "docs" / "restore-by-hand.md").read_text()
SOURCE = """
CREATE ROLE by_hand_owner LOGIN PASSWORD 'owner-of-the-set';
CREATE TABLE people (id serial PRIMARY KEY, name text);
ALTER TABLE people OWNER TO by_hand_owner;
INSERT INTO people (name) SELECT 'person ' || n FROM generate_series(1, 2000) n;
CREATE SCHEMA "Odd names";
CREATE TABLE "Odd names"."vîsits" (person int REFERENCES people, note text);
INSERT INTO "Odd names"."vîsits" SELECT n, md5(n::text) FROM generate_series(1, 300) n;
CREATE TABLE visits (rows int, sha256 text, owner text);
CREATE TABLE parts (at date, what text) PARTITION BY RANGE (at);
CREATE TABLE parts_2026 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO parts SELECT '2026-05-01', 'x' FROM generate_series(1, 7);
CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM people;
SELECT lo_from_bytea(77, 'a large object');
"""
# A second database in the same set: other text, other rows, one name alike.
FURTHER = """
CREATE TABLE people (id int PRIMARY KEY, "größe" text);
INSERT INTO people SELECT n, 'groß ' || n FROM generate_series(1, 30) n;
CREATE TABLE "lose rows" (a int);
INSERT INTO "lose rows" VALUES (1), (2);
CREATE TABLE "für alle" (a int);
INSERT INTO "für alle" VALUES (1);
ALTER TABLE people OWNER TO by_hand_owner;
"""


@dataclass(frozen=True)
class ByHand:
    """A set, its store, the offline key alone, and an empty server to restore on."""

    platform: Platform
    store: Store
    manifest: Manifest
    environment: dict[str, str]
    target: Server


@contextmanager
def latin1_database(server: Server) -> Iterator[str]:
    """A database of another encoding than the server's others."""
    with server.connect() as connection:
        connection.execute("CREATE DATABASE by_hand_further ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    yield "by_hand_further"
    with server.connect() as connection:
        connection.execute("DROP DATABASE by_hand_further WITH (FORCE)")


@pytest.fixture(scope="module")
def by_hand(
    servers: Callable[[int], Server],
    objectstore: RunningObjectStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ByHand]:
    server, folder = servers(17), tmp_path_factory.mktemp("by-hand")
    keys = make_key_files(folder / "keys")
    sealing = SealingSettings(
        recipients=(keys.recipient, make_offline_file(folder / "offline.txt", keys.signer)),
        identities=tuple(SecretStr(str(one)) for one in read_identities(keys.identities_file)),
        signing_key=SecretStr(keys.signing_key_file.read_text().strip()),
    )
    with (
        fresh_database(server) as name,
        latin1_database(server) as further,
        running_postgres(17, tmp_path_factory.mktemp("empty")) as target,
    ):
        for database, source in ((name, SOURCE), (further, FURTHER)):
            with server.connect(database) as connection:
                connection.execute(source)
        platform = build_platform(server, name, bucket_settings(objectstore), tmp_path_factory.mktemp("spool"))
        both = platform.database.model_copy(update={"more_names": (further,)})
        platform = platform.model_copy(update={"sealing": sealing, "database": both})
        store = open_store(platform)
        environment = {
            "ARCHIVE": "database",
            "PLACE": f"{platform.bucket.name}/{store.key('').rstrip('/')}",
            "SIGNER": re.findall(r"signed by: (\S+)", (folder / "offline.txt").read_text())[0],
            "IDENTITY": str(folder / "offline.txt"),
            "RCLONE_CONFIG_STORE_TYPE": "s3",
            "RCLONE_CONFIG_STORE_PROVIDER": "Other",
            "RCLONE_CONFIG_STORE_ENDPOINT": objectstore.endpoint_url,
            "RCLONE_CONFIG_STORE_REGION": objectstore.region,
            "RCLONE_CONFIG_STORE_ACCESS_KEY_ID": objectstore.access_key_id,
            "RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY": objectstore.secret_access_key,
            "PGHOST": "127.0.0.1",
            "PGPORT": str(target.port),
            "PGUSER": "postgres",
            "PGPASSWORD": PASSWORD,
        }
        yield ByHand(platform, store, back_up(platform), environment, target)
        with server.connect(further) as connection:
            connection.execute("DROP OWNED BY by_hand_owner")
        with server.connect(name) as connection:
            connection.execute("REASSIGN OWNED BY by_hand_owner TO postgres; DROP ROLE by_hand_owner")


def blocks(page: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)\n```$", page, re.MULTILINE | re.DOTALL)


def run(
    by_hand: ByHand, folder: Path, page: str, database: str, *, backup_id: str | None = None, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Every shell block of a page in its order, in one shell that knows what the page asks for and nothing else."""
    programs = by_hand.target.binaries.program("psql")
    environment = {
        "PATH": f"{Path(programs).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "SET": backup_id or by_hand.manifest.backup_id,
        "DATABASE": database,
        **by_hand.environment,
        **changes,
    }
    script = "\n".join(blocks(page))
    return subprocess.run(
        ["sh", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def require_whole(by_hand: ByHand, database: str) -> None:
    """The restored database, asked on the server itself."""
    with by_hand.target.connect(database) as connection:
        for query, expected in (
            ("SELECT count(*) FROM people", 2000),
            ('SELECT count(*) FROM "Odd names"."vîsits"', 300),
            ("SELECT count(*) FROM parts", 7),
            ("SELECT count FROM counted", 2000),
            ("SELECT convert_from(lo_get(77), 'UTF8')", "a large object"),
            ("SELECT tableowner FROM pg_tables WHERE tablename = 'people'", "by_hand_owner"),
            ("SELECT nextval('people_id_seq')", 2001),
        ):
            assert connection.execute(query).fetchone() == (expected,), query


def require_further(by_hand: ByHand, database: str) -> None:
    """The restored second database, asked on the server itself."""
    with by_hand.target.connect(database) as connection:
        for query, expected in (
            ("SHOW server_encoding", "LATIN1"),
            ("SELECT count(*) FROM people WHERE \"größe\" LIKE 'groß%'", 30),
            ('SELECT count(*) FROM "lose rows"', 2),
            ("SELECT tableowner FROM pg_tables WHERE tablename = 'people'", "by_hand_owner"),
        ):
            assert connection.execute(query).fetchone() == (expected,), query


def test_the_manual_restores_a_set_with_the_offline_key_alone(by_hand: ByHand, tmp_path: Path) -> None:
    asked = re.findall(r"^```ini\n(.*?)\n```$", BY_HAND, re.MULTILINE | re.DOTALL)[0]
    assert {line.partition("=")[0] for line in asked.splitlines()} == {"SET", "DATABASE", *by_hand.environment}
    done = run(by_hand, tmp_path, BY_HAND, "by_the_manual")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Signature Verified Successfully" in done.stdout
    require_whole(by_hand, "by_the_manual")


def test_the_manual_restores_the_second_database_of_a_set(by_hand: ByHand, tmp_path: Path) -> None:
    done = run(by_hand, tmp_path, BY_HAND, "second_by_the_manual", ARCHIVE="database-2")
    assert done.returncode == 0, done.stdout + done.stderr
    require_further(by_hand, "second_by_the_manual")


def test_the_manual_s_count_of_the_second_database_is_its_own(by_hand: ByHand, tmp_path: Path) -> None:
    losing = BY_HAND.replace("--command=ANALYZE", "--command='DELETE FROM \"lose rows\"'")
    done = run(by_hand, tmp_path, losing, "second_by_the_losing_manual", ARCHIVE="database-2")
    assert done.returncode != 0
    assert done.stdout.splitlines()[-1] == "public.lose rows 2"


def test_a_set_s_own_page_restores_it(by_hand: ByHand, tmp_path: Path) -> None:
    manifest, bucket = by_hand.manifest, by_hand.platform.bucket
    page = render_restore_page(
        backup_id=manifest.backup_id,
        platform=manifest.platform,
        databases=manifest.databases,
        archive_major=manifest.tools.archive_major,
        place=Place(bucket.endpoint_url, bucket.region, by_hand.environment["PLACE"]),
        sealed_for=manifest.sealed_for,
        signed=True,
        role_passwords=manifest.role_passwords,
    )
    told = re.findall(r"^export (\w+)=", page, re.MULTILINE)
    unknown = dict.fromkeys(told, "what the page itself must tell")
    done = run(by_hand, tmp_path, page, "by_its_page", DATABASE_2="second_by_its_page", **unknown)
    assert done.returncode == 0, done.stdout + done.stderr
    require_whole(by_hand, "by_its_page")
    require_further(by_hand, "second_by_its_page")


def test_the_page_names_the_second_destination_and_restores_from_there(by_hand: ByHand, tmp_path: Path) -> None:
    """With no key of the bucket at all."""
    folder = tmp_path / "a second disk"
    folder.mkdir()
    prepare_folder(folder)
    platform = by_hand.platform.model_copy(update={"second_folder": SecondFolderSettings(directory=folder)})
    first, second = by_hand.store, open_destination(platform, Destination.SECOND)
    backup_id = back_up(platform).backup_id
    carry_set(first, second, backup_id, silent)
    page = second.get_bytes(layout.set_folder(backup_id) + layout.RESTORE_PAGE).decode()
    # As it says: in place of the same lines above, which stand in the first block.
    known, there = blocks(page)[0], re.findall(r"^```ini\n(.*?)\n```$", page, re.MULTILINE | re.DOTALL)[0]
    page = page.replace(known, f"{known}\n{there}")
    no_keys = {f"RCLONE_CONFIG_STORE_{name}": "none" for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")}
    done = run(by_hand, tmp_path, page, "from_second", DATABASE_2="second_from_second", **no_keys)
    assert done.returncode == 0, done.stdout + done.stderr
    require_whole(by_hand, "from_second")
    require_further(by_hand, "second_from_second")


def forge_manifest(store: Store, copied: Manifest) -> None:
    key = layout.manifest_key(copied.backup_id)
    store.put_bytes(key, store.get_bytes(key).replace(b'"rows": 2000', b'"rows": 2001'))


def move_manifest(store: Store, copied: Manifest) -> None:
    """That of another set, with its own good signature."""
    other, key = copy_set(store, copied.backup_id), layout.manifest_key(copied.backup_id)
    for suffix in ("", SIGNATURE_SUFFIX):
        store.put_bytes(key + suffix, store.get_bytes(layout.manifest_key(other.backup_id) + suffix))


def forge_part(store: Store, copied: Manifest) -> None:
    """Age seals for anybody who knows the public keys, so that a forged object opens."""
    part = part_of(copied, layout.GLOBALS)
    store.put_bytes(layout.set_folder(copied.backup_id) + part.name, seal(store, b"CREATE ROLE mallory SUPERUSER;"))


def lose_part(store: Store, copied: Manifest) -> None:
    store.delete([layout.set_folder(copied.backup_id) + part_of(copied, "public.people").name])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (forge_manifest, "Signature Verification Failure"),
        (move_manifest, ""),
        (forge_part, "globals.sql.age: FAILED"),
        (lose_part, "No such file or directory"),
    ],
)
def test_the_manual_stops_at_what_was_changed_before_anything_is_restored(
    by_hand: ByHand, tmp_path: Path, damage: Callable[[Store, Manifest], None], said: str
) -> None:
    copied = copy_set(by_hand.store, by_hand.manifest.backup_id)
    damage(by_hand.store, copied)
    done = run(by_hand, tmp_path, BY_HAND, "never", backup_id=copied.backup_id)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
    assert not list((tmp_path / copied.backup_id).rglob("globals.sql"))
    with by_hand.target.connect() as connection:
        known = "SELECT count(*) FROM pg_database WHERE datname = 'never'"
        assert connection.execute(known).fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM pg_roles WHERE rolname = 'mallory'").fetchone() == (0,)


def test_the_manual_names_another_key_as_such_and_stops(by_hand: ByHand, tmp_path: Path) -> None:
    make_offline_file(tmp_path / "other.txt", "ed25519:none")
    done = run(by_hand, tmp_path, BY_HAND, "never", IDENTITY=str(tmp_path / "other.txt"))
    assert done.returncode != 0
    assert "no identity matched any of the recipients" in done.stderr


def test_the_manual_s_count_names_a_table_that_lost_rows(by_hand: ByHand, tmp_path: Path) -> None:
    losing = BY_HAND.replace(
        "--command=ANALYZE", "--command=ANALYZE --command=\"DELETE FROM visits\" --command='DELETE FROM parts_2026'"
    )
    done = run(by_hand, tmp_path, losing, "by_the_losing_manual")
    assert done.returncode != 0
    assert done.stdout.splitlines()[-1] == "public.parts_2026 7"
