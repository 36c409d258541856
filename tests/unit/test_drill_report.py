import re
import sys
from datetime import timedelta

import pytest
from drills import STARTED, a_damage, a_drill, a_recovery, a_rehearsal
from memory_store import MemoryStore

from keepwell.drill.documents import Stage, keep_drill
from keepwell.drill.evidence import build_drill_evidence, describe_shortfall
from keepwell.drill.keeping import keep_reports
from keepwell.drill.plots import render_plot
from keepwell.drill.report import render_drill, render_drill_page
from keepwell.errors import ConfigurationError
from keepwell.verdict import Finding, Verdict


def history(count: int = 6) -> list:  # type: ignore[type-arg]
    return [
        a_drill(
            STARTED + timedelta(days=30 * number),
            recovery=a_recovery(rto_seconds=20 + 3 * number, live_bytes=1_100_000 + 90_000 * number),
            kind="full" if number % 3 == 0 else "monthly",
        )
        for number in range(count)
    ]


def test_a_good_drill_s_page_tells_targets_phases_damage_and_history() -> None:
    drills = history()
    page = render_drill(drills[-1], drills)
    assert page.startswith("# Restore drill of esn: ✓ ok\n")
    assert "| ✓ ok | RPO now | 3.0 h | 26.0 h |" in page
    assert re.search(r"\| restore \| 10\.0 s \| 10\.0 s \|", page)
    assert "| ✓ ok | bit flipped |" in page
    assert page.count(", full |") == 2
    assert "keepwell drill run --seed 7" in page
    assert "## Findings" not in page


def test_a_full_drill_s_page_tells_of_the_whole_platform() -> None:
    stages = tuple(
        Stage(name=name, verdict=Verdict.OK, message="It is there.", seconds=3) for name in ("redis", "application")
    )
    told = Stage(name="communication", verdict=Verdict.ALERT, message="1 of 1 channels took no message.", seconds=1)
    drill = a_drill(kind="full", rehearsals=(a_rehearsal(stages=stages),), communication=told, verdict=Verdict.ALERT)
    page = render_drill(drill)
    assert "## The whole platform" in page
    assert "| ✓ ok | application | 3.0 s | It is there. |" in page
    assert "| ✗ ALERT | communication |" in page
    assert "took no message" in describe_shortfall(drill)
    assert build_drill_evidence(drill).items == ("MONTHLY-6", "QUARTERLY-4")


def test_later_drills_are_no_history() -> None:
    drills = history()
    page = render_drill(drills[2], drills)
    assert f"{drills[2].started_at:%Y-%m-%d}" in page
    assert f"{drills[3].started_at:%Y-%m-%d}" not in page


def test_what_went_wrong_stands_on_the_page_and_in_the_evidence() -> None:
    blind = a_damage(detected_at=None, verdict=Verdict.ALERT, message="NOT FOUND: bit 7 passed up to readable.")
    finding = Finding(name="public.t", verdict=Verdict.ALERT, message="3 rows restored, 4 in the source.", hint="Look.")
    drill = a_drill(
        verdict=Verdict.ALERT,
        damages=(blind,),
        rehearsals=(a_rehearsal(verdict=Verdict.ALERT, rto_seconds=None, phases=None, findings=(finding,)),),
        recovery=a_recovery(rto_seconds=None, rto_at_live_size_seconds=None),
    )
    page = render_drill(drill)
    assert "✗ ALERT | bit flipped" in page
    assert "**nowhere**" in page
    assert "3 rows restored, 4 in the source." in page
    assert "not known" in page
    evidence = build_drill_evidence(drill)
    assert (evidence.items, evidence.verdict) == (("MONTHLY-6",), Verdict.ALERT)
    assert evidence.numbers["damages_found"] == 0
    assert "NOT FOUND" in describe_shortfall(drill)
    assert "RTO measured" in describe_shortfall(drill)


def test_a_drill_without_damage_says_that_the_checker_is_not_known() -> None:
    drill = a_drill(damages=(), verdict=Verdict.UNKNOWN)
    assert "whether the checker sees damage is not known" in render_drill(drill)
    assert "Nothing was damaged" in describe_shortfall(drill)


def test_the_page_holds_its_plot_and_needs_nothing_else() -> None:
    drills = history()
    page = render_drill_page(drills[-1], drills)
    assert page.count("<svg") == 1
    assert page.index("<svg") < page.index("<h2>Targets</h2>")
    assert "<script" not in page
    assert not re.search(r"(src|href)=.https?:", page.replace('xlink:href="#', ""))


def test_what_others_named_is_text_on_the_page() -> None:
    outcome = a_damage(message='<script>alert("1")</script> | a cell', what="`x` <b>")
    page = render_drill_page(a_drill(damages=(outcome,)))
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("form", ["svg", "png"])
def test_the_same_drills_give_the_same_picture(form: str) -> None:
    drills = history(30)
    assert render_plot(drills, form) == render_plot(drills, form)  # type: ignore[arg-type]


def test_one_drill_and_one_that_failed_can_be_drawn() -> None:
    failed = a_drill(recovery=a_recovery(rto_seconds=None, rto_at_live_size_seconds=None, live_bytes=None))
    assert b">failed<" in render_plot([failed], "svg")
    assert render_plot([a_drill(rehearsals=())], "png")


def test_without_the_library_the_page_says_so_and_holds_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigurationError, match="no matplotlib") as raised:
        render_plot([a_drill()])
    assert "server" in raised.value.hint
    page = render_drill_page(a_drill())
    assert "<svg" not in page
    assert "There is no matplotlib here" in page
    assert "RPO now" in page


def test_reports_lie_beside_the_drill() -> None:
    store, drill = MemoryStore(), a_drill()
    keep_drill(store, drill)  # type: ignore[arg-type]
    page, kept = keep_reports(store, drill)  # type: ignore[arg-type]
    assert kept.drills == (drill,)
    assert store.objects[f"drills/{drill.drill_id}.md"].decode() == page
    assert b"<svg" in store.objects[f"drills/{drill.drill_id}.html"]
