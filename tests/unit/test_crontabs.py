"""Crontab lines that dump a platform: which, retired by an approved plan, and given back as they were."""

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keepwell.discovery import crontabs
from keepwell.discovery.crontabs import (
    apply_plan,
    choose_dumping,
    find_folders,
    hide_secrets,
    plan_retirement,
    plan_return,
    read_crontabs,
)
from keepwell.discovery.machine import read_dump_folders
from keepwell.errors import ConfigurationError, KeepwellError, PreconditionFailed

NOW = datetime(2026, 11, 29, 10, 0, tzinfo=UTC)
OTHERS = "SHELL=/bin/sh\n# a comment about pg_dump esn\n\n17 * * * * root run-parts /etc/cron.hourly\n"
DUMPING = "0 2 * * * root docker exec esn_postgres pg_dump esn_db_prod | gzip > /backups/esn-$(date +\\%F).gz\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "cron.d"
    folder.mkdir()
    (folder / "esn").write_text(OTHERS + DUMPING)
    (folder / "esn").chmod(0o640)
    return folder


def dumping(place: Path, *names: str) -> list[crontabs.CronLine]:
    lines, unread = read_crontabs([place, place / "missing"])
    assert unread == []
    return choose_dumping(lines, names or ("esn_postgres",))


def test_only_lines_that_dump_this_platform_are_chosen(place: Path) -> None:
    (line,) = dumping(place)
    assert (line.file, line.number, line.text) == (place / "esn", 5, DUMPING.rstrip("\n"))
    assert dumping(place, "esn_db_prod") == [line]
    assert dumping(place, "esn") == []
    assert dumping(place, "") == []


def test_a_script_that_dumps_is_looked_into(place: Path, tmp_path: Path) -> None:
    script = tmp_path / "backup.sh"
    script.write_text("#!/bin/sh\npg_dump shop > /backups/shop.sql\n")
    (place / "shop").write_text(f"0 3 * * * root {script} >> /var/log/backup.log\n0 4 * * * root /bin/ls shop\n")
    (line,) = dumping(place, "shop")
    assert line.number == 1
    assert Path("/backups") in find_folders([line])


def test_an_approved_plan_comments_the_line_out_and_can_be_taken_back_exactly(place: Path) -> None:
    before = (place / "esn").read_bytes()
    plan = plan_retirement(dumping(place), NOW)
    apply_plan(plan, plan.digest)
    text = (place / "esn").read_text()
    assert text == OTHERS + f"# keepwell retired this line on 2026-11-29T10:00:00Z: {DUMPING}"
    assert (place / "esn").stat().st_mode & 0o7777 == 0o640
    assert [path.name for path in place.iterdir()] == ["esn"]
    assert dumping(place) == []
    back = plan_return([place, place / "missing"])
    apply_plan(back, back.digest)
    assert (place / "esn").read_bytes() == before
    assert plan_return([place]).changes == ()


def test_a_plan_stands_for_the_lines_and_not_for_when_they_were_looked_at(place: Path) -> None:
    assert plan_retirement(dumping(place), NOW).digest == plan_retirement(dumping(place), datetime.now(UTC)).digest


def test_another_plan_than_the_approved_one_changes_nothing(place: Path) -> None:
    before = (place / "esn").read_bytes()
    with pytest.raises(PreconditionFailed, match="is not what there is to do now"):
        apply_plan(plan_retirement(dumping(place), NOW), "0123456789ab")
    assert (place / "esn").read_bytes() == before


def test_a_file_that_changed_meanwhile_is_left_alone(place: Path) -> None:
    plan = plan_retirement(dumping(place), NOW)
    (place / "esn").write_text(DUMPING)
    with pytest.raises(PreconditionFailed, match="has changed meanwhile"):
        apply_plan(plan, plan.digest)
    assert (place / "esn").read_text() == DUMPING


