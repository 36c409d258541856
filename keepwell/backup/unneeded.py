"""Which contents of uploaded files may go, since no set needs them any more. Pure.

A content lies once for all sets, so it outlives the set that sent it and goes only when the last set that names it has
gone. What was stored lately stays: a run that died may have sent it, and the next one will need it.
"""

import hashlib
import json
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from keepwell.backup import layout
from keepwell.objectstore.store import StoredObject
from keepwell.settings import RetentionSettings
from keepwell.verdict import Finding, Verdict

_NAMED = 3
# The folder of a content is the beginning of its name; nothing else in there is of our making.
_CONTENT = re.compile(rf"{re.escape(layout.UPLOADS)}([0-9a-f]{{2}})/(\1[0-9a-f]{{62}}(?:\.zst)?(?:\.age)?)")


@dataclass(frozen=True)
class Unneeded:
    """Contents that no set needs.

    Attributes:
        remove: Those that go, oldest first.
        marks: Keys of the marks of damage whose contents are gone already.
        findings: What is worth knowing, and why nothing goes.
    """

    remove: tuple[StoredObject, ...] = ()
    marks: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Of what goes."""
        return sum(content.size_bytes for content in self.remove)

    @property
    def digest(self) -> str:
        """The same when, and only when, the same contents go."""
        going = sorted((content.key, content.size_bytes) for content in self.remove)
        return hashlib.sha256(json.dumps(going).encode()).hexdigest()


NOTHING_UNNEEDED = Unneeded()


def plan_unneeded(
    stored: Sequence[StoredObject], needed: Container[str], rules: RetentionSettings, now: datetime
) -> Unneeded:
    """Decide which contents go.

    Args:
        stored: Everything below the folder of contents, any order.
        needed: Keys that the index of at least one remaining set names; that of every such set was read.
        rules: How long a content stays that no set needs, and how many go at once.
        now: Aware.

    Returns:
        Contents of our own making only, none that is needed, none that is younger than the rules say.
    """
    oldest_kept = find_oldest_kept(rules, now)
    foreign = [one.key for one in stored if not is_content(one.key)]
    due = sorted(
        (one for one in stored if is_content(one.key) and one.modified_at < oldest_kept and one.key not in needed),
        key=lambda one: (one.modified_at, one.key),
    )
    removed = due[: rules.most_upload_removals]
    findings = []
    if len(due) > len(removed):
        findings.append(
            Finding(
                name="uploads held back",
                verdict=Verdict.OK,
                message=f"{len(due):,} contents of uploaded files are needed by no set, and a run removes"
                f" {len(removed):,} at most, the oldest first.",
            )
        )
    if foreign:
        named = ", ".join(ascii(key) for key in foreign[:_NAMED])
        findings.append(
            Finding(
                name="uploads folder",
                verdict=Verdict.WARN,
                message=f"{len(foreign):,} objects in {layout.UPLOADS} are not of our making, and are left:"
                f" {named}{' and others' if len(foreign) > _NAMED else ''}.",
                hint="Find out who writes there; what is worth nothing, remove by hand.",
            )
        )
    return Unneeded(tuple(removed), findings=tuple(findings))


def find_oldest_kept(rules: RetentionSettings, now: datetime) -> datetime:
    """What was stored before this moment may go: a day's beginning, so that a plan holds for as long as its day."""
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today - timedelta(days=rules.unneeded_uploads_days)


def is_content(key: str) -> bool:
    """Whether an object is a content of our own making, by its name."""
    return _CONTENT.fullmatch(key) is not None


def find_content_key(mark: str) -> str:
    """The content that a mark of damage speaks of."""
    name = mark.removeprefix(layout.DAMAGED_UPLOADS)
    return layout.content_folder(name) + name


def keep_all(why: str, hint: str) -> Unneeded:
    """Nothing goes, since it cannot be told what is needed."""
    return Unneeded(
        findings=(
            Finding(
                name="uploads",
                verdict=Verdict.WARN,
                message=f"No content of uploaded files is removed, since not every set can tell what it needs: {why}",
                hint=hint,
            ),
        )
    )
