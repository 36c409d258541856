"""Writing, proving and choosing backup sets: thin steps around `keepwell.backup`."""

import random
from collections.abc import Mapping
from enum import StrEnum

from prefect import get_run_logger

from keepwell.backup.catalogue import choose_backup, read_catalogue
from keepwell.backup.create import create_backup
from keepwell.backup.preflight import require_ready as engine_require_ready
from keepwell.backup.proof import Proof
from keepwell.backup.verify import verify_backup
from keepwell.destination import Destination
from keepwell.errors import KeepwellError, VerificationFailed
from keepwell.holding import Hold, hold_sets
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.destinations import open_destination
from keepwell.verdict import Finding
from tasks import platforms
from tasks.artifacts import shown_progress
from tasks.interlock_steps import keep_turn
from tasks.retries import HOUR_SECONDS, MINUTE_SECONDS, step


class Which(StrEnum):
    """Which backup sets to verify."""

    NEWEST = "newest"
    NEWEST_AND_RANDOM_OLDER = "newest-and-random-older"
    ALL = "all"
    ONE = "one"


@step("look whether a backup could finish", timeout_seconds=25 * HOUR_SECONDS)
def require_ready(platform: str) -> tuple[Finding, ...]:
    """Look at the source, the tools and the disk while nothing has been changed yet; wait for a migration at work.

    Returns:
        What does not stop a backup but is worth knowing.

    Raises:
        PreconditionFailed: The run could not finish.
    """
    logger = get_run_logger()
    ready = engine_require_ready(platforms.load(platform), lambda moment: logger.info("Now %s.", moment.stage))
    for finding in ready.findings:
        logger.warning("%s: %s %s", finding.name, finding.message, finding.hint)
    return ready.findings


@step("dump and store", timeout_seconds=12 * HOUR_SECONDS)
def write(platform: str, hold: Hold) -> str:
    """Dump a platform's data into a new backup set.

    Args:
        platform: Its name.
        hold: The platform's turn. What makes a second attempt necessary may have cost it, so each one looks first.

    Returns:
        The set's id.

    Raises:
        KeepwellError: No set was written.
    """
    loaded = platforms.load(platform)
    keep_turn(hold)
    with shown_progress(f"{platform}-backup-progress") as progress:
        manifest = create_backup(loaded, open_store(loaded), progress)
    get_run_logger().info(
        "Stored %s: %d relations, %d rows, %d bytes in %.1f s.",
        manifest.backup_id,
        len(manifest.tables),
        manifest.rows,
        manifest.stored_bytes,
        manifest.seconds.total,
    )
    return manifest.backup_id


@step("prove {backup_id}", timeout_seconds=24 * HOUR_SECONDS)
def prove(
    platform: str, backup_id: str, *, all_uploads: bool = False, destination: Destination = Destination.FIRST
) -> Proof:
    """Read a set back from the store, restore it on a scratch server, and compare it with its source.

    Args:
        platform: Its name.
        backup_id: Which set.
        all_uploads: Read every uploaded file back; a night reads new ones, and a slice of the rest.
        destination: Where it is read back from.

    Returns:
        The proof; damage is what it says, not an error.

    Raises:
        KeepwellError: The set could not be verified at all.
    """
    loaded = platforms.load(platform)
    store = open_destination(loaded, destination)
    # No set is removed while this one is read.
    with hold_sets(loaded, store), shown_progress(f"{platform}-proof-progress") as progress:
        proof = verify_backup(loaded, store, backup_id, progress, all_uploads=all_uploads)
    get_run_logger().info(
        "%s reached %s in %s; verdict %s.", backup_id, proof.reached or "no level", store.place, proof.verdict
    )
    return proof


def try_to_prove(platform: str, backup_id: str, destination: Destination = Destination.FIRST) -> Proof | str:
    """As `prove`, every uploaded file included, but a set that cannot be verified does not keep the others from it.

    Returns:
        The proof, or why there is none.
    """
    try:
        return prove(platform, backup_id, all_uploads=True, destination=destination)
    except KeepwellError as error:
        return str(error)


@step("choose sets: {which}", timeout_seconds=10 * MINUTE_SECONDS)
def choose(
    platform: str, which: Which, backup_id: str | None, destination: Destination = Destination.FIRST
) -> tuple[str, ...]:
    """The sets to verify, newest first, each once.

    Args:
        platform: Its name.
        which: Which sets.
        backup_id: For `one`; the second destination need not have it.
        destination: Where they lie.

    Raises:
        PreconditionFailed: There is no such set.
    """
    loaded = platforms.load(platform)
    entries = read_catalogue(open_destination(loaded, destination))
    whole = [entry.backup_id for entry in entries if entry.manifest is not None]
    if which is Which.ONE and destination is not Destination.FIRST and backup_id not in whole:
        return ()
    words = {
        Which.NEWEST: ["newest"],
        # With one set only there is no older one, which is not a fault.
        Which.NEWEST_AND_RANDOM_OLDER: ["newest", "random-older"][: max(1, len(whole))],
        Which.ALL: whole or ["newest"],
        Which.ONE: [backup_id or "(none was named)"],
    }[which]
    level, dice = loaded.backup.proven_level, random.SystemRandom()
    return tuple(choose_backup(entries, word, proven_level=level, dice=dice) for word in words)


@step("require a proof", timeout_seconds=MINUTE_SECONDS)
def require_proven(platform: str, outcomes: Mapping[str, Proof | str]) -> None:
    """Go on only when every set counts as a backup.

    Args:
        platform: Its name.
        outcomes: Backup id to its proof, or to why there is none; at least one.

    Raises:
        VerificationFailed: At least one set does not count, or there was none.
    """
    wanted = platforms.load(platform).backup.proven_level
    short = [
        f"{backup_id}: {_describe_shortfall(outcome)}"
        for backup_id, outcome in outcomes.items()
        if isinstance(outcome, str) or not outcome.proves(wanted)
    ]
    if short or not outcomes:
        raise VerificationFailed(
            f"{len(short)} of {len(outcomes)} backup sets are not proven ({wanted} is wanted): {'; '.join(short)}",
            hint="Do not rely on them. The run's evidence page says which level failed and why.",
        )


def _describe_shortfall(outcome: Proof | str) -> str:
    if isinstance(outcome, str):
        return outcome
    last = outcome.levels[-1] if outcome.levels else None
    reached = outcome.reached or "no level"
    return f"reached {reached}; {last.level} {last.verdict}: {last.summary}" if last else f"reached {reached}"
