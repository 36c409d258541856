"""The platform file: what one platform is, validated whole before anything is touched.

Precedence: environment (`KEEPWELL_`, nesting by `__`) over secret file over TOML over the defaults here. A secret is
never read from the TOML itself: its `<name>_file` names a file, read anew at every load, or the environment holds it.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from keepwell.errors import ConfigurationError
from keepwell.served import STATE_VARIABLE

CONFIG_VARIABLE = "KEEPWELL_CONFIG"
DEFAULT_FILE = Path("keepwell.toml")
# When what runs, for all platforms; it stands among the platform files and is none.
SCHEDULES_FILE = "schedules.toml"
PLATFORM_NAME = r"^[a-z0-9][a-z0-9-]{0,39}$"
SYSTEM_FOLDER = Path("/etc/keepwell")
_PREFIX = "KEEPWELL_"
_NESTED = "__"

ProofLevel = Literal["uploaded", "readable", "complete", "restored", "equal", "sound", "serving"]
# Below `equal` nothing was compared with its source, so nothing was proven.
ProvenLevel = Literal["equal", "sound", "serving"]


class Section(BaseModel):
    """A table of the platform file: frozen, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


# A container's or a compose service's own rules for names, so that neither is taken for an option.
_ContainerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Reach = Literal["host", "container", "exec"]
_REACH = (
    "How its server is reached. `host`: at host and port. `container`: at the address that its container has just now, "
    "with the port as in there. `exec`: by a program that is run in there, slower, where no network leads to it. "
    "The last two ask the Docker Engine at each connection, so that a container may be made anew."
)


class ContainedSettings(Section):
    """A server that may run in a container of this machine."""

    host: str
    port: int
    reach: Reach = Field(default="host", description=_REACH)
    container: _ContainerName | None = None
    compose_project: _ContainerName | None = Field(
        default=None,
        examples=["esn"],
        description="Compose project of that service, where several projects have one of its name.",
    )

    @property
    def place(self) -> str:
        """Where its server is, for people."""
        return (
            f"{self.host}:{self.port}" if self.reach == "host" else f"the container {self.container}, port {self.port}"
        )

    @model_validator(mode="after")
    def _reach_names_its_container(self) -> Self:
        if self.reach != "host" and self.container is None:
            message = f"reach is {self.reach}, and container does not name the container or compose service"
            raise ValueError(message)
        return self


class DatabaseSettings(ContainedSettings):
    """The PostgreSQL database that is maintained."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Host name, address, or folder of its socket.")
    port: int = Field(default=5432, ge=1, le=65535, description="TCP port; not a transaction pooler's.")
    name: str = Field(min_length=1, max_length=63, description="Database to back up.")
    more_names: tuple[Annotated[str, Field(min_length=1, max_length=63)], ...] = Field(
        default=(), description="Other databases of the same server that every set holds too."
    )
    user: str = Field(min_length=1, max_length=63, description="Role that may read every table.")
    password: SecretStr | None = Field(default=None, description="Secret.")
    password_file: Path | None = Field(default=None, description="File that holds the password.")
    restoring_user: str | None = Field(
        default=None,
        min_length=1,
        max_length=63,
        examples=["keepwell_restore_esn"],
        description="Role that `keepwell backup restore` restores as, where the one above may only read.",
    )
    restoring_password: SecretStr | None = Field(
        default=None, description="Secret. Best kept elsewhere, and set for the restore alone."
    )
    restoring_password_file: Path | None = Field(default=None, description="File that holds its password.")
    maintenance_name: str = Field(
        default="postgres", description="Another database of the same server, which holds our locks."
    )
    container: _ContainerName | None = Field(
        default=None,
        examples=["esn_postgres"],
        description="Container or compose service that its server runs in, where that is on this machine; proofs then "
        "restore on its image.",
    )
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = Field(
        default="prefer", description="As libpq knows it."
    )
    ssl_root_certificate: Path | None = Field(default=None, description="Certificate authority for verify-*.")

    @model_validator(mode="after")
    def _restorer_is_named(self) -> Self:
        if self.restoring_password is not None and self.restoring_user is None:
            message = "restoring_password is given without restoring_user; name the role that it belongs to"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if self.name in self.more_names:
            message = "more_names holds the database that name names already; leave it out there"
            raise ValueError(message)
        if len(set(self.more_names)) < len(self.more_names):
            message = "more_names holds a database twice; name each once"
            raise ValueError(message)
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Every database that a set holds, the main one first."""
        return self.name, *self.more_names

    @property
    def for_restoring(self) -> Self:
        """The same server as the role that restores: the one that reads, where no other is named."""
        if self.restoring_user is None:
            return self
        return self.model_copy(update={"user": self.restoring_user, "password": self.restoring_password})

    def of(self, name: str) -> Self:
        """The same server and role, for one database alone."""
        return self.model_copy(update={"name": name, "more_names": ()})


