"""Evidence for people, as markdown: what is safe, since when, and how long a restore would take. Pure.

Every verdict is a sign and a word, so that nothing rests on colour; and whatever is not known says so.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from keepwell.backup import layout
from keepwell.backup.catalogue import BackupEntry
from keepwell.backup.database import Database, Table
from keepwell.backup.freshness import Notice, is_bad
from keepwell.backup.manifest import Manifest, UploadedFiles, describe_snapshots
from keepwell.backup.proof import LEVELS, LevelOutcome, Proof
from keepwell.destination import Destination
from keepwell.evidence import Evidence
from keepwell.notify import Message
from keepwell.quantities import describe_bytes, describe_seconds
from keepwell.settings import ProofLevel
from keepwell.verdict import Finding, Verdict, worst

_SIGNS = {
    Verdict.OK: "✓ ok",
    Verdict.WARN: "! warn",
    Verdict.ALERT: "✗ ALERT",
    Verdict.UNKNOWN: "? unknown",
    Verdict.NOT_APPLICABLE: "– not applicable",
}
# States whose names say little to somebody who was just woken up.
_ENDED = {
    "Failed": "failed",
    "Crashed": "was killed or crashed",
    "TimedOut": "took too long and was ended",
    "Late": "has not started",
    "SecondFailed": "is proven in the first destination, and failed in the second",
}
# How the orchestrator begins what it says of an exception; the rest is the exception's own text.
_ORCHESTRATORS_WORDS = re.compile(r"^(?:Flow|Task) run encountered an exception: \w+: ")
_TABLES_SHOWN = 25
_SETS_SHOWN = 10
# PostgreSQL's limit of a name, counted in bytes.
_NAME_BYTES = 63
# What markdown would take for itself: anywhere, and at the beginning of a line.
_MARKDOWN = re.compile(r"([\\`*_\[\]|~])|^([-+#])")


@dataclass(frozen=True)
class FailureFacts:
    """A run that failed, and what it leaves safe.

    Attributes:
        platform: Its name.
        procedure: The flow's dashed name.
        run_name: As the orchestrator shows it.
        state: How it ended, such as `Failed` or `Crashed`.
        cause: The state's message, without secrets.
        safe: From `describe_safety`.
        next_command: What to type.
        run_url: Page of the run; empty when not known.
        since: When it ended so, or was due; None when not known.
    """

    platform: str
    procedure: str
    run_name: str
    state: str
    cause: str
    safe: str
    next_command: str
    run_url: str = ""
    since: datetime | None = None


def render_backup(
    manifest: Manifest, proof: Proof, earlier: Sequence[Manifest], *, platform: str, proven_level: ProofLevel
) -> str:
    """The evidence page of one backup run.

    Args:
        manifest: Of the set.
        proof: Of this run.
        earlier: Manifests of older sets, newest first; may be empty.
        platform: Its name, for the restore command.
        proven_level: From which level the set counts as a backup.
    """
    return "\n\n".join(
        [
            _render_headline(manifest, proof, proven_level),
            "## Restore it\n\n" + _code_block("\n".join(build_restore_commands(manifest, platform))),
            "## Levels\n\n" + _render_levels(proof),
            *render_findings(proof.findings),
            *_render_databases(manifest),
            "## Tables\n\n" + _render_tables(manifest, proof),
            "## Beside the database\n\n" + "\n".join(f"- {escape(line)}" for line in describe_companions(manifest)),
            "## Size\n\n" + _render_sizes(manifest, earlier),
            "## How it was done\n\n" + _render_means(manifest, proof),
        ]
    )


def render_verification(
    outcomes: Mapping[str, Proof | str], evidence: Evidence, *, platform: str, proven_level: ProofLevel
) -> str:
    """The evidence page of a verification of several sets.

    Args:
        outcomes: Backup id to its proof, or to the reason why there is none.
        evidence: What was concluded.
        platform: Its name.
        proven_level: From which level a set counts as a backup.
    """
    parts = [f"# Verified backups of {escape(platform)}: {sign(evidence.verdict)}", escape(evidence.summary)]
    for backup_id, outcome in outcomes.items():
        if isinstance(outcome, str):
            parts.append(f"## {escape(backup_id)}: {sign(Verdict.UNKNOWN)}\n\n{escape(outcome)}")
            continue
        word = "proven" if outcome.proves(proven_level) else "NOT PROVEN"
        title = f"## {escape(backup_id)}: {word} ({outcome.reached or 'no level'})"
        parts.append(f"{title}\n\n{_render_levels(outcome)}")
        parts += render_findings(outcome.findings)
    return "\n\n".join(parts)


def render_check(evidence: Evidence, *, platform: str) -> str:
    """The evidence page of a check: its verdict, then finding by finding."""
    parts = [f"# Backups of {escape(platform)}: {sign(evidence.verdict)}", escape(evidence.summary)]
    if evidence.bad_since:
        parts.append(f"Bad since {_moment(evidence.bad_since)}.")
    return "\n\n".join([*parts, *render_findings(evidence.findings)])


def render_second(evidence: Evidence, *, platform: str) -> str:
    """The evidence page of what was carried to the second destination."""
    title = f"# Second destination of {escape(platform)}: {sign(evidence.verdict)}"
    return "\n\n".join([title, escape(evidence.summary), *render_findings(evidence.findings)])


def render_failure(facts: FailureFacts) -> str:
    """The page of a failed run: cause, what is still safe, next command."""
    page = f"\n\n[The run]({facts.run_url})" if facts.run_url else ""
    title = escape(f"{facts.procedure} of {facts.platform} {_ENDED.get(facts.state, f'ended {facts.state}')}")
    return (
        f"# {sign(Verdict.ALERT)}: {title}\n\n"
        f"**What happened:** {escape(facts.cause)}\n\n"
        f"**Still safe:** {escape(facts.safe)}\n\n"
        f"**Next:**\n\n{_code_block(facts.next_command)}{page}"
    )


def build_check_message(
    findings: Sequence[Finding], notice: Notice, *, platform: str, safe: str, bad_since: datetime | None
) -> Message:
    """What people are told of a check.

    Args:
        findings: Of the check.
        notice: Why they are told.
        platform: Its name.
        safe: From `describe_safety`.
        bad_since: When the bad state was first seen; None when it is over.
    """
    if notice is Notice.RECOVERED:
        cause = "The check finds nothing bad any more."
        return Message(f"{platform}: backups are fine again", cause, safe, "Nothing to do.", Verdict.OK)
    bad = [finding for finding in findings if is_bad(finding.verdict)]
    return Message(
        title=f"{platform}: backups {'still need' if notice is Notice.STILL_BAD else 'need'} you",
        cause=" ".join(finding.message for finding in bad),
        still_safe=safe,
        next_command=next((finding.hint for finding in bad if finding.hint), "keepwell backup list"),
        verdict=worst(finding.verdict for finding in bad),
        since=_moment(bad_since) if bad_since else "",
        details=tuple(f"{sign(f.verdict)} {f.name}: {f.message}" for f in findings if f.verdict is not Verdict.OK),
    )


def build_failure_message(facts: FailureFacts) -> Message:
    """What people are told of a run that failed: what the error itself advises comes before the next try."""
    cause, _, hint = _ORCHESTRATORS_WORDS.sub("", facts.cause).partition(" Hint: ")
    return Message(
        title=f"{facts.platform}: {facts.procedure} {_ENDED.get(facts.state, f'ended {facts.state}')}",
        cause=cause,
        still_safe=facts.safe,
        next_command=f"{hint} Then: {facts.next_command}" if hint else facts.next_command,
        since=_moment(facts.since) if facts.since else "",
        details=(f"Run: {facts.run_name} {facts.run_url}".strip(),),
    )


def build_first_message(
    manifest: Manifest, proof: Proof, *, platform: str, is_watched: bool, is_oldest: bool
) -> Message:
    """What people are told of the first proven set, and once: that all of it works, and what silence means now.

    Args:
        manifest: Of the set.
        proof: Of the set, by which it is proven.
        platform: Its name.
        is_watched: Whether a dead-man's switch hears of each proven backup.
        is_oldest: Whether there is no older set, so that it may be called the first backup.
    """
    silence = (
        "The dead-man's switch tells you when all of this falls silent."
        if is_watched
        else "Nothing tells you yet when this machine itself falls silent: that takes a dead-man's switch."
    )
    return Message(
        title=f"{platform}: backups are proven",
        cause=(
            f"The {'first ' if is_oldest else ''}backup ({manifest.rows:,} rows of {database_word(manifest)} "
            f"{describe_names(manifest)}) was read back from the store, restored and proven {proof.reached}. From now "
            f"on you hear of failures only. {silence}"
        ),
        still_safe=f"the data as of {describe_snapshots(manifest)}; {_restore_time(proof)}.",
        next_command="nothing to do." if is_watched else "set notify.dead_mans_switch_url_file, then: keepwell doctor",
        verdict=Verdict.OK,
        details=(
            f"Set: {manifest.backup_id}",
            f"Restore: {' && '.join(build_restore_commands(manifest, platform))}",
        ),
    )


def describe_safety(entries: Sequence[BackupEntry], proven_level: ProofLevel) -> str:
    """What a restore could bring back right now, one sentence.

    Args:
        entries: Newest first; may be empty.
        proven_level: From which level a set counts as a backup.
    """
    newest = next((entry for entry in entries if entry.is_proven(proven_level) and entry.manifest), None)
    if newest is None or newest.manifest is None or newest.proof is None:
        return f"nothing is proven: none of {len(entries)} backup sets counts as a backup."
    return (
        f"the data as of {_moment(newest.manifest.snapshot_at)} (set {newest.backup_id}, {newest.level}); "
        f"{_restore_time(newest.proof)}."
    )


def build_restore_commands(
    manifest: Manifest, platform: str, destination: Destination = Destination.FIRST
) -> list[str]:
    """The commands that restore a set's databases into new ones, ready for a shell, the main one first."""
    return [
        _build_restore_command(manifest.backup_id, database, platform, destination) for database in manifest.databases
    ]


