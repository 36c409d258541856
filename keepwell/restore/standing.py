"""What a case has come to: a pure decision over its journal and over what the server's databases are called now."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from keepwell.postgres.databases import NamedDatabase
from keepwell.restore.journal import Journal, StepName
from keepwell.restore.plan import Mode
from keepwell.verdict import Verdict


class Standing(StrEnum):
    """How far a case is."""

    NOT_RESTORED = "not restored"
    FAILED = "failed, and nothing was changed"
    GONE = "restored beside, and dropped since"
    BESIDE = "restored beside"
    FENCED = "shut in the middle of a swap"
    SHUT = "swapped, and shut"
    SWAPPED = "swapped, and not known to serve"
    SERVING = "swapped"
    UNDONE = "swapped back"
    PURGED = "purged"
    SUPERSEDED = "another database has the live name"
    ELSEWHERE = "of another server"


# Where nothing is to be done any more, though something may be.
_SETTLED = frozenset(Standing) - {Standing.NOT_RESTORED, Standing.FENCED, Standing.SHUT, Standing.SWAPPED}
# Where a live name that nothing has is no business of the case any more: it may be gone on purpose.
_OVER = frozenset((Standing.PURGED, Standing.GONE, Standing.FAILED, Standing.ELSEWHERE))


@dataclass(frozen=True)
class CaseState:
    """One case as it stands.

    Attributes:
        standing: How far it is.
        live: The database with the live name; None where there is none.
        former: The one that had it before the restore, whatever it is called; None where it is gone.
        restored: The one that was restored, whatever it is called; None where it is not there.
        advice: What to do now; empty when nothing is to be done.
    """

    standing: Standing
    live: NamedDatabase | None
    former: NamedDatabase | None
    restored: NamedDatabase | None
    advice: str

    @property
    def verdict(self) -> Verdict:
        """Alert while the live database is shut or missing, a warning while something is half done."""
        if self.standing in _OVER:
            return Verdict.OK
        if self.live is None or self.standing in (Standing.FENCED, Standing.SHUT):
            return Verdict.ALERT
        return Verdict.OK if self.standing in _SETTLED else Verdict.WARN

    @property
    def is_swapped(self) -> bool:
        """Whether the restored one has the live name now."""
        return self.live is not None and self.live == self.restored


def judge_case(journal: Journal, databases: Sequence[NamedDatabase], server: str) -> CaseState:
    """Tell what a case has come to.

    Args:
        journal: Its case and steps; the last ones may be missing.
        databases: All of the server.
        server: Which one that is; on another than the case's, its numbers mean somebody else's databases.
    """
    case = journal.case
    by_oid = {one.oid: one for one in databases}
    live = next((one for one in databases if one.name == case.live), None)
    if server != case.server:
        return CaseState(Standing.ELSEWHERE, live, None, None, "")
    former = by_oid.get(case.live_oid) if case.live_oid is not None else None
    restored = by_oid.get(journal.restored_oid) if journal.restored_oid is not None else None
    standing = _stand(journal, live, former, restored)
    return CaseState(standing, live, former, restored, _advise(journal, standing))


def _stand(
    journal: Journal, live: NamedDatabase | None, former: NamedDatabase | None, restored: NamedDatabase | None
) -> Standing:
    if journal.case.mode is Mode.BESIDE:
        return _stand_unswapped(journal, restored)
    if _is_purged(journal, former, restored):
        return Standing.PURGED
    if live is not None and live == restored:
        return _stand_swapped(journal, live)
    if live is not None and live != former:
        return Standing.SUPERSEDED
    standing = _stand_unswapped(journal, restored)
    # Another case may have shut it, or somebody: then this one has nothing to do with it.
    is_ours = standing is not Standing.UNDONE and journal.since(StepName.FENCING) is not None
    return Standing.FENCED if live is not None and not live.open and is_ours else standing


def _is_purged(journal: Journal, former: NamedDatabase | None, restored: NamedDatabase | None) -> bool:
    if journal.last is not StepName.PURGING:
        return journal.last is StepName.PURGED
    return journal.steps[-1].name not in {one.name for one in (former, restored) if one is not None}


def _stand_swapped(journal: Journal, live: NamedDatabase) -> Standing:
    if not live.open:
        return Standing.SHUT
    # The bucket may have missed any of them but the first.
    exchanged = journal.since(StepName.FENCING, StepName.EXCHANGING, StepName.EXCHANGED)
    served = journal.since(StepName.SERVING, StepName.NOT_ASKED)
    return Standing.SERVING if served and exchanged and served > exchanged else Standing.SWAPPED


def _stand_unswapped(journal: Journal, restored: NamedDatabase | None) -> Standing:
    if restored is None and journal.case.mode is Mode.BESIDE and journal.restored_oid is not None:
        # A restore that fails after the proof drops what it made, before it had its name.
        has_failed = journal.last is StepName.FAILED and journal.since(StepName.RESTORED) is None
        return Standing.FAILED if has_failed else Standing.GONE
    if restored is None:
        return Standing.FAILED if journal.last is StepName.FAILED else Standing.NOT_RESTORED
    came_back = journal.since(StepName.EXCHANGED, StepName.UNDOING, StepName.SWAPPED_BACK, StepName.UNDONE)
    return Standing.UNDONE if came_back else Standing.BESIDE


def _advise(journal: Journal, standing: Standing) -> str:
    case = journal.case
    go_on = f"keepwell restore apply --case {case.case_id}"
    go_back = f"keepwell restore undo {case.case_id}"
    purge = f"keepwell restore purge {case.case_id}"
    advice = {
        Standing.FENCED: f"Nobody is let into {case.live}. Finish the swap: {go_on}. Or open it as it was: {go_back}.",
        Standing.SHUT: f"Nobody is let into {case.live}. Open it and go on: {go_on}. Or go back: {go_back}.",
        Standing.NOT_RESTORED: f"Go on: {go_on}.",
        Standing.SWAPPED: f"See whether the application serves, and close the case: {go_on}. Or go back: {go_back}.",
        Standing.UNDONE: f"The restored one is still there. When it is no longer needed: {purge}.",
        Standing.SUPERSEDED: (
            f"Another database took its place since: undo that restore first, if at all. What it left, once it is no"
            f" longer needed: {purge}."
        ),
    }
    if case.mode is Mode.SWAP:
        advice[Standing.BESIDE] = f"{case.name} is proven, {case.live} is as it was. Swap: {go_on}. Or leave it so."
    answers = [one.step for one in journal.steps if one.step in (StepName.SERVING, StepName.NOT_ASKED)]
    unasked = "Nobody asked the application: look whether it serves. " if answers[-1:] == [StepName.NOT_ASKED] else ""
    advice[Standing.SERVING] = unasked.strip()
    if case.replaced:
        advice[Standing.SERVING] = f"{unasked}Way back: {go_back}. When it is no longer needed: {purge}."
    return advice.get(standing, "")