class RestoreServerSettings(ContainedSettings):
    """Another PostgreSQL server to restore on, where the maintained one is gone or has no space for two."""

    host: str = Field(min_length=1, examples=["10.0.0.7"], description="Host name, address, or folder of its socket.")
    port: int = Field(default=5432, ge=1, le=65535, description="TCP port.")
    user: str = Field(min_length=1, max_length=63, examples=["postgres"], description="Role that restores there.")
    password: SecretStr | None = Field(default=None, description="Secret.")
    password_file: Path | None = Field(default=None, description="File that holds the password.")
    container: _ContainerName | None = Field(
        default=None, examples=["esn_postgres_2"], description="Container or compose service that it runs in."
    )
    maintenance_name: str = Field(default="postgres", description="A database of it that is always there.")
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = Field(
        default="prefer", description="As libpq knows it."
    )
    ssl_root_certificate: Path | None = Field(default=None, description="Certificate authority for verify-*.")


class BucketSettings(Section):
    """The object store that keeps backup sets and evidence."""

    name: str = Field(min_length=1, description="Bucket.")
    endpoint_url: str | None = Field(
        default=None, pattern=r"^https?://", description="Any S3 endpoint; AWS by default."
    )
    region: str = Field(default="us-east-1", description="Region for request signing.")
    prefix: str = Field(
        default="", pattern=r"^$|^[^/].*[^/]$|^[^/]$", description="Folder in the bucket, no outer slash."
    )
    access_key_id: SecretStr | None = Field(default=None, description="Secret.")
    access_key_id_file: Path | None = Field(default=None, description="File that holds the access key id.")
    secret_access_key: SecretStr | None = Field(default=None, description="Secret.")
    secret_access_key_file: Path | None = Field(default=None, description="File that holds the secret access key.")
    addressing: Literal["auto", "path", "virtual"] = Field(default="auto", description="How the bucket is addressed.")
    checksums: Literal["when_supported", "when_required"] = Field(
        default="when_supported", description="`when_required` for stores that refuse flexible checksums."
    )
    ca_bundle: Path | None = Field(default=None, description="Certificate authority of a private endpoint.")
    storage_class: str = Field(
        default="",
        pattern=r"^$|^[A-Z][A-Z0-9_]*$",
        description="Class of what sets hold; the store's own by default. It must be readable at once.",
    )
    lock_days: int = Field(
        default=0, ge=0, le=36500, description="How long nobody may delete what a set holds (Object Lock); 0 for none."
    )
    lock_mode: Literal["governance", "compliance"] = Field(
        default="governance", description="`compliance` binds even the account's owner, for all of lock_days."
    )
    deletes_forbidden: bool = Field(
        default=False,
        description="The access key above may not delete sets; `keepwell doctor` tries it.",
    )
    reading_access_key_id: SecretStr | None = Field(default=None, description="Secret. A key that may only read.")
    reading_access_key_id_file: Path | None = Field(default=None, description="File that holds its id.")
    reading_secret_access_key: SecretStr | None = Field(default=None, description="Secret. Of the key that only reads.")
    reading_secret_access_key_file: Path | None = Field(default=None, description="File that holds its secret.")
    expiring_access_key_id: SecretStr | None = Field(default=None, description="Secret. A key that may delete sets.")
    expiring_access_key_id_file: Path | None = Field(default=None, description="File that holds its id.")
    expiring_secret_access_key: SecretStr | None = Field(
        default=None, description="Secret. Of the key that may delete sets."
    )
    expiring_secret_access_key_file: Path | None = Field(default=None, description="File that holds its secret.")

    @model_validator(mode="after")
    def _keys_are_whole(self) -> Self:
        pairs = {
            "reading": (self.reading_access_key_id, self.reading_secret_access_key),
            "expiring": (self.expiring_access_key_id, self.expiring_secret_access_key),
        }
        for purpose, (key_id, secret) in pairs.items():
            if (key_id is None) != (secret is None):
                message = f"the {purpose} key needs both {purpose}_access_key_id and {purpose}_secret_access_key"
                raise ValueError(message)
        return self

    @property
    def may_write(self) -> bool:
        """Whether there is a key to write with; one that only reads, alone, means that there is none."""
        return self.access_key_id is not None or self.reading_access_key_id is None