def _build_restore_command(backup_id: str, database: Database, platform: str, destination: Destination) -> str:
    suffix = f"_restored_{database.snapshot_at:%Y%m%d}"
    kept = database.name.encode()[: _NAME_BYTES - len(suffix)].decode(errors="ignore")
    argv = ["keepwell", "backup", "restore", backup_id]
    argv += [] if database.is_main else ["--database", database.name]
    argv += ["--into", kept + suffix, "--platform", platform]
    argv += [] if destination is Destination.FIRST else ["--destination", destination.value]
    return shlex.join(argv)


def describe_names(manifest: Manifest) -> str:
    """The databases of a set, for a sentence."""
    *others, last = [database.name for database in manifest.databases]
    return f"{', '.join(others)} and {last}" if others else last


def database_word(manifest: Manifest) -> str:
    """`database`, or `databases` where a set holds several."""
    return "database" if len(manifest.databases) == 1 else "databases"


def describe_databases(manifest: Manifest) -> list[str]:
    """One sentence for each database of a set that holds several; none for a set that holds one."""
    if len(manifest.databases) == 1:
        return []
    return [
        f"{database.name}: {len(database.tables)} tables, {database.rows:,} rows, "
        f"{describe_bytes(database.source.size_bytes)}, as of {_moment(database.snapshot_at)}"
        for database in manifest.databases
    ]


