"""What a machine runs, from facts to platforms: what is found, what is told as unknown, and what never shows."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keepwell.discovery.facts import Contained, CronLine, DumpFolder, Machine, Mount
from keepwell.discovery.judgement import find_candidates, find_cron_lines, find_ended
from keepwell.settings import DatabaseSettings
from keepwell.verdict import Verdict, worst

PASSWORD = "secret-of-the-database"
POSTGRES = Contained(
    name="esn_postgres",
    image="postgres:15-alpine",
    project="esn",
    service="postgres",
    running=True,
    environment={
        "POSTGRES_DB": "esn_db_prod",
        "POSTGRES_USER": "keeper",
        "POSTGRES_PASSWORD": PASSWORD,
        "PG_MAJOR": "15",
    },
    ports=frozenset({5432}),
)
REDIS = Contained("esn_redis", "redis:7-alpine", "esn", "redis", running=True, ports=frozenset({6379}))
BACKEND = Contained(
    "esn_backend",
    "esn/backend:latest",
    "esn",
    "backend",
    running=True,
    environment={
        "DATABASE_URL": f"postgresql://keeper:{PASSWORD}@postgres:5432/esn_db_prod?schema=public",
        "FRONTEND_URL": "https://esn.example",
    },
    ports=frozenset({4000}),
    published={4000: 4000},
    mounts=(Mount(Path("/app/uploads"), Path("/opt/esn/uploads")),),
)
LINE = CronLine(
    Path("/etc/cron.d/esn"), 3, "0 2 * * * root docker exec esn_postgres pg_dump esn_db_prod > /backups/esn.sql"
)
NIGHT = datetime(2026, 11, 28, 2, 0, tzinfo=UTC)
DUMPS = DumpFolder(Path("/backups"), 30, Path("/backups/esn.sql"), NIGHT, 60_000_000)
WHOLE = Machine((BACKEND, POSTGRES, REDIS), (LINE,), (DUMPS,))


def verdicts(machine: Machine) -> dict[str, Verdict]:
    (found,) = find_candidates(machine)
    return {finding.name: finding.verdict for finding in found.findings}


def test_a_whole_platform_is_found_with_everything_that_belongs_to_it() -> None:
    (found,) = find_candidates(WHOLE)
    assert (found.name, found.uploads) == ("esn", Path("/opt/esn/uploads"))
    database = found.database
    assert (database.container, database.project, database.name, database.user) == (
        "postgres",
        "esn",
        "esn_db_prod",
        "keeper",
    )
    assert (database.password, database.published_port) == (PASSWORD, None)
    assert found.cache is not None
    assert (found.cache.container, found.cache.password) == ("redis", "")
    assert found.addresses == ("https://esn.example", "http://127.0.0.1:4000")
    assert found.cron_lines == (LINE,)
    assert set(verdicts(WHOLE).values()) == {Verdict.OK}


def test_no_secret_shows_in_what_is_told() -> None:
    (found,) = find_candidates(WHOLE)
    assert PASSWORD not in repr(found)
    assert PASSWORD not in "".join(finding.model_dump_json() for finding in found.findings)


def test_the_database_that_the_application_uses_counts_more_than_what_the_image_made() -> None:
    used = replace(BACKEND, environment={"DATABASE_URL": f"postgres://keeper:{PASSWORD}@esn_postgres/shop"})
    (found,) = find_candidates(Machine((used, POSTGRES)))
    assert found.database.name == "shop"
    assert any("POSTGRES_DB says esn_db_prod" in finding.message for finding in found.findings)


def test_a_password_that_the_server_does_not_tell_is_taken_from_the_application() -> None:
    silent = replace(POSTGRES, environment={"POSTGRES_USER": "keeper", "PG_MAJOR": "15"})
    (found,) = find_candidates(Machine((BACKEND, silent)))
    assert (found.database.password, found.database.name) == (PASSWORD, "esn_db_prod")


@pytest.mark.parametrize(
    ("machine", "unknown"),
    [
        (Machine((replace(POSTGRES, environment={"PG_MAJOR": "15"}),)), "database password"),
        (Machine((BACKEND, POSTGRES)), "redis"),
        (Machine((BACKEND, POSTGRES, REDIS, replace(REDIS, name="esn_cache2"))), "redis"),
        (Machine((replace(BACKEND, mounts=()), POSTGRES)), "uploads"),
        (Machine((replace(BACKEND, published={}, environment={}), POSTGRES)), "addresses"),
        (Machine((POSTGRES,), unread=("The crontabs in /etc/cron.d cannot be read: no.",)), "cron line"),
        (replace(WHOLE, unread=("The crontabs in /var/spool/cron cannot be read: Permission denied.",)), "machine"),
    ],
)
def test_what_cannot_be_told_is_unknown(machine: Machine, unknown: str) -> None:
    assert verdicts(machine)[unknown] is Verdict.UNKNOWN


def test_without_a_line_in_crontabs_that_were_all_read_nothing_is_unknown() -> None:
    told = verdicts(replace(WHOLE, cron_lines=()))
    assert (told["cron line"], worst(told.values())) == (Verdict.NOT_APPLICABLE, Verdict.OK)


def test_several_mounts_that_look_like_uploads_are_left_to_people() -> None:
    mounts = (*BACKEND.mounts, Mount(Path("/app/media"), Path("/opt/esn/media")))
    (found,) = find_candidates(Machine((replace(BACKEND, mounts=mounts), POSTGRES)))
    assert found.uploads is None
    assert verdicts(Machine((replace(BACKEND, mounts=mounts), POSTGRES)))["uploads"] is Verdict.UNKNOWN


def test_neighbours_of_another_project_are_no_part_of_it() -> None:
    stranger = replace(REDIS, name="shop_redis", project="shop")
    (found,) = find_candidates(Machine((POSTGRES, stranger, replace(BACKEND, project="shop"))))
    assert (found.cache, found.uploads, found.addresses) == (None, None, ())


def test_a_container_that_compose_did_not_make_is_called_by_its_own_name() -> None:
    (found,) = find_candidates(Machine((replace(POSTGRES, project=None, service=None), REDIS)))
    assert (found.name, found.database.container, found.database.project) == ("esn-postgres", "esn_postgres", None)
    assert found.cache is None


def test_a_server_that_ended_is_no_platform_and_is_told() -> None:
    machine = Machine((replace(POSTGRES, running=False), REDIS))
    assert find_candidates(machine) == []
    assert [one.name for one in find_ended(machine)] == ["esn_postgres"]


def test_an_address_that_is_none_is_passed_over() -> None:
    odd = replace(BACKEND, environment={"DATABASE_URL": "postgresql://[half"})
    (found,) = find_candidates(Machine((odd, POSTGRES)))
    assert found.database.name == "esn_db_prod"


def test_a_port_that_loopback_leads_to_is_told() -> None:
    (found,) = find_candidates(Machine((replace(POSTGRES, published={5432: 15432}),)))
    assert found.database.published_port == 15432


@pytest.mark.parametrize(
    ("text", "is_ours"),
    [
        ("docker exec esn_postgres pg_dump -U postgres other", True),
        ("cd /opt/esn && docker-compose exec -T postgres pg_dumpall -U postgres", True),
        ("pg_dump -h 127.0.0.1 -U postgres esn_db_prod", True),
        ("docker exec shop_postgres pg_dump -U postgres shop", False),
        ("docker-compose -p esn-shop exec postgres pg_dump -U postgres esn_db_prod_old", False),
        ("echo esn_db_prod", False),
    ],
)
def test_only_crontab_lines_of_this_platform_alone_are_its_own(text: str, is_ours: bool) -> None:
    machine = replace(WHOLE, cron_lines=(CronLine(Path("/etc/cron.d/some"), 1, f"0 2 * * * root {text}"),))
    (found,) = find_candidates(machine)
    settings = DatabaseSettings(name="esn_db_prod", user="keeper", container="postgres", compose_project="esn")
    assert bool(found.cron_lines) is is_ours
    assert find_cron_lines(machine, settings) == list(found.cron_lines)


def test_a_database_called_like_many_tells_no_lines_apart() -> None:
    line = CronLine(
        Path("/etc/cron.d/some"), 1, "0 2 * * * root docker exec shop_postgres pg_dump -U postgres postgres"
    )
    settings = DatabaseSettings(name="postgres", user="postgres", container="postgres", compose_project="esn")
    assert find_cron_lines(replace(WHOLE, cron_lines=(line,)), settings) == []