class SecondBucketSettings(BucketSettings):
    """A second destination: another bucket that gets each proven set too, best of another provider. One at most."""


class SecondFolderSettings(Section):
    """A second destination: a folder on another disk or a mounted NAS that gets each proven set too. One at most."""

    directory: Path = Field(
        description="Absolute path; made ready once by `keepwell backup prepare-second`, while its disk is mounted."
    )

    @field_validator("directory")
    @classmethod
    def _is_absolute(cls, directory: Path) -> Path:
        if not directory.is_absolute():
            message = "it must be an absolute path"
            raise ValueError(message)
        return directory


class RedisSettings(ContainedSettings):
    """The cache beside the database."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Host name or address.")
    port: int = Field(default=6379, ge=1, le=65535, description="TCP port.")
    user: str | None = Field(default=None, description="ACL user; the default user otherwise.")
    password: SecretStr | None = Field(default=None, description="Secret.")
    password_file: Path | None = Field(default=None, description="File that holds the password.")
    container: _ContainerName | None = Field(
        default=None, examples=["esn_redis"], description="Container or compose service that it runs in."
    )
    server_program: Path | None = Field(
        default=None, description="redis-server or valkey-server to prove its keys with; the system's by default."
    )


class UploadsSettings(Section):
    """Files that users sent in."""

    directory: Path = Field(description="Folder on this machine.")
    only: tuple[Annotated[str, Field(pattern=r"^[^/]+(/[^/]+)*$")], ...] = Field(
        default=(),
        examples=[["*.toml"]],
        description="Patterns of the files that are taken, such as *.toml; a * stands for no slash. All by default.",
    )
    seal_anew: bool = Field(
        default=False,
        description="Send every file again once sealing.recipients changed, so that the new keys alone open them all; "
        "without, what was sent stays sealed for whom it was.",
    )


class SmokeQuery(Section):
    """A question whose answer shows that the application could work on a restored database."""

    name: str = Field(min_length=1, description="What it shows, for the evidence.")
    sql: str = Field(min_length=1, description="One SELECT; the first value of its first row counts.")
    at_least: float | None = Field(default=None, description="The value must be a number this large or larger.")
    database: str | None = Field(
        default=None, min_length=1, description="Which one of database.more_names is asked; database.name by default."
    )


class BackupSettings(Section):
    """How backups are made and proven."""

    jobs: int = Field(default=2, ge=1, le=32, description="Parallel connections to dump, hash and restore with.")
    compression_level: int = Field(default=3, ge=1, le=19, description="zstd level.")
    spool_directory: Path | None = Field(default=None, description="Temporary space; the system's by default.")
    nice: int = Field(default=10, ge=0, le=19, description="How far our programs stand back for others, as `nice`.")
    most_bytes_per_second: int | None = Field(
        default=None, ge=65536, description="How fast rows are taken from the source at most; as fast as they come."
    )
    stall_limit_seconds: int = Field(
        default=300, ge=10, le=86400, description="How long the store may take no bytes before a backup lets go."
    )
    blocking_limit_seconds: int = Field(
        default=60, ge=0, le=86400, description="How long a backup's locks may keep others waiting; 0 only reports it."
    )
    tools_directory: Path | None = Field(default=None, description="Folder of pg_dump and its kin, tried first.")
    scratch_image: str = Field(
        default="auto",
        pattern=r"^[A-Za-z0-9][\w./:@-]*$",
        description="Image whose PostgreSQL a proof restores on, and whose client tools are used where none of this "
        "machine fit. `auto`: that of database.container, else this machine's programs; `never`: these alone; or the "
        "name of an image that this machine has. Nothing is ever pulled.",
    )
    lock_wait_seconds: int = Field(default=30, ge=1, le=3600, description="How long a dump may queue for a table.")
    interlock_wait_seconds: int = Field(
        default=600, ge=0, le=86400, description="How long to wait for another procedure, or a migration, to end."
    )
    max_age_hours: float = Field(default=26, gt=0, description="How old the newest proven backup may get.")
    proven_level: ProvenLevel = Field(default="equal", description="Level from which a set counts as proven.")
    smoke_queries: tuple[SmokeQuery, ...] = Field(default=(), description="Asked of the restored database.")


class SmokePath(Section):
    """A page of the application whose answer shows that it serves."""

    path: str = Field(
        pattern=r"^/[^\s]*$", description="Path below restore.base_url, with its query; asked without a login."
    )
    status: int = Field(default=200, ge=100, le=599, description="HTTP status that it must answer with.")
    contains: str = Field(default="", description="Text that the answer must hold; empty when any will do.")


class RestoreSettings(Section):
    """How a restored database takes the live one's place."""

    base_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/@]+(/[^\s]*)?$",
        examples=["http://127.0.0.1:3000"],
        description="Where the application answers, asked after a swap: by loopback rather than by its public name.",
    )
    health_path: str = Field(default="/health", pattern=r"^/[^\s]*$", description="Asked first; it must answer 200.")
    smoke_wait_seconds: int = Field(
        default=60, ge=1, le=3600, description="How long the application may take to find its database again."
    )
    fence_seconds: int = Field(
        default=30, ge=1, le=600, description="How long sessions may take to end, once nobody is let in any more."
    )
    flush_cache: bool = Field(
        default=False, description="Empty the Redis beside it after a swap, which may hold answers of before."
    )
    keep_replaced_days: int | None = Field(
        default=None,
        ge=1,
        le=3650,
        examples=[30],
        description="After how many days a database that a swap replaced, or an undo left, may be dropped without being"
        " named; never by default.",
    )
    smoke_paths: tuple[SmokePath, ...] = Field(
        default=(), description="Pages of the application that are asked for behind it."
    )

    @model_validator(mode="after")
    def _paths_have_an_address(self) -> Self:
        if self.smoke_paths and self.base_url is None:
            message = "smoke_paths are given without base_url; say where the application answers"
            raise ValueError(message)
        return self


