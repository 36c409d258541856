from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from keepwell.approval import Approval, Decision, Place, Subject, build_approval, digest_plan, require_approval
from keepwell.errors import PreconditionFailed, Refused

NOW = datetime(2026, 11, 29, 3, 4, 5, tzinfo=UTC)
SUBJECT = Subject(
    procedure="restore",
    platform="esn",
    binds={"backup_id": "20261129T020000Z-abcdef", "mode": "swap", "live": "esn_db", "size_class": "1 GB"},
    typed="esn_db",
)


def an_approval(**changes: Any) -> Approval:
    said = {
        "approver": "Ada",
        "reason": "rows were deleted by mistake",
        "typed": "esn_db",
        "digest": SUBJECT.digest,
        "approved_at": NOW,
        "given_at": Place.TERMINAL,
    }
    return Approval.model_validate(said | changes)


def test_what_was_approved_as_it_is_now_goes_on() -> None:
    approval = an_approval()
    assert require_approval(SUBJECT, approval) is approval


def test_without_an_approval_nothing_goes_on_and_the_hint_names_the_plan() -> None:
    with pytest.raises(PreconditionFailed, match="needs an approval") as raised:
        require_approval(SUBJECT, None)
    assert SUBJECT.digest in raised.value.hint


def test_a_refusal_is_told_with_its_reason() -> None:
    refused = an_approval(decision=Decision.REFUSED, reason="the other team is at it", typed="")
    with pytest.raises(
        Refused, match=r"refused by Ada \(self-declared\).*the other team is at it. Nothing was changed"
    ):
        require_approval(SUBJECT, refused)


@pytest.mark.parametrize(
    "changed",
    [
        replace(SUBJECT, procedure="undo"),
        replace(SUBJECT, platform="other"),
        *(replace(SUBJECT, binds={**SUBJECT.binds, name: "another"}) for name in SUBJECT.binds),
        replace(SUBJECT, binds={**SUBJECT.binds, "more": "x"}),
        replace(SUBJECT, typed="esn_db2"),
    ],
)
def test_an_approval_of_another_plan_is_void(changed: Subject) -> None:
    assert changed.digest != SUBJECT.digest
    with pytest.raises(PreconditionFailed, match=f"given for plan {SUBJECT.digest}.*is {changed.digest} by now"):
        require_approval(changed, an_approval(typed=changed.typed))


@pytest.mark.parametrize("typed", ["", "esn", "ESN_DB", "esn_db_replaced_20261129T030405Z", "yes"])
def test_another_word_is_no_approval(typed: str) -> None:
    with pytest.raises(PreconditionFailed, match=r"void.*not esn_db"):
        require_approval(SUBJECT, an_approval(typed=typed))


def test_the_order_of_what_is_bound_does_not_count() -> None:
    turned = dict(reversed(SUBJECT.binds.items()))
    assert list(turned) != list(SUBJECT.binds)
    assert replace(SUBJECT, binds=turned).digest == SUBJECT.digest


def test_a_digest_is_short_and_stays_the_same_between_releases() -> None:
    assert digest_plan({"b": [1, "é"], "a": None}) == "1c3d52eb7867"


@pytest.mark.parametrize("field", ["approver", "reason"])
@pytest.mark.parametrize("text", ["", "  ", "two\nlines", "a\x1b[31mred", "x" * 1001])
def test_a_malformed_answer_is_refused_with_the_field_s_name(field: str, text: str) -> None:
    said = {"approver": "Ada", "reason": "why", field: text}
    with pytest.raises(PreconditionFailed, match=f"malformed, so nothing was changed: {field}: "):
        build_approval(**said, typed="esn_db", digest=SUBJECT.digest, approved_at=NOW, given_at=Place.COMMAND_LINE)


def test_a_time_without_a_zone_is_malformed() -> None:
    with pytest.raises(PreconditionFailed, match="approved_at"):
        build_approval(
            approver="Ada",
            reason="why",
            typed="esn_db",
            digest=SUBJECT.digest,
            approved_at=NOW.replace(tzinfo=None),
            given_at=Place.TERMINAL,
        )


def test_an_approval_survives_being_stored() -> None:
    approval = an_approval()
    assert Approval.model_validate_json(approval.model_dump_json()) == approval
    assert approval.told == "approved by Ada (self-declared) at the terminal: rows were deleted by mistake"
