"""What became of the sets that a run carried to the second destination, and proved there."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from keepwell.backup.carry import Carried, CarryPlan
from keepwell.backup.proof import Proof
from keepwell.errors import KeepwellError, TransientError
from keepwell.quantities import describe_bytes
from keepwell.settings import ProofLevel
from keepwell.verdict import Finding, Verdict, worst

_SILENT = Finding(
    name="second destination",
    verdict=Verdict.UNKNOWN,
    message="Not tried, since the second destination fell silent.",
    hint="The next run goes on: keepwell backup copy",
)


@dataclass(frozen=True)
class SecondCopy:
    """One set, as this run left it in the second destination.

    Attributes:
        backup_id: Of the set.
        carried: What it took; None where it was there already, or could not be carried.
        proof: Made from the second destination; None where it did not come to that.
        failure: What stopped it; None where nothing did.
    """

    backup_id: str
    carried: Carried | None = None
    proof: Proof | None = None
    failure: Finding | None = None

    def is_proven(self, wanted: ProofLevel) -> bool:
        """Whether it counts as a backup there."""
        return self.failure is None and self.proof is not None and self.proof.proves(wanted)

    def judge(self, wanted: ProofLevel) -> Finding:
        """The copy as one finding: never ok unless it is proven there."""
        if self.failure is not None:
            return self.failure.model_copy(update={"name": f"{self.backup_id} in the second destination"})
        reached = self.proof.reached if self.proof else None
        verdict = self.proof.verdict if self.proof else Verdict.UNKNOWN
        if not self.is_proven(wanted):
            verdict = worst([verdict, Verdict.UNKNOWN])
        sent = f"{describe_bytes(self.carried.sent_bytes)} were sent; " if self.carried else ""
        return Finding(
            name=f"{self.backup_id} in the second destination",
            verdict=verdict,
            message=f"{sent}it reached {reached or 'no level'}, read back from there; {wanted} is wanted.",
            hint="" if self.is_proven(wanted) else f"Sends anew what is damaged: keepwell backup copy {self.backup_id}",
        )


@dataclass(frozen=True)
class SecondCopies:
    """What a run came to in the second destination.

    Attributes:
        copies: One for each set that was carried or proven.
        noticed: What else there is to know: sets that wait for another run, and copies that are damaged.
    """

    copies: tuple[SecondCopy, ...]
    noticed: tuple[Finding, ...] = ()

    def judge(self, wanted: ProofLevel) -> tuple[Finding, ...]:
        """Each set as a finding, and what else there is to know."""
        return (*(copy.judge(wanted) for copy in self.copies), *self.noticed)


def copy_each(plan: CarryPlan, carry: Callable[[str], Carried], prove: Callable[[str], Proof]) -> Iterator[SecondCopy]:
    """Carry and prove what a plan names, one after the other; one that fails does not keep the next from its turn.

    A destination that fell silent would fail each of them, for minutes at a time: then the others wait for another run.

    Args:
        plan: What to carry, and what to prove only.
        carry: Carries one set.
        prove: Proves one in the second destination; damage is what the proof says.
    """
    waiting: Sequence[str] = (*plan.carry, *plan.prove)
    for place, backup_id in enumerate(waiting):
        carried = None
        try:
            if backup_id in plan.carry:
                carried = carry(backup_id)
            yield SecondCopy(backup_id, carried, prove(backup_id))
        except KeepwellError as error:
            yield SecondCopy(backup_id, carried, failure=describe_failure(error))
            if isinstance(error, TransientError):
                yield from (SecondCopy(one, failure=_SILENT) for one in waiting[place + 1 :])
                return


def describe_failure(error: KeepwellError) -> Finding:
    """What stopped a copy: unknown where it may pass by itself, alert otherwise."""
    verdict = Verdict.UNKNOWN if isinstance(error, TransientError) else Verdict.ALERT
    return Finding(name="second destination", verdict=verdict, message=error.message, hint=error.hint)


def find_forgotten(plan: CarryPlan, backup_id: str) -> Iterator[SecondCopy]:
    """The set that a run has just proven, where the plan passes over it and it is not proven there already."""
    if backup_id not in (*plan.carry, *plan.prove, *plan.proven):
        yield SecondCopy(
            backup_id,
            failure=Finding(
                name="second destination",
                verdict=Verdict.ALERT,
                message="It was not carried: something else lies there under its id, or no rule would keep it there.",
                hint=f"Look there: keepwell backup list --destination second. Then: keepwell backup copy {backup_id}",
            ),
        )


def describe_plan(plan: CarryPlan) -> Iterator[Finding]:
    """What a plan leaves as it is: sets that wait for another run, and copies that are damaged."""
    if plan.waiting:
        yield Finding(
            name="copies that wait",
            verdict=Verdict.WARN,
            message=f"{plan.waiting} more sets are missing or unproven in the second destination.",
            hint="The next runs catch up; by hand: keepwell backup copy",
        )
    if plan.bad:
        yield Finding(
            name="damaged copies",
            verdict=Verdict.WARN,
            message=f"{len(plan.bad)} sets are damaged or unreadable in the second destination, proven in the first: "
            f"{', '.join(plan.bad)}.",
            hint=f"Find out why; then, for each: keepwell backup copy {plan.bad[0]}",
        )