class RetentionSettings(Section):
    """Which backup sets are kept. Only proven ones count, and the newest of those stay whatever their age."""

    keep_days: int = Field(
        default=30, ge=0, le=36500, description="How old a proven set may get; 0 leaves it to the counts below."
    )
    keep_newest: int = Field(
        default=3, ge=1, le=1000, description="How many of the newest proven sets stay, however old they are."
    )
    keep_daily: int = Field(
        default=0, ge=0, le=1000, description="Keep the newest proven set of each of so many days that have one."
    )
    keep_weekly: int = Field(default=0, ge=0, le=1000, description="The same for weeks, Monday to Sunday, UTC.")
    keep_monthly: int = Field(default=0, ge=0, le=1000, description="The same for months.")
    keep_yearly: int = Field(default=0, ge=0, le=1000, description="The same for years.")
    unproven_days: int = Field(default=30, ge=1, le=36500, description="How old a set may get that nobody proved.")
    damaged_days: int = Field(
        default=14, ge=1, le=36500, description="How long a damaged set is kept for people to look at."
    )
    most_removals: int = Field(default=10, ge=1, le=1000, description="How many sets one run may remove at most.")
    unneeded_uploads_days: int = Field(
        default=7, ge=1, le=36500, description="How long a content of uploaded files stays that no set needs."
    )
    most_upload_removals: int = Field(
        default=10_000, ge=1, le=1_000_000, description="How many such contents one run may remove at most."
    )

    @model_validator(mode="after")
    def _keeps_something(self) -> Self:
        if not any((self.keep_days, self.keep_daily, self.keep_weekly, self.keep_monthly, self.keep_yearly)):
            message = "this keeps nothing but the newest sets; set keep_days, or one of keep_daily to keep_yearly"
            raise ValueError(message)
        return self


