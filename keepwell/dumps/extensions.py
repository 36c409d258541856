"""Which package has an extension that this machine lacks, for people who restore elsewhere. Pure.

The names are Debian's and those of PostgreSQL's own Debian packages, which differ by the major version alone.
"""

# What comes with PostgreSQL itself: on Debian in the server's package, elsewhere in one of its own.
_CONTRIB = frozenset(
    [
        "adminpack",
        "amcheck",
        "autoinc",
        "bloom",
        "btree_gin",
        "btree_gist",
        "citext",
        "cube",
        "dblink",
        "dict_int",
        "dict_xsyn",
        "earthdistance",
        "file_fdw",
        "fuzzystrmatch",
        "hstore",
        "insert_username",
        "intagg",
        "intarray",
        "isn",
        "lo",
        "ltree",
        "moddatetime",
        "old_snapshot",
        "pageinspect",
        "pg_buffercache",
        "pg_freespacemap",
        "pg_logicalinspect",
        "pg_prewarm",
        "pg_stat_statements",
        "pg_surgery",
        "pg_trgm",
        "pg_visibility",
        "pg_walinspect",
        "pgcrypto",
        "pgrowlocks",
        "pgstattuple",
        "postgres_fdw",
        "refint",
        "seg",
        "sslinfo",
        "tablefunc",
        "tcn",
        "tsm_system_rows",
        "tsm_system_time",
        "unaccent",
        "uuid-ossp",
        "xml2",
    ]
)
# By the beginning of the extension's name; {major} is the server's.
_PACKAGES = {
    "address_standardizer": "postgresql-{major}-postgis-3",
    "postgis": "postgresql-{major}-postgis-3",
    "pgrouting": "postgresql-{major}-pgrouting",
    "pointcloud": "postgresql-{major}-pointcloud",
    "vector": "postgresql-{major}-pgvector",
    "timescaledb": "timescaledb-2-postgresql-{major}",
    "citus": "postgresql-{major}-citus-12.1",
    "pg_cron": "postgresql-{major}-cron",
    "pg_partman": "postgresql-{major}-partman",
    "pg_repack": "postgresql-{major}-repack",
    "pg_similarity": "postgresql-{major}-similarity",
    "pg_qualstats": "postgresql-{major}-pg-qualstats",
    "pg_stat_kcache": "postgresql-{major}-pg-stat-kcache",
    "pg_wait_sampling": "postgresql-{major}-pg-wait-sampling",
    "pgaudit": "postgresql-{major}-pgaudit",
    "pglogical": "postgresql-{major}-pglogical",
    "pgtap": "postgresql-{major}-pgtap",
    "pldbgapi": "postgresql-{major}-pldebugger",
    "plpgsql_check": "postgresql-{major}-plpgsql-check",
    "plpython3u": "postgresql-plpython3-{major}",
    "hstore_plpython3u": "postgresql-plpython3-{major}",
    "jsonb_plpython3u": "postgresql-plpython3-{major}",
    "plperl": "postgresql-plperl-{major}",
    "pltcl": "postgresql-pltcl-{major}",
    "hypopg": "postgresql-{major}-hypopg",
    "ip4r": "postgresql-{major}-ip4r",
    "hll": "postgresql-{major}-hll",
    "rum": "postgresql-{major}-rum",
    "orafce": "postgresql-{major}-orafce",
    "periods": "postgresql-{major}-periods",
    "prefix": "postgresql-{major}-prefix",
    "semver": "postgresql-{major}-semver",
    "set_user": "postgresql-{major}-set-user",
    "tdigest": "postgresql-{major}-tdigest",
    "debversion": "postgresql-{major}-debversion",
    "mysql_fdw": "postgresql-{major}-mysql-fdw",
    "ogr_fdw": "postgresql-{major}-ogr-fdw",
    "tds_fdw": "postgresql-{major}-tds-fdw",
    "powa": "postgresql-{major}-powa",
    "unit": "postgresql-{major}-unit",
}


def package_of(extension: str, major: int) -> str:
    """What to install, in words that follow “Install”.

    Args:
        extension: Its name.
        major: Of the server that lacks it.
    """
    if extension in _CONTRIB:
        return f"PostgreSQL's contrib modules (postgresql-{major} on Debian, postgresql{major}-contrib elsewhere)"
    known = _PACKAGES.get(extension) or next(
        (package for name, package in _PACKAGES.items() if extension.startswith(f"{name}_")), None
    )
    if known is not None:
        return known.format(major=major)
    return f"the package that has it (try: apt-cache search postgresql-{major}-)"
