"""RESTORE.md: how to restore one set with stock tools, for whoever finds nothing but the bucket and a key.

docs/restore-by-hand.md explains the same steps for any set; a test runs them as they stand there.
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

from keepwell.backup import layout
from keepwell.backup.database import Database, Source

# Everything below the folder that is entered here is readable by its owner only: it will hold the data, opened.
ENTER = """\
set -eu; umask 077; export LC_ALL=C
mkdir "$SET"; cd "$SET"
rclone copy "store:$PLACE/backups/$SET" . --include /manifest.json --include /manifest.json.sig
grep -qF "\\"backup_id\\": \\"$SET\\"" manifest.json"""

# An Ed25519 public key's DER is twelve fixed bytes and the key, and twelve bytes are whole base64.
CHECK_SIGNATURE = """\
printf '%s\\n' '-----BEGIN PUBLIC KEY-----' "MCowBQYDK2VwAyEA${SIGNER#ed25519:}" '-----END PUBLIC KEY-----' > signer.pem
openssl pkeyutl -verify -pubin -inkey signer.pem -rawin -in manifest.json -sigfile manifest.json.sig"""

FETCH = """\
awk -F'"' 'NF == 5 && $2 == "name" { name = $4 } NF == 5 && $2 == "sha256" { print $4 "  " name }' \\
    manifest.json > SHA256SUMS
cut -c 67- SHA256SUMS > parts.txt
rclone copy "store:$PLACE/backups/$SET" . --files-from parts.txt
sha256sum --check --strict --quiet SHA256SUMS"""

OPEN = """\
grep '\\.age$' parts.txt | while read -r sealed; do
    age --decrypt --identity "$IDENTITY" --output "${sealed%.age}" "$sealed"; rm "$sealed"