DamageKind = Literal[
    "bit flipped", "object dropped", "stream cut", "objects swapped", "row altered", "manifest forged", "wrong key"
]


class DrillSettings(Section):
    """What a restore drill is measured against, and what it does to copies of a set."""

    rpo_hours: float = Field(
        default=26, gt=0, description="RPO: how much of the last work a disaster may cost at most, at any time."
    )
    rto_minutes: float = Field(
        default=240, gt=0, description="RTO: how long until the restored database answers, from the start."
    )
    period_days: int = Field(
        default=31, ge=1, le=366, description="How far back a drill looks for the worst gap between proven sets."
    )
    damages: tuple[DamageKind, ...] = Field(
        default=get_args(DamageKind),
        min_length=1,
        description="How a drill damages copies of a set, to see the checker turn red. A cut stream and an altered row "
        "cost a restore each; fewer kinds make a drill shorter, and prove less.",
    )
    application_command: tuple[str, ...] = Field(
        default=(),
        examples=[["node", "/srv/esn/backend/dist/main.js"]],
        description="How a full drill starts the application on what it restored, in a network that holds loopback "
        "alone; none by default. Its words may name {port}, {database_url}, {redis_url} and {uploads}.",
    )
    application_environment: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*=")], ...] = Field(
        default=(),
        examples=[["DATABASE_URL={database_url}", "REDIS_URL={redis_url}", "PORT={port}"]],
        description="Its variables, with the same names in braces; it gets nothing of ours. No secret belongs here.",
    )
    application_port: int = Field(
        default=3000, ge=1024, le=65535, description="Where it answers, on that network; restore.health_path is asked."
    )


class SealingSettings(Section):
    """Who can open what is stored, and whose documents count."""

    mode: Literal["age", "none"] = Field(
        default="age", description="`none` stores everything as it is, unsigned: for a trial only."
    )
    recipients: tuple[str, ...] = Field(
        default=(), description="age public keys that open backups: this machine's, and one whose secret is offline."
    )
    identities: tuple[SecretStr, ...] = Field(
        default=(), description="Secret. age private keys, the present one and older ones."
    )
    identities_file: Path | None = Field(default=None, description="File with one age private key a line.")
    signing_key: SecretStr | None = Field(default=None, description="Secret. Signs manifests and proofs.")
    signing_key_file: Path | None = Field(default=None, description="File that holds the signing key.")
    trusted_signers: tuple[str, ...] = Field(
        default=(), description="Public keys whose signatures count; this machine's own by default."
    )
    accept_unsigned: bool = Field(default=False, description="Whether documents from before signing count.")


class NotifySettings(Section):
    """Where messages go. Addresses hold tokens, so they are secrets."""

    urls: tuple[SecretStr, ...] = Field(default=(), description="Secret. Apprise addresses.")
    urls_file: Path | None = Field(default=None, description="File with one Apprise address a line.")
    dead_mans_switch_url: SecretStr | None = Field(
        default=None, description="Secret. Asked after a proven backup only."
    )
    dead_mans_switch_url_file: Path | None = Field(default=None, description="File that holds the switch's address.")


class IncidentSettings(Section):
    """How an incident is led: how evidence is gathered, and how people hear of it."""

    look_seconds: int = Field(
        default=30,
        ge=1,
        le=600,
        description="How long all sources of evidence together may take; late ones are unknown.",
    )
    service_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        examples=["ESN events"],
        description="What the public calls the platform, for the status page; its short name by default.",
    )
    next_update_minutes: int = Field(
        default=30, ge=1, le=1440, description="When people are promised to hear again, where nobody says another time."
    )
    remind_minutes: int = Field(
        default=15, ge=1, le=1440, description="How often the team is reminded of an update that is overdue."
    )
    status_page_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/@]+(/[^\s]*)?$",
        examples=["https://status.example.org"],
        description="The public status page, for messages to the team.",
    )
    status_webhook_url: SecretStr | None = Field(
        default=None, description="Secret. Gets each status text as JSON, by POST; in a drill, nothing."
    )
    status_webhook_url_file: Path | None = Field(default=None, description="File that holds the webhook's address.")