def describe_companions(manifest: Manifest) -> list[str]:
    """What a set holds beside its database, one sentence each; what is not in it is said to be not in it."""
    passwords = (
        "in the set."
        if manifest.role_passwords
        else "NOT in the set, since the backup's role may not read them; set them anew after a restore."
    )
    files = _describe_uploads(manifest.uploads)
    return [f"Roles: in the set; their passwords: {passwords}", f"Uploaded files: {files}", _describe_cache(manifest)]


def _describe_uploads(files: UploadedFiles | None) -> str:
    if files is None:
        return "NOT in the set, since no uploads folder is configured."
    left_out = f" {files.left_out} entries could NOT be included: {files.named_left_out[0]}." if files.left_out else ""
    return (
        f"{files.files:,} with {describe_bytes(files.size_bytes)} in {files.folders:,} folders, stored as "
        f"{files.contents:,} contents with {describe_bytes(files.stored_bytes)}, of which {files.sent_contents:,} with "
        f"{describe_bytes(files.sent_bytes)} were sent for this set; read from {_moment(files.began_at)} "
        f"on, in {describe_seconds(files.seconds)}.{left_out}"
    )


def _describe_cache(manifest: Manifest) -> str:
    keys = manifest.cache
    if keys is None:
        return "Redis: NOT in the set, since none is configured."
    types = ", ".join(f"{count:,} {kind}" for kind, count in keys.types.items()) or "none"
    when = f"from {_moment(keys.began_at)} on, in {describe_seconds(keys.seconds)}"
    return (
        f"Redis: {keys.records:,} keys of {keys.product.capitalize()} {keys.server_version} ({types}), "
        f"{keys.expiring:,} of which expire; read one by one {when}."
    )


