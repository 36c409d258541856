"""What a registration removes, leaves alone and takes over."""

from uuid import UUID, uuid4

import pytest

from deployments.deployment_file import read_deployment_file
from deployments.register import RegistrationPlan
from deployments.standing import Gone, Inherited, Standing, StandingDeployment, find_gone, inherit, inherit_switched_off
from deployments.upgrade import digest_plan
from deployments.wanted import WantedDeployment, plan_deployments, queue_limits
from keepwell.pausing import expiry_name
from keepwell.schedules import Rule, ScheduleFile

SPECS = read_deployment_file().deployments
WATCH = ("keepwell: a silent run is dead", "keepwell: tell of failed runs")
EARLIER_EXPIRY = "keepwell: expire old sets after a proven backup"


def wanted(*platforms: str, file: ScheduleFile | None = None) -> tuple[WantedDeployment, ...]:
    return plan_deployments(SPECS, platforms, file or ScheduleFile())


def named(full_name: str, *platforms: str) -> WantedDeployment:
    return next(one for one in wanted(*platforms) if one.full_name == full_name)


def standing_of(*platforms: str) -> Standing:
    """As a registration of these platforms leaves it."""
    return Standing(
        tuple(StandingDeployment(uuid4(), one.spec.name, one.name, one.platform) for one in wanted(*platforms)),
        {name: uuid4() for name in ("default", "by-hand", *queue_limits(platforms))},
        dict.fromkeys((*WATCH, *map(expiry_name, platforms)), True),
    )


FIRST_PROCEDURES = {"backup-and-verify", "check-backups", "expire-backups", "verify-backups", "report-failure"}


def first_release(**switched_off: frozenset[str]) -> Standing:
    """One deployment of each procedure for all platforms, in one queue."""
    return Standing(
        tuple(
            StandingDeployment(uuid4(), spec.name, spec.name, switched_off=switched_off.get(spec.flow, frozenset()))
            for spec in SPECS
            if spec.name in FIRST_PROCEDURES
        ),
        dict.fromkeys(("default", "procedures", "watch"), UUID(int=0)),
        dict.fromkeys((*WATCH, EARLIER_EXPIRY), True),
    )


def test_each_procedure_is_deployed_once_for_each_platform_and_what_tells_of_failures_once() -> None:
    names = [one.full_name for one in wanted("blog", "esn")]
    assert names.count("backup-and-verify/blog") == names.count("backup-and-verify/esn") == 1
    assert [name for name in names if name.startswith("report-failure")] == ["report-failure/report-failure"]
    backup = named("backup-and-verify/esn", "blog", "esn")
    assert (backup.queue, backup.parameters) == ("platform-esn", {"platform": "esn"})
    assert "platform:esn" in backup.tags
    # A check is never behind a backup.
    assert named("check-backups/esn", "esn").queue == "watch"


def test_the_operator_s_schedules_come_in_place_of_the_release_s() -> None:
    rules = (Rule("30 15 * * *", "Europe/Rome"), Rule("30 03 * * *", "Europe/Rome"))
    file = ScheduleFile({}, {"esn": {"backup-and-verify": rules, "check-backups": ()}})
    found = {one.full_name: one.schedules for one in wanted("blog", "esn", file=file)}
    assert [(one.slug, one.cron) for one in found["backup-and-verify/esn"]] == [
        ("own", "30 03 * * *"),
        ("own-2", "30 15 * * *"),
    ]
    assert found["check-backups/esn"] == ()
    assert [one.slug for one in found["backup-and-verify/blog"]] == ["nightly"]


def test_nothing_goes_while_nothing_changed() -> None:
    gone = find_gone(standing_of("blog", "esn"), wanted("blog", "esn"), {expiry_name("blog"), expiry_name("esn")})
    assert gone.names == ()


def test_what_belongs_to_a_platform_that_is_gone_goes_and_nothing_else() -> None:
    gone = find_gone(standing_of("blog", "esn"), wanted("esn"), {expiry_name("esn")})
    assert {one.platform for one in gone.deployments} == {"blog"}
    assert len(gone.deployments) == sum(spec.per_platform for spec in SPECS)
    assert gone.queues == ("platform-blog",)
    assert gone.automations == (expiry_name("blog"),)


def test_what_others_tagged_alike_is_not_ours() -> None:
    theirs = StandingDeployment(uuid4(), "their-flow", "nightly")
    standing = Standing((theirs,), {"by-hand": uuid4()}, {"keepwell: something of theirs": True})
    assert find_gone(standing, wanted("esn"), {expiry_name("esn")}).names == ()


def test_the_first_release_s_deployments_are_taken_over() -> None:
    gone = find_gone(first_release(), wanted("esn"), {expiry_name("esn")})
    assert [one.full_name for one in gone.deployments] == [
        "backup-and-verify/backup-and-verify",
        "check-backups/check-backups",
        "expire-backups/expire-backups",
        "verify-backups/verify-backups",
    ]
    assert gone.queues == ("procedures",)
    assert gone.automations == (EARLIER_EXPIRY,)
    assert "automation “expire old sets after a proven backup”" in gone.names


@pytest.mark.parametrize(("platform", "off"), [("esn", {"nightly"}), ("blog", set())])
def test_what_was_switched_off_for_one_platform_stays_off_for_it(platform: str, off: set[str]) -> None:
    standing = first_release(backup_and_verify=frozenset({"nightly-esn"}))
    assert inherit(named(f"backup-and-verify/{platform}", platform), standing) == Inherited(False, frozenset(off))


def test_what_was_paused_stays_paused() -> None:
    one = StandingDeployment(uuid4(), "backup-and-verify", "backup-and-verify", paused=True)
    assert inherit(named("backup-and-verify/esn", "esn"), Standing((one,))).paused
    # Its own past counts before its predecessor's.
    own = StandingDeployment(uuid4(), "backup-and-verify", "esn", "esn", paused=False)
    assert not inherit(named("backup-and-verify/esn", "esn"), Standing((one, own))).paused
    assert inherit(named("verify-backups/esn", "esn"), Standing((one, own))) == Inherited()


def test_an_automation_that_was_switched_off_is_so_for_each_platform() -> None:
    off = Standing(automations={EARLIER_EXPIRY: False})
    assert inherit_switched_off(off, ("blog", "esn")) == {expiry_name("blog"), expiry_name("esn")}
    assert inherit_switched_off(first_release(), ("esn",)) == frozenset()


def test_what_comes_new_into_a_pause_begins_with_it() -> None:
    paused = Standing(paused_platforms=frozenset({"esn"}))
    assert inherit(named("verify-backups/esn", "esn"), paused).paused
    assert not inherit(named("check-backups/esn", "esn"), paused).paused
    assert not inherit(named("resume-platform/esn", "esn"), paused).paused
    assert not inherit(named("verify-backups/blog", "blog"), paused).paused


def test_an_approved_upgrade_holds_for_these_schedules_alone() -> None:
    def planned(file: ScheduleFile | None) -> RegistrationPlan:
        return RegistrationPlan(("esn",), wanted("esn", file=file), ("backup-and-verify/esn",), Gone(), Standing())

    later = ScheduleFile({}, {"esn": {"backup-and-verify": (Rule("30 3 * * *", "UTC"),)}})
    digest = digest_plan(planned(None))
    assert digest == digest_plan(planned(ScheduleFile()))
    assert digest != digest_plan(planned(later))