class OrchestratorSettings(Section):
    """The Prefect server."""

    api_url: str | None = Field(default=None, pattern=r"^https?://", description="Its API; PREFECT_API_URL otherwise.")
    auth_string: SecretStr | None = Field(default=None, description="Secret. user:password of basic authentication.")
    auth_string_file: Path | None = Field(default=None, description="File that holds user:password.")
    approval_hours: float = Field(
        default=12, gt=0, le=168, description="How long a run waits for an approval before it fails."
    )


class Platform(BaseSettings):
    """One platform, as its file and the environment describe it."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter=_NESTED, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    name: Annotated[str, Field(pattern=PLATFORM_NAME, description="Short name: a-z, 0-9 and dashes.")]
    database: DatabaseSettings
    restore_server: RestoreServerSettings | None = None
    bucket: BucketSettings
    second_bucket: SecondBucketSettings | None = None
    second_folder: SecondFolderSettings | None = None
    redis: RedisSettings | None = None
    uploads: UploadsSettings | None = None
    backup: BackupSettings = BackupSettings()
    retention: RetentionSettings = RetentionSettings()
    drill: DrillSettings = DrillSettings()
    restore: RestoreSettings = RestoreSettings()
    sealing: SealingSettings = SealingSettings()
    notify: NotifySettings = NotifySettings()
    incident: IncidentSettings = IncidentSettings()
    orchestrator: OrchestratorSettings = OrchestratorSettings()

    @property
    def on_restore_server(self) -> Self:
        """The same platform as if it lived on the server of `[restore_server]`, for restoring there.

        Raises:
            ConfigurationError: The platform file has no such section.
        """
        server = self.restore_server
        if server is None:
            raise ConfigurationError(
                "The platform file names no other server to restore on.",
                hint="Add [restore_server] to it, with host, port, user and password_file.",
            )
        # Its fields are a database's too, and were validated.
        there = server.model_dump() | {"restoring_user": None, "restoring_password": None}
        return self.model_copy(update={"database": self.database.model_copy(update=there)})

    @model_validator(mode="after")
    def _has_one_second_destination(self) -> Self:
        if self.second_bucket is not None and self.second_folder is not None:
            message = "second_bucket and second_folder are both given; there is one second destination at most"
            raise ValueError(message)
        if self.second_bucket is not None and _place_of(self.second_bucket) == _place_of(self.bucket):
            message = "second_bucket is the same place as bucket; a copy beside the original would be lost with it"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _questions_can_be_asked(self) -> Self:
        for query in self.backup.smoke_queries:
            if query.database is not None and query.database not in self.database.names:
                message = (
                    f"the smoke query “{query.name}” asks a database that no set holds; database.name and "
                    "database.more_names say which do"
                )
                raise ValueError(message)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over secret files over TOML."""
        del init_settings, dotenv_settings, file_secret_settings
        toml = _TomlWithoutSecrets(settings_cls)
        return env_settings, _SecretFiles(settings_cls, env_settings, toml), toml


def _place_of(bucket: BucketSettings) -> tuple[str | None, str, str]:
    """What tells two buckets apart, whoever's keys they are reached with."""
    return bucket.endpoint_url, bucket.name, bucket.prefix