def test_a_write_that_does_not_read_back_is_no_success(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_retirement(dumping(place), NOW)
    monkeypatch.setattr(crontabs, "_replace", lambda file, content: None)
    with pytest.raises(KeepwellError, match="reads back differently"):
        apply_plan(plan, plan.digest)


def test_bytes_that_are_no_utf8_come_back_as_they_were(place: Path) -> None:
    (place / "esn").write_bytes(b"# caf\xe9\r\n" + DUMPING.encode())
    plan = plan_retirement(dumping(place), NOW)
    apply_plan(plan, plan.digest)
    assert (place / "esn").read_bytes().startswith(b"# caf\xe9\r\n# keepwell retired")


def test_crontabs_that_cannot_be_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    lines, unread = read_crontabs([tmp_path])
    assert lines == []
    assert unread == [f"The crontabs in {tmp_path} cannot be read: Permission denied."]
    with pytest.raises(ConfigurationError, match="cannot be read or written"):
        plan_return([tmp_path])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0 2 * * * root PGPASSWORD=geheim pg_dump esn", "0 2 * * * root PGPASSWORD=… pg_dump esn"),
        ("@daily root PGPASSWORD='ge heim'x pg_dump esn", "@daily root PGPASSWORD=… pg_dump esn"),
        (
            'docker exec -e "PGPASSWORD=ge heim" c sh -c "pg_dump esn"',
            'docker exec -e "PGPASSWORD=…" c sh -c "pg_dump esn"',
        ),
        ('PGPASSWORD="ge\\"heim" pg_dump esn', "PGPASSWORD=… pg_dump esn"),
        ('PGPASSWORD="ge heim', "PGPASSWORD=…"),
        ("pg_dump 'host=h password=geheim dbname=esn'", "pg_dump 'host=h password=… dbname=esn'"),
        ("AWS_SECRET_ACCESS_KEY=geheim sh -c x", "AWS_SECRET_ACCESS_KEY=… sh -c x"),
        ("pg_dump postgresql://me:geheim@h:5432/esn > /b", "pg_dump postgresql://me:…@h:5432/esn > /b"),
        ("pg_dump postgresql://me:ge@he/im@h/esn > /b", "pg_dump postgresql://me:…@h/esn > /b"),
        ("PGPASSFILE=/root/.pgpass pg_dump -h db esn", "PGPASSFILE=/root/.pgpass pg_dump -h db esn"),
        ("pg_dump postgresql://me@h:5432/esn", "pg_dump postgresql://me@h:5432/esn"),
    ],
)
def test_a_secret_in_a_line_is_not_shown(text: str, shown: str) -> None:
    assert hide_secrets(text) == shown


def test_what_cron_passes_over_is_no_crontab(place: Path) -> None:
    retired = f"# keepwell retired this line on 2026-11-29T10:00:00Z: {DUMPING}"
    for name in (".keepwell.4711", ".hidden", "esn.dpkg-old"):
        (place / name).write_text(DUMPING + retired)
    assert [line.file.name for line in dumping(place)] == ["esn"]
    assert plan_return([place]).changes == ()


def test_a_killed_writing_leaves_nothing_that_cron_heeds_and_the_next_plan_sweeps_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Nothing after it runs, as after SIGKILL."""

    def die(self: Path, *_: object, **__: object) -> None:
        raise Killed

    plan = plan_retirement(dumping(place), NOW)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        patch.setattr(Path, "unlink", die)
        with pytest.raises(Killed):
            apply_plan(plan, plan.digest)
    (left,) = (path for path in place.iterdir() if path.name != "esn")
    assert left.name.startswith(".")
    (place / ".keepwell.99999999").touch()  # above every process id that Linux gives
    with subprocess.Popen(["sleep", "600"]) as other:
        at_work = place / f".keepwell.{other.pid}"
        at_work.touch()
        try:
            apply_plan(plan, plan.digest)
        finally:
            other.kill()
    assert sorted(path.name for path in place.iterdir()) == [at_work.name, "esn"]


def test_folders_with_dumps_are_told_by_their_newest(tmp_path: Path) -> None:
    for number, name in enumerate(("a.sql.gz", "b.dump", "notes.txt")):
        (tmp_path / name).write_bytes(b"x" * (number + 1))
        os.utime(tmp_path / name, (number, number))
    (found,) = read_dump_folders([tmp_path, tmp_path, tmp_path / "missing"])
    assert (found.folder, found.count, found.newest.name, found.newest_size_bytes) == (tmp_path, 2, "b.dump", 2)
