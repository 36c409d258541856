"""The object store: whether the bucket can be used, and what it really does."""

from collections.abc import Iterator
from datetime import UTC, datetime

from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError, NoCredentialsError, SSLError

from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.freshness import build_limits, describe_sets, judge_backups
from keepwell.doctor.clock import judge_clock
from keepwell.doctor.outcome import alert, guarded, not_applicable, not_checked, ok, warn
from keepwell.errors import KeepwellError
from keepwell.objectstore.bucket import DENIED_HINTS, BucketStore, open_bucket
from keepwell.objectstore.capabilities import Answer, Capabilities, judge_keeping, probe_capabilities
from keepwell.objectstore.forbidden import THROW_AWAY, Fate, try_to_delete, try_to_write
from keepwell.objectstore.keeping import build_keeping
from keepwell.settings import BucketSettings, Platform, RetentionSettings
from keepwell.verdict import Finding, Verdict

_ROTATED = "Were the keys rotated?"
_HINTS = {
    **DENIED_HINTS,
    "InvalidAccessKeyId": f"The store does not know this access key id. {_ROTATED} Check bucket.access_key_id_file.",
    "SignatureDoesNotMatch": f"The secret does not fit the access key id. {_ROTATED} Check both files, and the region.",
    "NoSuchBucket": "Check bucket.name, or create the bucket.",
    "PermanentRedirect": "The bucket lives in another region: check bucket.region and bucket.endpoint_url.",
    "AuthorizationHeaderMalformed": "The request was signed for another region: check bucket.region.",
    "IllegalLocationConstraintException": "The bucket lives in another region: check bucket.region.",
    "InvalidLocationConstraint": "The bucket lives in another region: check bucket.region.",
    "NotImplemented": "The store lacks something: try bucket.checksums = when_required.",
    "XAmzContentSHA256Mismatch": "Try bucket.checksums = when_required.",
}
_DENIED = f"{_ROTATED} Else its policy must allow get, put, list and delete below the platform's folder."


def examine_store(platform: Platform) -> Iterator[Finding]:
    """Write, read, list and delete throw-away keys, and tell what the store was seen to do, and what it holds."""
    reached = False
    for finding in examine_bucket(platform, platform.bucket):
        reached = reached or (finding.name == "bucket" and finding.verdict is Verdict.OK)
        yield finding
    if reached:
        yield from guarded("newest proven backup", lambda: [_examine_newest(platform)])


def _examine_newest(platform: Platform) -> Finding:
    """As the hourly check judges it; but a platform without any set is new until that check says otherwise."""
    limits = build_limits(platform)
    sets = describe_sets(read_catalogue(open_bucket(platform, platform.bucket)), limits.proven_level)
    if not sets:
        return warn(
            "newest proven backup",
            "There is no backup yet.",
            hint=f"Make the first one: keepwell backup create --platform {platform.name}",
        )
    return judge_backups(sets, limits, datetime.now(UTC))[0]


def examine_bucket(platform: Platform, bucket: BucketSettings) -> Iterator[Finding]:
    """The same for any bucket of the platform's."""
    try:
        store = open_bucket(platform, bucket)
        if not store.may_write:
            yield from _examine_by_reading(store)
            return
        seen = probe_capabilities(store)
    except KeepwellError as error:
        yield alert("bucket", error.message, hint=store_hint(error))
        yield not_checked("object store", "What the store can do was not checked: the bucket is out of reach.")
        return
    yield ok("bucket", f"{store.bucket}: written, read back equal, listed and removed.")
    yield from judge_capabilities(seen)
    yield from judge_keeping_asked(bucket, platform.retention, seen)
    yield from guarded("keys of the bucket", lambda: _examine_keys(bucket, store))


def _examine_by_reading(store: BucketStore) -> Iterator[Finding]:
    """A machine that only reads: what can be told without writing."""
    sets = [name for name in store.list_folders(layout.BACKUPS) if store.find(layout.manifest_key(name))]
    yield ok("bucket", f"{store.bucket}: {len(sets)} backup sets can be listed and looked at.")
    yield not_applicable(
        "object store",
        "What the store can do is tried by writing, and this machine has a key that only reads: sets are proven and"
        " restored here, and proofs are not kept.",
    )
    yield from guarded("reading key", lambda: [judge_reading_key(writes=try_to_write(store), fate=None)])


