"""Loading archived keys into a scratch server that keeps them, each compared as it reads there."""

from redis.exceptions import RedisError

from keepwell.cache.keys import KeyRecord, RawClient, digest_value, is_known, reading_call
from keepwell.cache.rehearsal import ComparedKey, Comparison, ScratchKeys, describe_refusal


class KeyLoader(ScratchKeys):
    """Leaves the keys there, for whoever uses them; what has expired is left out, as the server itself would."""

    def _compare_one(self, client: RawClient, record: KeyRecord) -> ComparedKey:
        expires_at_ms = record.expires_at_ms
        if expires_at_ms is not None and expires_at_ms <= self._now_ms:
            return ComparedKey(record, Comparison.EXPIRED)
        comparable = record.digest is not None and is_known(record.type)
        pipeline = client.pipeline(transaction=False)
        pipeline.execute_command("RESTORE", record.key, expires_at_ms or 0, record.payload, "ABSTTL")
        pipeline.execute_command("TYPE", record.key)
        pipeline.execute_command("PEXPIRETIME", record.key)
        if comparable:
            pipeline.execute_command(*reading_call(record.type, record.key))
        restored, kind, expiry, *reply = pipeline.execute(raise_on_error=False)
        if isinstance(restored, RedisError):
            return describe_refusal(record, str(restored))
        if kind == b"none" and expires_at_ms is not None:
            return ComparedKey(record, Comparison.EXPIRED)  # between loading and reading
        why = ""
        if kind != record.type.encode():
            why = "came back as another type"
        elif expires_at_ms is not None and expiry != expires_at_ms:
            why = "expires at another time"
        elif comparable and not _is_value(record, reply[0]):
            why = "has another value"
        if why:
            return ComparedKey(record, Comparison.DIFFERENT, why)
        if not comparable:
            return ComparedKey(record, Comparison.UNPROVEN, record.unproven or f"type {record.type}")
        return ComparedKey(record, Comparison.EQUAL)


def _is_value(record: KeyRecord, reply: object) -> bool:
    return not isinstance(reply, RedisError) and digest_value(record.type, reply, record.passing) == record.digest
