"""The object store: whether the bucket can be used, and what it really does."""

from collections.abc import Callable, Iterator

from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError, NoCredentialsError, SSLError

from keepwell.doctor.clock import judge_clock
from keepwell.doctor.outcome import alert, not_checked, ok, warn
from keepwell.errors import KeepwellError
from keepwell.objectstore.capabilities import Answer, Capabilities, probe_capabilities
from keepwell.objectstore.store import BucketStore, open_store
from keepwell.settings import Platform
from keepwell.verdict import Finding

_ROTATED = "Were the keys rotated?"
_HINTS = {
    "InvalidAccessKeyId": f"The store does not know this access key id. {_ROTATED} Check bucket.access_key_id_file.",
    "SignatureDoesNotMatch": f"The secret does not fit the access key id. {_ROTATED} Check both files, and the region.",
    "ExpiredToken": "The credentials have run out: get new ones.",
    "RequestTimeTooSkewed": "This machine's clock is too far from the store's: let it take its time from NTP.",
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
    """Write, read, list and delete throw-away keys, and tell what the store was seen to do."""
    yield from examine_bucket(lambda: open_store(platform))


def examine_bucket(open_it: Callable[[], BucketStore]) -> Iterator[Finding]:
    """The same for any bucket.

    Args:
        open_it: May raise what is wrong with its settings.
    """
    try:
        store = open_it()
        seen = probe_capabilities(store)
    except KeepwellError as error:
        yield alert("bucket", error.message, hint=store_hint(error))
        yield not_checked("object store", "What the store can do was not checked: the bucket is out of reach.")
        return
    yield ok("bucket", f"{store.bucket}: written, read back equal, listed and removed.")
    yield from judge_capabilities(seen)


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
    facts = (
        f"Versions: {seen.versioning}. Retention: {seen.retention}; a locked version outlives a delete: "
        f"{seen.refuses_locked_delete}. If-None-Match is {condition}, and nothing rests on it."
    )
    if seen.retention is Answer.YES and seen.refuses_locked_delete is not Answer.YES:
        return alert(name, facts, hint="The store accepts a retention and deletes all the same: do not count on it.")
    if Answer.YES in (seen.versioning, seen.retention):
        return ok(name, facts)
    return ok(name, facts, hint="With versions or a retention, a stolen key could not destroy the backups.")