def _examine_keys(bucket: BucketSettings, store: BucketStore) -> Iterator[Finding]:
    """Whether each key is as weak as it should be."""
    if not (store.has_expiring_key or bucket.deletes_forbidden):
        yield not_applicable(
            "forbidden delete",
            "The key that writes may also delete sets, since no other key is configured for that.",
            hint="`keepwell bucket policies` prints policies for three keys, so that a stolen one destroys nothing.",
        )
        if store.reader is not store.client:
            yield judge_reading_key(writes=try_to_write(store), fate=None)
        return
    attempts = try_to_delete(store)
    yield judge_writing_key(attempts.writer, keeps_versions=store.keeps_versions(), locked=bool(bucket.lock_days))
    if attempts.reader is not None:
        yield judge_reading_key(writes=try_to_write(store), fate=attempts.reader)
    if attempts.left:
        yield judge_left(has_expiring_key=store.has_expiring_key)


def judge_writing_key(fate: Fate, *, keeps_versions: bool | None, locked: bool) -> Finding:
    """What a thief of the writing key could do to the sets.

    Args:
        fate: Of an object among the sets that the key tried to delete.
        keeps_versions: Whether the bucket keeps old versions; None when it does not say.
        locked: Whether sets are locked for a time.
    """
    name = "forbidden delete"
    if fate is Fate.DESTROYED:
        return alert(
            name,
            "The writing key deleted an object among the sets: a stolen writing key could destroy the backups.",
            hint="Give it a policy that does not let it: `keepwell bucket policies` prints one.",
        )
    if fate is Fate.HIDDEN:
        return warn(
            name,
            "The writing key hid an object among the sets behind a delete marker, and its version stayed: a stolen"
            " writing key could hide the backups, and not destroy them.",
            hint="Take s3:DeleteObject for this folder away from it: `keepwell bucket policies` prints a policy.",
        )
    if not (keeps_versions or locked):
        return warn(
            name,
            "The store refused to let the writing key delete among the sets; but the bucket keeps no versions, so a"
            " stolen writing key could still write over them.",
            hint="Switch versioning on, or create a bucket with Object Lock and set bucket.lock_days.",
        )
    return ok(name, "The store refused to let the writing key delete an object among the sets.")


def judge_reading_key(*, writes: bool, fate: Fate | None) -> Finding:
    """Whether the reading key only reads.

    Args:
        writes: Whether it wrote an object.
        fate: Of an object that it tried to delete; None where that was not tried.
    """
    did = [word for word, done in (("writes", writes), ("deletes", fate not in (None, Fate.REFUSED))) if done]
    if did:
        return alert(
            "reading key",
            f"The reading key {' and '.join(did)}: it is more than a key that reads.",
            hint="Give it a policy that only reads: `keepwell bucket policies` prints one.",
        )
    return ok("reading key", "The store refused to let the reading key write" + (" or delete." if fate else "."))


def judge_left(*, has_expiring_key: bool) -> Finding:
    """The object that was to be deleted, and is still there."""
    if has_expiring_key:
        return alert(
            "expiring key",
            f"The expiring key could not delete {THROW_AWAY}, so no expiry would remove anything.",
            hint="Let it delete below the folders of sets and uploads: `keepwell bucket policies` prints a policy.",
        )
    return ok(
        "throw-away object",
        f"{THROW_AWAY} is left: no key of this machine may remove it. The next look uses it again.",
    )


def judge_keeping_asked(bucket: BucketSettings, rules: RetentionSettings, seen: Capabilities) -> Iterator[Finding]:
    """Whether the store keeps what is asked of it for sets, and whether that fits what is asked of retention."""
    keeping = build_keeping(bucket)
    if not keeping.lock_days and keeping.storage_class is None:
        return
    fault = judge_keeping(
        keeping, locks=seen.retention_on_write, holds=seen.refuses_locked_delete, keeps=seen.storage_class
    )
    if fault is not None:
        yield alert("what is kept", fault.message, hint=fault.hint)
        return
    said = [f"locked for {keeping.lock_days} days ({bucket.lock_mode})"] if keeping.lock_days else []
    said += [f"of the class {keeping.storage_class}"] if keeping.storage_class else []
    yield ok("what is kept", f"The store was seen to keep what sets ask for: {', '.join(said)}.")
    if keeping.lock_days and bucket.lock_mode == "governance" and seen.bypasses_retention is Answer.YES:
        yield warn(
            "lock",
            "This key sets locks of the governance mode aside, and so could whoever steals it.",
            hint="Take s3:BypassGovernanceRetention away from it, or set bucket.lock_mode to compliance.",
        )
    if keeping.lock_days > rules.keep_days > 0:
        yield warn(
            "lock and retention",
            f"Sets are locked for {keeping.lock_days} days and due after {rules.keep_days}: they stay for the longer"
            " time, and so does what they cost.",
            hint="Set retention.keep_days to at least bucket.lock_days, or lock them for less.",
        )