def describe_sealing(manifest: Manifest) -> str:
    """How a set is sealed, in a few words: for how many recipients, or that it is not."""
    # The page on restoring holds no data, and is there for who has no key yet.
    parts = [part for part in manifest.parts if part.name != layout.RESTORE_PAGE]
    sealed = sum(1 for part in parts if part.encryption)
    if not sealed:
        return "NOT SEALED: whoever reads the bucket reads the data"
    recipients = (
        f"for {len(manifest.sealed_for)} recipients" if manifest.sealed_for else "for recipients it does not name"
    )
    if sealed < len(parts):
        return f"ONLY {sealed} of {len(parts)} objects are sealed with age, {recipients}"
    return f"Sealed with age {recipients}"


def sign(verdict: Verdict) -> str:
    """A verdict as a sign and a word."""
    return _SIGNS[verdict]


def render_findings(findings: Sequence[Finding]) -> list[str]:
    """A section with a table of findings; none where there are none."""
    if not findings:
        return []
    lines = ["| verdict | what | found | do |", "|---|---|---|---|"]
    lines += [f"| {sign(f.verdict)} | {escape(f.name)} | {escape(f.message)} | {escape(f.hint)} |" for f in findings]
    return ["## Findings\n\n" + "\n".join(lines)]


def escape(text: str) -> str:
    """Text that others wrote, so that markdown and HTML leave it alone; on one line."""
    plain = " ".join(text.split())
    return _MARKDOWN.sub(r"\\\g<0>", plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def _render_headline(manifest: Manifest, proof: Proof, wanted: ProofLevel) -> str:
    names = f"{database_word(manifest)} {escape(describe_names(manifest))}"
    held = f"{len(manifest.tables)} relations with {manifest.rows:,} rows of {names}"
    if manifest.uploads is not None:
        held += f", {manifest.uploads.files:,} uploaded files"
    if manifest.cache is not None:
        held += f", {manifest.cache.records:,} keys of Redis"
    if proof.proves(wanted):
        rest = f", except {len(manifest.unproven)} named below" if manifest.unproven else ""
        first = f"**Safe:** {held}, restored from the store and proven *{proof.reached}*{rest}."
    else:
        first = (
            f"**NOT SAFE:** {held} were stored, but this set does not count as a backup: "
            f"{_reached(proof)}, *{wanted}* is wanted ({sign(_shortfall(proof))})."
        )
    return (
        f"# {sign(_headline_verdict(proof, wanted))} {manifest.backup_id}\n\n"
        f"- {first}\n"
        f"- **Since:** {escape(describe_snapshots(manifest))}: what was written later is not in it.\n"
        f"- **A restore:** {_restore_time(proof)}."
    )


def _headline_verdict(proof: Proof, wanted: ProofLevel) -> Verdict:
    return Verdict.OK if proof.proves(wanted) else _shortfall(proof)


def _shortfall(proof: Proof) -> Verdict:
    """How bad it is that a set is not proven: damage is an alert, whatever else is unknown."""
    return Verdict.ALERT if proof.damaged else Verdict.UNKNOWN


def _reached(proof: Proof) -> str:
    return f"it reached {proof.reached}" if proof.reached else "it reached no level"


def _restore_time(proof: Proof) -> str:
    if proof.restore_seconds is None:
        return "nobody knows how long one takes: it did not come to a restore"
    return (
        f"one took {describe_seconds(proof.restore_seconds)}, measured {_moment(proof.finished_at)}, "
        "from the first byte read to the last level"
    )


def _render_levels(proof: Proof) -> str:
    lines = ["| level | verdict | what was checked | took |", "|---|---|---|---:|"]
    lines += [_level_row(outcome) for outcome in proof.levels]
    lines += [
        f"| {level} | {sign(Verdict.UNKNOWN)} | not tried: the level before did not pass | |"
        for level in LEVELS[len(proof.levels) :]
    ]
    return "\n".join(lines)


def _level_row(outcome: LevelOutcome) -> str:
    took = describe_seconds(outcome.seconds)
    return f"| {outcome.level} | {sign(outcome.verdict)} | {escape(outcome.summary)} | {took} |"


def _render_databases(manifest: Manifest) -> list[str]:
    """A section with a table of databases, where there are several."""
    if len(manifest.databases) == 1:
        return []
    lines = [
        "Each is as of a snapshot of its own: PostgreSQL has none across databases.",
        "",
        "| database | as of | relations | rows | size | set, decompressed |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {escape(database.name)} | {_moment(database.snapshot_at)} | {len(database.tables)} | {database.rows:,} "
        f"| {describe_bytes(database.source.size_bytes)} | {describe_bytes(manifest.content_bytes_of(database))} |"
        for database in manifest.databases
    ]
    return ["## Databases\n\n" + "\n".join(lines)]


def _render_tables(manifest: Manifest, proof: Proof) -> str:
    named = [(database.tell(table.qualified), table) for database in manifest.databases for table in database.tables]
    by_size = sorted(named, key=lambda one: (-one[1].size_bytes, one[0]))
    # Whatever is not shown equal is named, however small it is.
    statuses = {name: _table_status(name, table, proof) for name, table in by_size}
    shown = [
        (name, table)
        for place, (name, table) in enumerate(by_size)
        if place < _TABLES_SHOWN or statuses[name] != sign(Verdict.OK)
    ]
    lines = ["| table | rows | size | equal to the source |", "|---|---:|---:|---|"]
    lines += [
        f"| {escape(name)} | {'' if table.rows is None else f'{table.rows:,}'} "
        f"| {describe_bytes(table.size_bytes)} | {statuses[name]} |"
        for name, table in shown
    ]
    hidden = len(by_size) - len(shown)
    if hidden:
        lines.append(f"\nand {hidden} smaller ones, each {sign(Verdict.OK)}.")
    for database in manifest.databases:
        if why := database.large_objects.unproven:
            told = escape(database.tell("Large objects"))
            lines.append(f"\n{told}: {sign(Verdict.UNKNOWN)}: {escape(why)}.")
    return "\n".join(lines)


def _table_status(name: str, table: Table, proof: Proof) -> str:
    outcome = next((o for o in proof.levels if o.level == "equal"), None)
    named = next((f for f in outcome.findings if f.name == name), None) if outcome else None
    if table.unproven:
        return f"{sign(Verdict.UNKNOWN)}: {escape(table.unproven)}"
    if named is not None and named.verdict is not Verdict.OK:
        return sign(named.verdict)
    if outcome is None or outcome.verdict is Verdict.UNKNOWN:
        return f"{sign(Verdict.UNKNOWN)}: not compared"
    if table.rows is None:
        return f"{sign(Verdict.NOT_APPLICABLE)}: holds no rows of its own"
    return sign(Verdict.OK)


def _render_sizes(manifest: Manifest, earlier: Sequence[Manifest]) -> str:
    stored = f"{describe_bytes(manifest.stored_bytes)} stored, {describe_bytes(manifest.content_bytes)} decompressed"
    if not earlier:
        word, size = database_word(manifest).capitalize(), describe_bytes(manifest.source_bytes)
        return f"{stored}. {word}: {size}. No earlier set to compare with."
    # Another database in the set is no growth of it.
    alike = [older.content_bytes for older in earlier if _name_further(older) == _name_further(manifest)]
    usual = median(alike) if alike else 0
    ratio = f"{manifest.content_bytes / usual:.0%} of" if usual else "against an empty"
    compared = f"{ratio} the median of {len(alike)} earlier sets" if alike else "no earlier set held these databases"
    lines = [
        f"{stored}: {compared}.",
        "",
        "| as of | database | set, decompressed | rows |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {_moment(one.snapshot_at)} | {describe_bytes(one.source_bytes)} "
        f"| {describe_bytes(one.content_bytes)} | {one.rows:,} |"
        for one in [manifest, *earlier[: _SETS_SHOWN - 1]]
    ]
    hidden = len(earlier) + 1 - _SETS_SHOWN
    return "\n".join([*lines, *([f"\nand {hidden} older ones."] if hidden > 0 else [])])


def _name_further(manifest: Manifest) -> set[str]:
    return {database.name for database in manifest.databases if not database.is_main}


def _render_means(manifest: Manifest, proof: Proof) -> str:
    source, took = manifest.main.source, manifest.seconds
    timed = {"dump": took.dump, "counting and hashing": took.fingerprint, "upload": took.upload}
    steps = ", ".join(f"{step} {describe_seconds(seconds)}" for step, seconds in timed.items())
    major = {True: "of the source's major version", False: "of ANOTHER major version", None: ""}[proof.same_major]
    restored_on = f"{proof.server} {major}" if proof.server else "nothing: it did not come to a restore"
    return "\n".join(
        [
            f"- Source: PostgreSQL {escape(source.server_version)}{', a standby' if source.standby else ''}.",
            f"- Written with pg_dump {escape(manifest.tools.pg_dump)}: {steps}, in all {describe_seconds(took.total)}.",
            f"- Restored on {escape(restored_on)}; kept apart: {escape(proof.isolation or 'does not apply')}.",
            f"- {describe_sealing(manifest)}.",
            f"- Proof took {describe_seconds((proof.finished_at - proof.started_at).total_seconds())}.",
        ]
    )


def _code_block(text: str) -> str:
    """A fence longer than any that the text could hold."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