def load_platform(name: str | None = None) -> Platform:
    """Read the platform file and the environment anew.

    Args:
        name: Which platform, where the configuration is a folder of files; None when there is only one.

    Raises:
        ConfigurationError: No file, unknown or wrong values, a secret in the TOML, or no such platform.
    """
    files = list(_config_files())
    if name is None and len(files) == 1:
        return load_platform_file(files[0])
    # By their names alone: what is wrong with one platform, a secret that is missing, is no other one's trouble.
    described = name_files(files)
    known = ", ".join(sorted(described))
    if name is None:
        raise ConfigurationError("There are several platforms.", hint=f"Name one with --platform: {known}.")
    if name not in described:
        raise ConfigurationError(
            f"There is no platform {name!r}; the platform files describe: {known}.",
            hint=_nearest(name, described) or f"Check the name, or {CONFIG_VARIABLE}.",
        )
    return load_platform_file(described[name])


def read_platform_names() -> tuple[str, ...]:
    """Names of all platforms that are configured, sorted; nothing else of their files is read, and no secret.

    Raises:
        ConfigurationError: No file, one without a proper name, or two of the same name.
    """
    return tuple(sorted(name_files(_config_files())))


def platform_files(folder: Path) -> list[Path]:
    """The files of a folder that describe platforms, sorted: none where there is no folder."""
    return sorted(file for file in folder.glob("*.toml") if file.name != SCHEDULES_FILE)


def name_files(files: Iterable[Path]) -> dict[str, Path]:
    """Platform files by the names that they give, in their order; nothing else of them is read.

    Raises:
        ConfigurationError: One is without a proper name, or two are of the same name.
    """
    described: dict[str, Path] = {}
    for file in files:
        name = os.environ.get(f"{_PREFIX}NAME") or _read_name(file)
        if name in described:
            raise ConfigurationError(
                f"{described[name]} and {file} both describe the platform {name}.",
                hint="Give one of them another name.",
            )
        described[name] = file
    return described


def config_folder() -> Path:
    """Where the platform files lie, and what stands beside them."""
    place = configuration_place()
    return place if place.is_dir() else place.parent


def _read_name(file: Path) -> str:
    try:
        name = tomllib.loads(file.read_text(encoding="utf-8")).get("name")
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{file} cannot be read: {error}.", hint="Look at the named line.") from None
    if not isinstance(name, str) or not re.match(PLATFORM_NAME, name):
        raise ConfigurationError(f"{file} gives its platform no name.", hint='Such as name = "esn": a-z, 0-9, dashes.')
    return name


def configuration_place() -> Path:
    """Where platforms are described: what KEEPWELL_CONFIG names, else the file here, else /etc/keepwell if it has one.

    Returns:
        A file, or a folder of them; it need not exist.
    """
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    if not DEFAULT_FILE.exists() and any(SYSTEM_FOLDER.glob("*.toml")):
        return SYSTEM_FOLDER
    return DEFAULT_FILE


def _config_files() -> Iterator[Path]:
    place = configuration_place()
    if place.is_dir():
        found = platform_files(place)
        if not found:
            raise ConfigurationError(f"{place} holds no platform file.", hint="Write one with `keepwell init`.")
        yield from found
    elif place.is_file():
        yield place
    else:
        raise ConfigurationError(
            f"There is no platform file at {place}.",
            hint=f"Write one with `keepwell init`, or name one with {CONFIG_VARIABLE}.",
        )


def load_platform_file(path: Path) -> Platform:
    """Read one platform file and the environment anew.

    Raises:
        ConfigurationError: Unknown or wrong values, or a secret in the TOML.
    """
    _refuse_unknown_variables()
    bound = type("Platform", (Platform,), {"model_config": SettingsConfigDict(toml_file=path), "__module__": __name__})
    try:
        return bound()  # type: ignore[no-any-return]
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}.", hint="Look at the named line.") from error
    except SettingsError as error:
        # A variable for a list that is not JSON; the error's cause quotes its value, which may be a secret.
        raise ConfigurationError(
            f"A variable of the environment cannot be read: {error}.", hint="Lists are written as JSON."
        ) from None
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {_describe(error)}.", hint=_hint(error)) from None