def store_hint(error: KeepwellError) -> str:
    """What to do about a bucket that cannot be used, by the store's own code."""
    cause = error.__cause__
    if isinstance(cause, ClientError):
        return _answer_hint(cause) or error.hint
    if isinstance(cause, NoCredentialsError):
        return "Set bucket.access_key_id_file and bucket.secret_access_key_file."
    if isinstance(cause, SSLError):
        return "TLS failed: set bucket.ca_bundle to the authority that signed the store's certificate."
    if isinstance(cause, EndpointConnectionError | ConnectTimeoutError):
        return "Nothing answers at bucket.endpoint_url: is the store up, and does a firewall stand between?"
    return error.hint


def _answer_hint(answer: ClientError) -> str:
    code = str(answer.response.get("Error", {}).get("Code", ""))
    status = answer.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    by_status = {301: _HINTS["PermanentRedirect"], 401: _DENIED, 403: _DENIED}
    return _HINTS.get(code) or by_status.get(status, "")


def judge_capabilities(seen: Capabilities) -> Iterator[Finding]:
    """What the store was seen to do, judged by what backups need of it."""
    if seen.clock_offset_seconds is None:
        yield not_checked("store clock", "The store does not tell its time.")
    else:
        yield judge_clock("store clock", "the object store", seen.clock_offset_seconds)
    yield _judge_transfers(seen)
    yield _judge_damage(seen)
    yield _judge_deletes(seen)
    yield _judge_protection(seen)
    if seen.notes:
        yield ok("store's answers", " ".join(seen.notes))


def _judge_transfers(seen: Capabilities) -> Finding:
    name = "store transfers"
    if seen.multipart is not Answer.YES:
        return alert(
            name,
            f"Uploads in parts: {seen.multipart}. A table of more than 16 MiB could not be stored.",
            hint="Use a store with multipart uploads, and allow them to this key.",
        )
    if seen.ranged_reads is not Answer.YES:
        return warn(name, f"Reads of a range: {seen.ranged_reads}.", hint="An interrupted read starts anew there.")
    return ok(name, "Uploads in parts and reads of a range came back equal.")


def _judge_damage(seen: Capabilities) -> Finding:
    name = "store damage check"
    kinds = {
        "MD5": seen.refuses_bad_md5,
        "CRC32": seen.refuses_bad_crc32,
        "SHA-256": seen.refuses_bad_sha256,
    }
    refused = [kind for kind, answer in kinds.items() if answer is Answer.YES]
    if not refused:
        return warn(
            name,
            "The store keeps a body that contradicts its checksum.",
            hint="Keepwell reads back and compares what it wrote; other programs that write there may not.",
        )
    return ok(name, f"A damaged body was refused by {', '.join(refused)}.")


def _judge_deletes(seen: Capabilities) -> Finding:
    name = "store deletes"
    if seen.deletes is Answer.YES:
        return ok(name, "A deleted object was gone.")
    return warn(
        name,
        f"Deletes: {seen.deletes}.",
        hint="Leftovers of dead runs cannot be removed with this key; grant delete below the platform's folder.",
    )


def _judge_protection(seen: Capabilities) -> Finding:
    name = "store protection"
    condition = "kept" if seen.conditional_put is Answer.YES else "not kept"
    kept = f"Storage class {seen.storage_class_tried}: {seen.storage_class}"
    facts = (
        f"Versions: {seen.versioning}. Retention: {seen.retention}, when writing: {seen.retention_on_write}; a locked"
        f" version outlives a delete: {seen.refuses_locked_delete}. {kept}. If-None-Match is {condition}, and"
        " nothing rests on it."
    )
    retains = Answer.YES in (seen.retention, seen.retention_on_write)
    if retains and seen.refuses_locked_delete is not Answer.YES:
        return alert(name, facts, hint="The store accepts a retention and deletes all the same: do not count on it.")
    if retains or seen.versioning is Answer.YES:
        return ok(name, facts)
    return ok(name, facts, hint="With versions or a retention, a stolen key could not destroy the backups.")
