import json
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest

from keepwell.backup.proof import LEVELS, LevelOutcome, Proof, reached_level, reaches
from keepwell.errors import VerificationFailed
from keepwell.verdict import Verdict

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
OK, WARN, ALERT, UNKNOWN = Verdict.OK, Verdict.WARN, Verdict.ALERT, Verdict.UNKNOWN
SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
NOT_APPLICABLE = Verdict.NOT_APPLICABLE


def outcomes(*verdicts: Verdict) -> tuple[LevelOutcome, ...]:
    return tuple(
        LevelOutcome(level=level, verdict=verdict, summary="", seconds=0)
        for level, verdict in zip(LEVELS, verdicts, strict=False)
    )


def proof(*verdicts: Verdict) -> Proof:
    return Proof(
        backup_id="20260102T030400Z-abcdef",
        manifest_sha256="0" * 64,
        started_at=NOW,
        finished_at=NOW,
        levels=outcomes(*verdicts),
        server=None,
        same_major=None,
        isolation=None,
        restore_seconds=None,
    )


@pytest.mark.parametrize(
    ("verdicts", "reached", "verdict", "damaged"),
    [
        ((), None, UNKNOWN, False),
        ((ALERT,), None, ALERT, True),
        ((UNKNOWN,), None, UNKNOWN, False),
        ((OK, OK, ALERT), "readable", ALERT, True),
        ((OK, OK, OK, UNKNOWN), "complete", UNKNOWN, False),
        ((OK, OK, OK, OK, OK), "equal", OK, False),
        ((OK, OK, OK, WARN, OK, WARN, OK), "serving", WARN, False),
        ((OK, OK, OK, OK, OK, OK, ALERT), "sound", ALERT, False),
        ((OK, OK, OK, OK, OK, ALERT), "equal", ALERT, True),
        ((OK, OK, OK, OK, OK, OK, NOT_APPLICABLE), "sound", OK, False),
        ((OK, ALERT, OK, OK, OK), "uploaded", ALERT, True),
    ],
)
def test_a_proof_reaches_the_last_level_before_the_first_that_did_not_pass(
    verdicts: tuple[Verdict, ...], reached: str | None, verdict: Verdict, damaged: bool
) -> None:
    given = proof(*verdicts)
    assert (given.reached, given.verdict, given.damaged) == (reached, verdict, damaged)


def test_levels_out_of_order_are_refused_in_memory_and_in_a_stored_proof() -> None:
    disordered = (*outcomes(OK, OK)[1:], *outcomes(OK))
    with pytest.raises(ValueError, match="not in order"):
        reached_level(disordered)
    forged = Proof.model_construct(**(proof().model_dump() | {"levels": disordered}))
    with pytest.raises(VerificationFailed, match="not in order"):
        Proof.from_json(forged.to_json())


def test_a_stored_proof_reads_back_as_it_was() -> None:
    given = proof(OK, WARN, ALERT)
    assert Proof.from_json(given.to_json()) == given


@pytest.mark.parametrize("number", range(len(LEVELS)))
def test_a_level_reaches_itself_and_those_before_it_only(number: int) -> None:
    assert [reaches(LEVELS[number], wanted) for wanted in LEVELS] == [place <= number for place in range(len(LEVELS))]


def test_no_level_reaches_nothing() -> None:
    assert not any(reaches(None, wanted) for wanted in LEVELS)


def test_a_proof_of_format_1_stays_readable_and_names_no_manifest() -> None:
    old = proof(OK, OK).model_dump(mode="json", exclude={"manifest_sha256", "stored_as"}) | {"format_version": 1}
    read = Proof.from_json(json.dumps(old).encode())
    assert (read.format_version, read.manifest_sha256, read.reached) == (1, None, "readable")
    jsonschema.validate(old, json.loads((SCHEMAS / "proof-1.json").read_bytes()))
    jsonschema.validate(proof(OK).model_dump(mode="json"), json.loads((SCHEMAS / "proof-2.json").read_bytes()))


@pytest.mark.parametrize(
    "changes",
    [
        {"manifest_sha256": None},
        {"format_version": 1},
        {"manifest_sha256": "no digest"},
        {"format_version": 3},
    ],
)
def test_a_proof_that_does_not_say_what_it_was_made_for_is_damaged(changes: dict[str, object]) -> None:
    forged = proof(OK).model_dump(mode="json") | changes
    with pytest.raises(VerificationFailed):
        Proof.from_json(json.dumps(forged).encode())


def test_a_proof_that_was_laid_elsewhere_is_not_at_its_place() -> None:
    stored = proof(OK).model_copy(update={"stored_as": "a.json"})
    assert [stored.is_at_its_place(name) for name in ("a.json", "b.json")] == [True, False]
    assert proof(OK).is_at_its_place("b.json")  # made before proofs said where


def test_a_proof_speaks_of_one_set_with_one_manifest() -> None:
    given = proof(OK)
    assert given.is_of(given.backup_id, "0" * 64)
    assert not given.is_of(given.backup_id, "1" * 64)
    assert not given.is_of("20260102T030400Z-fedcba", "0" * 64)
    old = given.model_copy(update={"format_version": 1, "manifest_sha256": None})
    assert old.is_of(given.backup_id, "1" * 64)