def _refuse_unknown_variables() -> None:
    """Pydantic passes over unknown top-level variables in silence, and blames the file for nested ones."""
    top = {f"{_PREFIX}{name.upper()}" for name in Platform.model_fields} | {CONFIG_VARIABLE, STATE_VARIABLE}
    nested = {
        f"{_PREFIX}{name.upper()}{_NESTED}{field.upper()}"
        for name, section in _sections()
        for field in section.model_fields
    }
    for variable in os.environ:
        named = variable.upper()  # pydantic tells no cases apart
        if named.startswith(_PREFIX) and _NESTED.join(named.split(_NESTED)[:2]) not in top | nested:
            raise ConfigurationError(
                f"The environment variable {variable} is not one of ours.",
                hint=_nearest(named, top | nested) or f"Known are: {', '.join(sorted(top))}.",
            )


def _describe(error: ValidationError) -> str:
    """All faults in one sentence; never the values, which may be secrets."""
    return "; ".join(
        f"unknown key {_dotted(fault['loc'])}"
        if fault["type"] == "extra_forbidden"
        else f"{_dotted(fault['loc'])} is missing"
        if fault["type"] == "missing"
        else ": ".join(filter(None, (_dotted(fault["loc"]), fault["msg"])))
        for fault in error.errors(include_input=False, include_url=False)
    )


def _hint(error: ValidationError) -> str:
    for fault in error.errors(include_input=False, include_url=False):
        if fault["type"] == "extra_forbidden":
            *parents, unknown = fault["loc"]
            hint = _nearest(str(unknown), _known_keys(parents))
            if hint:
                return hint
    return "`keepwell init` writes a file with every key explained."


def _known_keys(location: list[int | str]) -> list[str]:
    model: Any = Platform
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if model is None:
            return []
    return list(model.model_fields)


def _dotted(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))


def _nearest(word: str, known: Any) -> str:
    match = difflib.get_close_matches(word, list(known), n=1)
    return f"Did you mean {match[0]}?" if match else ""


def _secret_fields(section: type[BaseModel]) -> list[str]:
    return [name for name in section.model_fields if f"{name}_file" in section.model_fields]


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in Platform.model_fields.items():
        for candidate in (field.annotation, *get_args(field.annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                yield name, candidate


class _TomlWithoutSecrets(TomlConfigSettingsSource):
    """The TOML file, refused when it holds a secret itself."""

    def __call__(self) -> dict[str, Any]:
        values = super().__call__()
        for name, section in _sections():
            for field in _secret_fields(section):
                if field in _table(values, name):
                    raise ConfigurationError(
                        f"{name}.{field} is a secret and does not belong in the platform file.",
                        hint=f"Put it into a file named by {name}.{field}_file, or into "
                        f"{_PREFIX}{name.upper()}{_NESTED}{field.upper()}; and change it, since it was readable here.",
                    )
        return values


class _SecretFiles(PydanticBaseSettingsSource):
    """Secrets from the files that the environment or the TOML names."""

    def __init__(
        self, settings_cls: type[BaseSettings], env: PydanticBaseSettingsSource, toml: PydanticBaseSettingsSource
    ) -> None:
        super().__init__(settings_cls)
        self._env, self._toml = env, toml

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """Required by the base class, never asked: this source answers as a whole."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        env, toml = self._env(), self._toml()
        found: dict[str, Any] = {}
        for name, section in _sections():
            for field in _secret_fields(section):
                in_env, in_toml = _table(env, name), _table(toml, name)
                named = (in_toml | in_env).get(f"{field}_file")
                if named is not None and field not in in_env:
                    several = section.model_fields[field].annotation == tuple[SecretStr, ...]
                    found.setdefault(name, {})[field] = _read_secret(Path(named), lines=several)
        return found


def _table(values: dict[str, Any], name: str) -> dict[str, Any]:
    table = values.get(name)
    return table if isinstance(table, dict) else {}


def _read_secret(path: Path, *, lines: bool) -> str | list[str]:
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigurationError(
            f"The secret file {path} cannot be read: {error.strerror}.", hint="Check its path and permissions."
        ) from None
    # Only a list may hold comments: a password may begin with any sign.
    content = [line.strip() for line in text.splitlines() if line.strip() and not (lines and line.startswith("#"))]
    if not content:
        raise ConfigurationError(f"The secret file {path} is empty.", hint="Write the secret into it, one line.")
    return content if lines else content[0]