done"""

DECOMPRESS = """\
find . -name '*.zst' -exec zstd --decompress --rm --quiet {} +"""

CREATE_ROLES = """\
sed '/^GRANT /s/ GRANTED BY [^;]*;$/;/' globals.sql | psql --no-psqlrc --quiet --dbname=postgres"""

# Of the database whose archive is asked for; older manifests describe one, and name no folder.
_OURS = """\
BEGIN { ours = 1 } NF == 5 && $2 == "folder" && $4 ~ /^database/ { ours = $4 == archive }"""

# For any set whose locale is libc's; a set's own page names its values.
CREATE_DATABASE = f"""\
told() {{ awk -F'"' -v archive="$ARCHIVE/" -v key="$1" '
    {_OURS}
    ours && NF == 5 && $2 == key {{ print $4; exit }}' manifest.json; }}
createdb --template=template0 --encoding="$(told encoding)" --lc-collate="$(told collate)" \\
    --lc-ctype="$(told ctype)" --owner="$(told owner)" "$DATABASE\""""

RESTORE = """\
pg_restore --dbname="$DATABASE" --jobs=2 --exit-on-error --no-tablespaces --no-subscriptions "$ARCHIVE"
psql --no-psqlrc --quiet --dbname="$DATABASE" --command=ANALYZE"""

_TELL_ROWS = f"""\
awk -F'"' -v archive="$ARCHIVE/" '
    {_OURS}
    NF == 5 && $2 == "table_schema" {{ schema = $4 }} NF == 5 && $2 == "name" {{ name = $4 }}
    ours && $2 == "rows" && $3 ~ /^: [0-9]/ {{ gsub(/[^0-9]/, "", $3); print schema "." name, $3 }}' \\
    manifest.json | sort > told.txt"""

_FIND_ROWS = """\
PGCLIENTENCODING=UTF8 psql --no-psqlrc --quiet --tuples-only --no-align --field-separator=' ' \\
    --dbname="$DATABASE" > found.txt <<'END'
SELECT format('SELECT %L, count(*) FROM %I.%I', nspname || '.' || relname, nspname, relname)
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE relkind = 'r' AND nspname !~ '^pg_' \\gexec
END
sort found.txt | comm -23 told.txt - | tee differing.txt
test ! -s differing.txt"""

COUNT = f"{_TELL_ROWS}\n{_FIND_ROWS}"

_COUNTING = (
    "As many rows as the source had; what differs is named. Tables of extensions, and those with a quotation mark in "
    "their name, may be named without being wrong"
)
_PROVIDERS = {"i": ("icu", "icu-locale"), "b": ("builtin", "builtin-locale")}


@dataclass(frozen=True)
class Place:
    """Where a platform's sets lie, without any secret.

    Attributes:
        endpoint_url: Of the object store; None for AWS.
        region: For request signing.
        folder: Bucket, prefix and platform, joined by slashes.
    """

    endpoint_url: str | None
    region: str
    folder: str


@dataclass(frozen=True)
class FolderPlace:
    """Where a platform's sets lie in a folder: a second destination on a disk or a network share.

    Attributes:
        directory: Where it is mounted on the machine that makes the sets.
        folder: The platform's, below it.
    """

    directory: Path
    folder: str


def render_restore_page(
    *,
    backup_id: str,
    platform: str,
    databases: Sequence[Database],
    archive_major: int,
    place: Place,
    second: Place | FolderPlace | None = None,
    sealed_for: tuple[str, ...],
    signed: bool,
    role_passwords: bool,
    more: str = "",
) -> str:
    """The page.

    Args:
        backup_id: Of the set.
        platform: Its name.
        databases: What the set holds, the main one first.
        archive_major: A pg_restore of this major version or newer reads the archive.
        place: Where the set lies.
        second: Where its copy lies, once it was carried there; None where there is no second destination.
        sealed_for: Public age keys that open it; empty where it is not sealed.
        signed: Whether its manifest is signed.
        role_passwords: Whether the roles come with their passwords.
        more: Sections on what is in the set beside the database, as markdown; may be empty.

    Returns:
        Markdown; its shell blocks, run in their order, restore the set.
    """
    checked = "check the signature" if signed else "NOT SIGNED, so nobody can tell it from a forged one"
    sections = [
        _render_head(backup_id, platform, databases, archive_major, sealed=bool(sealed_for), signed=signed),
        _render_known(backup_id, place),
        *_render_second(second),
        _render_wanted(sealed_for, databases, signed=signed),
        f"1. Fetch the manifest, and {checked}:",
        _shell(f"{ENTER}\n{CHECK_SIGNATURE}" if signed else ENTER),
        "2. Fetch what it lists, and compare each object with it:",
        _shell(FETCH),
        "3. Open and decompress:" if sealed_for else "3. Decompress; nothing of this set is encrypted:",
        _shell(f"{OPEN}\n{DECOMPRESS}" if sealed_for else DECOMPRESS),
        "4. Roles, best on a server of its own: those that are there already get the attributes of the set; that they "
        "exist is told, and no harm." + ("" if role_passwords else " Their passwords are NOT in the set: set them."),
        _shell(CREATE_ROLES),
        "5. The database:" if len(databases) == 1 else f"5. The database `{databases[0].name}`:",
        _shell(f"{_create_database(databases[0].source)}\n{RESTORE}"),
        *_render_left_out(databases[0].source),
        f"6. {_COUNTING}:",
        _shell(COUNT),
        *_render_further(databases[1:]),
    ]
    return "\n\n".join([*sections, *([more.strip()] if more else [])]) + "\n"


def _render_head(
    backup_id: str, platform: str, databases: Sequence[Database], archive_major: int, *, sealed: bool, signed: bool
) -> str:
    tools = ["rclone", *(["openssl 3"] if signed else []), *(["age"] if sealed else []), "zstd"]
    tools.append(f"PostgreSQL {archive_major}'s own programs or newer ones")
    names, word, option = f"`{databases[0].name}`", "database", ""
    if len(databases) > 1:
        moments = [f"`{one.name}` (as of {one.snapshot_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC)" for one in databases]
        names, word, option = f"{', '.join(moments[:-1])} and {moments[-1]}", "databases", " --database NAME"
    return (
        f"# Restoring {backup_id}\n\n"
        f"A backup of the {word} {names} of the platform {platform}, from PostgreSQL "
        f"{databases[0].source.server_version}. With Keepwell at hand: "
        f"`keepwell backup restore {backup_id}{option} --into NEW_NAME`. "
        f"Without it, these do: {', '.join(tools)}. Run the blocks in their order, in one shell, and stop at the first "
        "that fails."
    )


def _render_known(backup_id: str, place: Place) -> str:
    values = {"SET": backup_id, "ARCHIVE": layout.DATABASE.rstrip("/")}
    return _shell(_render_exports(values | _find_values(place)))


def _render_second(second: Place | FolderPlace | None) -> Iterator[str]:
    """No step of its own: what is exported in place of the lines above, where the first destination is gone."""
    if second is None:
        return
    where = "another bucket, with access keys of its own"
    if isinstance(second, FolderPlace):
        where = "a folder, which may be mounted elsewhere by now and needs no access key"
    yield (
        "Its copy lies in a second destination, where it was carried there: "
        f"{where}. Should the first be gone, export these in place of the same ones above:"
    )
    yield f"```ini\n{_render_exports(_find_values(second))}\n```"


def _find_values(place: Place | FolderPlace) -> dict[str, str]:
    """What rclone needs to know of a place."""
    if isinstance(place, FolderPlace):
        return {
            "PLACE": place.folder,
            "RCLONE_CONFIG_STORE_TYPE": "alias",
            "RCLONE_CONFIG_STORE_REMOTE": str(place.directory),
        }
    values = {
        "PLACE": place.folder,
        "RCLONE_CONFIG_STORE_TYPE": "s3",
        "RCLONE_CONFIG_STORE_PROVIDER": "Other" if place.endpoint_url else "AWS",
        "RCLONE_CONFIG_STORE_REGION": place.region,
    }
    return values | ({"RCLONE_CONFIG_STORE_ENDPOINT": place.endpoint_url} if place.endpoint_url else {})


def _render_exports(values: dict[str, str]) -> str:
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items())


def _render_wanted(sealed_for: tuple[str, ...], databases: Sequence[Database], *, signed: bool) -> str:
    """The variables that only the reader can fill in."""
    wanted = {
        "RCLONE_CONFIG_STORE_ACCESS_KEY_ID": "of the bucket",
        "RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY": "of the bucket",
    }
    if signed:
        wanted["SIGNER"] = (
            "ed25519:…, whose signature counts: from the offline key's file or your own copy of the platform file, "
            "never from this bucket"
        )
    if sealed_for:
        wanted["IDENTITY"] = f"full path of a file with a secret age key, of one of: {', '.join(sealed_for)}"
    if len(databases) == 1:
        wanted["DATABASE"] = "name of the new database"
    else:
        wanted |= {_variable_of(n): f"name of the new database for `{one.name}`" for n, one in enumerate(databases, 1)}
    wanted |= {
        "PGHOST": "server to restore on; also PGPORT, PGUSER (a superuser) and PGPASSWORD",
    }
    lines = [f"- `{name}`: {meaning}" for name, meaning in wanted.items()]
    return "\n".join(["Export these as well:\n", *lines])


def _render_further(databases: Sequence[Database]) -> Iterator[str]:
    """Steps 5 and 6 for each database but the main one, as one step."""
    for number, database in enumerate(databases, start=2):
        chosen = f'export ARCHIVE={database.folder.rstrip("/")} DATABASE="${_variable_of(number)}"'
        yield f"{number + 5}. The database `{database.name}`, and its count:"
        yield _shell(f"{chosen}\n{_create_database(database.source)}\n{RESTORE}\n{COUNT}")
        yield from _render_left_out(database.source)


def _variable_of(number: int) -> str:
    """Which variable names the new database, from 1 on."""
    return "DATABASE" if number == 1 else f"DATABASE_{number}"


def _create_database(source: Source) -> str:
    """The createdb command for a database like the source."""
    options = {
        "template": "template0",
        "encoding": source.encoding,
        "lc-collate": source.collate,
        "lc-ctype": source.ctype,
        "owner": source.owner,
    }
    if source.locale is not None and source.locale_provider in _PROVIDERS:
        provider, option = _PROVIDERS[source.locale_provider]
        options |= {"locale-provider": provider, option: source.locale}
    words = [f"--{option}={shlex.quote(value)}" for option, value in options.items()]
    return " ".join(["createdb", *words, '"$DATABASE"'])


def _render_left_out(source: Source) -> list[str]:
    """What pg_dump does not carry over, and must be set by hand."""
    left = [f"ALTER DATABASE … SET {name}" for name in source.settings]
    left += ["grants on the database itself"] if source.has_grants else []
    left += list(source.undumped)
    return [f"Not in the archive, to be set by hand: {', '.join(left)}."] if left else []


def _shell(commands: str) -> str:
    return f"```sh\n{commands}\n```"
