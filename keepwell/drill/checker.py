"""Does the checker turn red? Copies of a set are damaged, proven as any set is, and each damage must be found in time.

What was never seen red may be blind. A drill in which one damage passes has failed, whatever else it measured.
"""

import re
import time
from collections.abc import Iterable

from keepwell.backup.catalogue import read_manifest
from keepwell.backup.proof import LevelOutcome
from keepwell.backup.verify import climb_ladder
from keepwell.drill.damage import ATTEMPTS, EXPECTED, Damage, NoDamage, make_damage
from keepwell.drill.documents import DamageOutcome, DetectedAt, is_in_time
from keepwell.errors import VerificationFailed
from keepwell.objectstore.store import Store
from keepwell.progress import Progress, Step
from keepwell.settings import DamageKind, Platform
from keepwell.verdict import Finding, Verdict

_BLIND = "Trust no proof until this is understood, and report it: the checker passes over damage."


def try_damages(
    platform: Platform, store: Store, backup_id: str, seed: int, progress: Progress
) -> tuple[DamageOutcome, ...]:
    """Damage copies of a set in each way that the platform file asks for, and see whether each is found.

    Args:
        platform: Whose set.
        store: Its folder in the bucket; it is only read.
        backup_id: A set that is proven, so that whatever is found is the damage.
        seed: Chooses where.
        progress: Told how far it is.

    Returns:
        One outcome for each kind, in the order of the platform file.

    Raises:
        KeepwellError: The store or the scratch server went away; that says nothing of the checker.
    """
    kinds = tuple(dict.fromkeys(platform.drill.damages))
    outcomes = []
    for number, kind in enumerate(kinds):
        progress(Step(f"damaging a copy: {kind}", number, len(kinds), "copies"))
        outcomes.append(try_damage(platform, store, backup_id, kind, seed=seed, progress=progress))
    return tuple(outcomes)


def try_damage(
    platform: Platform, store: Store, backup_id: str, kind: DamageKind, *, seed: int, progress: Progress
) -> DamageOutcome:
    """Damage one copy in one way, and prove it; where the level that is on trial was not come to, another copy.

    Raises:
        KeepwellError: As `try_damages`.
    """
    started = time.monotonic()
    manifest = read_manifest(store, backup_id)
    what, detected_at, verdict, message = "nothing was damaged", None, Verdict.NOT_APPLICABLE, ""
    for attempt in range(ATTEMPTS[kind]):
        damage = make_damage(kind, store, manifest, seed, attempt=attempt)
        if isinstance(damage, NoDamage):
            message = message or damage.reason
            break
        what = damage.what
        detected_at, verdict, message = _prove(platform, damage, backup_id, progress)
        if not stopped_before(kind, detected_at):
            break
    return DamageOutcome(
        kind=kind,
        what=what,
        expected_at=EXPECTED[kind],
        detected_at=detected_at,
        verdict=verdict,
        message=message,
        seconds=time.monotonic() - started,
    )


def stopped_before(kind: DamageKind, detected_at: DetectedAt | None) -> bool:
    """Whether the database itself refused an altered row, so that the comparison of rows was never put to the test."""
    expected_at = EXPECTED[kind]
    return kind == "row altered" and detected_at not in (None, expected_at) and is_in_time(detected_at, expected_at)


def _prove(
    platform: Platform, damage: Damage, backup_id: str, progress: Progress
) -> tuple[DetectedAt | None, Verdict, str]:
    try:
        climb = climb_ladder(platform, damage.copy, backup_id, progress, all_uploads=False, up_to=damage.up_to)
    except VerificationFailed as error:
        return judge_refused(damage, error.message)
    last = climb.proof.levels[-1]
    if last.passed:
        return judge_missed(damage, last)
    return _judge_level(damage, last)


def _judge_level(damage: Damage, stopped: LevelOutcome) -> tuple[DetectedAt | None, Verdict, str]:
    """What the level that did not pass says of the damage."""
    alerts = [finding for finding in stopped.findings if finding.verdict is Verdict.ALERT]
    if damage.kind == "wrong key":
        # Sealed for others: nothing is known of what it holds, and so nothing passes.
        alerts = [finding for finding in stopped.findings if finding.verdict in (Verdict.ALERT, Verdict.UNKNOWN)]
    if not alerts:
        told = _first(stopped.findings)
        return None, Verdict.UNKNOWN, f"{stopped.level} could not be judged here, so neither could the checker: {told}"
    return judge_found(damage, stopped.level, tuple(finding.message for finding in alerts))


def judge_refused(damage: Damage, message: str) -> tuple[DetectedAt | None, Verdict, str]:
    """What it says that a set was refused before its first level: that was asked for by a forged manifest alone."""
    if damage.expected_at == "manifest":
        return judge_found(damage, "manifest", (message,))
    return None, Verdict.UNKNOWN, f"The copy was refused before it was looked at, which says nothing of it: {message}"


def judge_found(
    damage: Damage, detected_at: DetectedAt, messages: tuple[str, ...]
) -> tuple[DetectedAt | None, Verdict, str]:
    """Whether damage that was found was found in time, and named."""
    if not is_in_time(detected_at, damage.expected_at):
        message = f"Found only at {detected_at}, and {damage.expected_at} must find it: {messages[0]} {_BLIND}"
        return detected_at, Verdict.ALERT, message
    naming = next((text for text in messages if any(_names(text, name) for name in damage.suspects)), None)
    if damage.suspects and naming is None:
        return detected_at, Verdict.WARN, f"Found, but what was said names something else: {messages[0]}"
    if stopped_before(damage.kind, detected_at):
        message = f"Found at {detected_at} already, so that comparing rows was not seen red: {naming or messages[0]}"
        return detected_at, Verdict.WARN, message
    return detected_at, Verdict.OK, naming or messages[0]


def judge_missed(damage: Damage, last: LevelOutcome) -> tuple[DetectedAt | None, Verdict, str]:
    """What is said of damage that nothing found."""
    return None, Verdict.ALERT, f"NOT FOUND: {damage.what} passed up to {last.level}. {_BLIND}"


def _names(text: str, name: str) -> bool:
    """Whether a text names a part or a table, and not one whose name only holds it."""
    return re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text) is not None


def _first(findings: Iterable[Finding]) -> str:
    return next((finding.message for finding in findings if finding.verdict is not Verdict.OK), "nothing was said")
