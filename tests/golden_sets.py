"""Golden sets: small backup sets as each format version stored them, restored by the tests for ever.

A set is a folder of `tests/cases/golden/`, named by its format version: the objects of its platform's folder in the
bucket, as they were stored, and in `keys.json` the keys that open and believe them. The keys serve nothing else.

A new format version needs one more: `.venv/bin/python tests/golden_sets.py` makes it with the code as it is. Nothing is
ever written over one that is there.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from backup_sets import back_up, prove
from pydantic import SecretStr
from real_servers import (
    BUCKET,
    bucket_settings,
    build_platform,
    fresh_database,
    make_sealing,
    reachable_folder,
    running_postgres,
)
from redis import Redis

from deployments.local.objectstore import create_bucket, running_objectstore
from deployments.local.redis_server import running_redis
from keepwell.backup.manifest import Manifest
from keepwell.objectstore.store import Store, open_store
from keepwell.settings import Platform, RedisSettings, SealingSettings, UploadsSettings

GOLDEN = Path(__file__).parent / "cases" / "golden"
KEYS = "keys.json"
OBJECTS = "objects"
UPLOADS = {"posters/spring.txt": b"Spring party, 21 March\n", "posters/again.txt": b"Spring party, 21 March\n"}
# Since format 3 a set may hold further databases.
MORE = "golden_more"
MORE_SOURCE = "CREATE TABLE people (id int PRIMARY KEY, name text); INSERT INTO people VALUES (7, 'Zoë, elsewhere')"
MORE_QUESTION = "SELECT string_agg(id || ' ' || name, ';') FROM people"
MORE_ANSWER = ("7 Zoë, elsewhere",)
REDIS_KEYS = {"session:1": "Ana", "session:2": "Bo"}
# Whatever a set must bring back: text beyond ASCII, nulls, exact numbers, bytes, a partition, a view, a large object.
SOURCE = """
CREATE TYPE mood AS ENUM ('glad', 'tired');
CREATE TABLE people (id serial PRIMARY KEY, name text NOT NULL UNIQUE, mood mood, paid numeric(20, 4), badge bytea);
INSERT INTO people (name, mood, paid, badge) VALUES
    ('Ana', 'glad', 12345678901234.5678, '\\x00ff'), ('Zoë \t', NULL, NULL, NULL), ('Bo', 'tired', 'NaN', '');
CREATE TABLE visits (person int NOT NULL REFERENCES people, at timestamptz NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE visits_2025 PARTITION OF visits FOR VALUES FROM ('2025-01-01 00:00+00') TO ('2026-01-01 00:00+00');
INSERT INTO visits VALUES (1, '2025-05-01 12:00:00.123456+00'), (3, '2025-06-01 00:00+00');
CREATE INDEX ON visits (person);
CREATE MATERIALIZED VIEW visitors AS SELECT DISTINCT person FROM visits;
SELECT lo_from_bytea(4711, 'a large object');
"""
QUESTION = """
SELECT (SELECT string_agg(p::text, ';' ORDER BY id) FROM people p),
       (SELECT string_agg(person || '@' || (at AT TIME ZONE 'UTC'), ';' ORDER BY person) FROM visits),
       (SELECT count(*) FROM visitors), lo_get(4711), nextval('people_id_seq')
"""
ANSWER = (
    '(1,Ana,glad,12345678901234.5678,"\\\\x00ff");(2,"Zoë \t",,,);(3,Bo,tired,NaN,"\\\\x")',
    "1@2025-05-01 12:00:00.123456;3@2025-06-01 00:00:00",
    2,
    b"a large object",
    4,
)


def sealing_of(golden: Path) -> SealingSettings:
    """Keys and rules under which a golden set is believed."""
    return SealingSettings.model_validate(json.loads((golden / KEYS).read_text()))


def put_golden(golden: Path, store: Store) -> None:
    """Store a golden set's objects as they once were."""
    for path in sorted((golden / OBJECTS).rglob("*")):
        if path.is_file():
            store.put_bytes(str(path.relative_to(golden / OBJECTS)), path.read_bytes())


def make_golden(folder: Path) -> None:
    """Back the sample up on real servers, prove it, and keep what was stored."""
    with ExitStack() as stack:
        platform = stack.enter_context(_sources())
        proof = prove(platform, back_up(platform).backup_id)
        assert proof.reached == "serving", proof
        store = open_store(platform)
        for name in ("backups/", "uploads/"):
            for stored in store.list_objects(name):
                target = folder / OBJECTS / stored.key
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(store.get_bytes(stored.key))
    sealing = platform.sealing
    assert sealing.signing_key is not None
    keys = {
        "recipients": sealing.recipients,
        "identities": [identity.get_secret_value() for identity in sealing.identities],
        "signing_key": sealing.signing_key.get_secret_value(),
    }
    (folder / KEYS).write_text(json.dumps(keys, indent=2) + "\n")


@contextmanager
def _sources() -> Iterator[Platform]:
    """A platform with a little of everything; on PostgreSQL 15, so that every later one can read its archive."""
    with ExitStack() as stack:
        folder = stack.enter_context(reachable_folder())
        places = {name: folder / name for name in ("postgres", "store", "redis", "spool", "uploads")}
        for place in places.values():
            place.mkdir()
        for name, content in UPLOADS.items():
            file = places["uploads"] / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
        server = stack.enter_context(running_postgres(15, places["postgres"]))
        objects = stack.enter_context(running_objectstore(places["store"]))
        create_bucket(objects.endpoint_url, objects.access_key_id, objects.secret_access_key, BUCKET)
        redis = stack.enter_context(running_redis(places["redis"]))
        with Redis(host="127.0.0.1", port=redis.port, password=redis.password) as client:
            client.mset(REDIS_KEYS)
        name, more = (stack.enter_context(fresh_database(server, made)) for made in ("golden", MORE))
        for database, source in ((name, SOURCE), (more, MORE_SOURCE)):
            with server.connect(database) as connection:
                connection.execute(source)
        platform = build_platform(
            server,
            name,
            bucket_settings(objects),
            places["spool"],
            redis=RedisSettings(host="127.0.0.1", port=redis.port, password=SecretStr(redis.password)),
            uploads=UploadsSettings(directory=places["uploads"]),
        )
        yield platform.model_copy(
            update={
                # Keys of its own: these are published with the set.
                "sealing": make_sealing(),
                "backup": platform.backup.model_copy(update={"tools_directory": server.binaries.folder}),
                "database": platform.database.model_copy(update={"more_names": (more,)}),
            }
        )


def main() -> None:
    """Make the golden set of the present format."""
    folder = GOLDEN / f"format-{Manifest.model_fields['format_version'].default}"
    if folder.exists():
        sys.exit(f"{folder} is there, and a golden set is never made anew.")
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        make_golden(Path(made) / folder.name)
        (Path(made) / folder.name).rename(folder)


if __name__ == "__main__":
    main()
