"""What each key of a bucket must be allowed to do, as policies that S3 stores take. Pure.

A backup writes and reads, and takes away its own marks; it never has to delete what a set holds. So a writing key that
somebody stole destroys no backup, as long as the bucket keeps versions or locks them: it still may write over them.
"""

from collections.abc import Iterable
from typing import Any

from keepwell.backup import layout
from keepwell.objectstore.capabilities import PROBES
from keepwell.objectstore.lease import LEASES

# What a run must be able to take away again.
_PASSING = (layout.UNFINISHED, layout.EXPIRING, layout.PINS, layout.DAMAGED_UPLOADS, LEASES, PROBES)
_READ = ("s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention")
_LIST = ("s3:ListBucket", "s3:ListBucketVersions", "s3:GetBucketVersioning")
_WRITE = ("s3:PutObject", "s3:PutObjectRetention", "s3:AbortMultipartUpload")


def build_policies(bucket: str, folder: str) -> dict[str, dict[str, Any]]:
    """A policy for each of the three keys: `writing`, `reading` and `expiring`.

    Args:
        bucket: Its name.
        folder: The platform's, ending with a slash.

    Returns:
        JSON documents. The bucket is listed whole: asking for an object that is not there needs that.
    """
    whole = [f"arn:aws:s3:::{bucket}"]

    def below(*folders: str) -> list[str]:
        return [f"arn:aws:s3:::{bucket}/{folder}{name}*" for name in folders]

    reading = (_allow(_LIST, whole), _allow(_READ, below("")))
    return {
        "writing": _policy(
            *reading,
            _allow(("s3:ListBucketMultipartUploads",), whole),
            _allow(_WRITE, below("")),
            _allow(("s3:DeleteObject", "s3:DeleteObjectVersion"), below(*_PASSING)),
        ),
        "reading": _policy(*reading),
        "expiring": _policy(_allow(("s3:DeleteObject",), below(layout.BACKUPS, layout.UPLOADS))),
    }


def _policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _allow(actions: Iterable[str], resources: list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": resources}
