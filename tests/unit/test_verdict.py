import itertools

import pytest

from keepwell.verdict import Finding, Verdict, worst


def test_the_worst_wins_and_unknown_is_never_ok() -> None:
    order = [Verdict.NOT_APPLICABLE, Verdict.OK, Verdict.WARN, Verdict.UNKNOWN, Verdict.ALERT]
    for better, worse in itertools.pairwise(order):
        assert worst([better, worse]) is worst([worse, better]) is worse


def test_nothing_checked_is_unknown() -> None:
    assert worst([]) is Verdict.UNKNOWN


def test_a_finding_cannot_be_changed_afterwards() -> None:
    finding = Finding(name="n", verdict=Verdict.ALERT, message="m")
    with pytest.raises(ValueError, match="frozen"):
        finding.verdict = Verdict.OK
