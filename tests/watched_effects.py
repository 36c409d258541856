"""Everything that a run does to the world outside of it, as a list of effects, with a chance to strike at each of them.

What changes the store is seen at the S3 client, so that no method of ours has to be remembered here; programs that are
started and folders that are made, moved and removed are seen by Python's audit hook, which tells only before.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from keepwell.objectstore.store import BucketStore, Store

Strike = Callable[[str, str], None]

# What boto3 calls them, and how they are told; everything that reads has another name.
_CHANGES = {
    "put_object": "put",
    "copy_object": "copy to",
    "copy": "copy to",
    "upload_file": "put",
    "upload_fileobj": "put",
    "create_multipart_upload": "begin upload of",
    "upload_part": "send part of",
    "complete_multipart_upload": "complete upload of",
    "abort_multipart_upload": "give up upload of",
    "delete_object": "delete",
    "put_object_retention": "lock",
    "put_object_legal_hold": "lock",
    "put_object_tagging": "tag",
}
_READS = ("get_", "head_", "list_", "can_", "generate_", "meta", "close", "exceptions", "waiter_names", "_")
# Names that differ from run to run, as they are told: ids, times, random ends, hashes, numbers of tables.
_VARYING = (
    (re.compile(r"\d{8}T\d{6}(\.\d+)?Z-[0-9a-f]{6}"), "<id>"),
    (re.compile(r"uploads/[0-9a-f]{2}/[0-9a-f]{64}"), "uploads/<content>"),
    (re.compile(r"(leases/\w+)-.*\.json"), r"\1-<token>.json"),
    (re.compile(r"(keepwell-[a-z]+-)\w+"), r"\1<random>"),
    (re.compile(r"database/\d+\.dat"), "database/<table>.dat"),
)
_PROGRAMS = ("pg_dumpall", "pg_dump", "pg_restore", "pg_amcheck", "initdb", "postgres", "redis-server", "valkey-server")
# Events of Python's, and which of their arguments names what is changed.
_ON_FOLDERS = {"os.mkdir": 0, "shutil.rmtree": 0, "os.symlink": 1, "os.rename": 1}
_ALWAYS = ("os.symlink", "os.rename")


def named(text: str) -> str:
    """An effect as it is called in every run."""
    for pattern, shown in _VARYING:
        text = pattern.sub(shown, text)
    return text


class WatchedClient:
    """An S3 client whose every change of the store is told before and after.

    A deletion of many objects is one effect for each, since a store may die between any two.
    """

    def __init__(self, client: Any, root: str, strike: Strike) -> None:
        self._client, self._root, self._strike = client, root, strike

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name == "delete_objects":
            return self._delete_objects
        if name in _CHANGES:
            return lambda *plain, **call: self._do(
                f"{_CHANGES[name]} {str(call.get('Key', plain[-1] if plain else '')).removeprefix(self._root)}",
                lambda: found(*plain, **call),
            )
        assert name.startswith(_READS), f"{name} is neither known to change the store nor to leave it alone"
        return found

    def _delete_objects(self, *, Bucket: str, Delete: dict[str, Any]) -> dict[str, Any]:  # noqa: N803 - boto3's names
        errors: list[Any] = []
        for one in Delete["Objects"]:
            alone = {"Bucket": Bucket, "Delete": Delete | {"Objects": [one]}}
            answer = self._do(
                f"delete {one['Key'].removeprefix(self._root)}",
                lambda call=alone: self._client.delete_objects(**call),  # type: ignore[misc]
            )
            errors += answer.get("Errors", ())
        return {"Errors": errors} if errors else {}

    def _do(self, effect: str, call: Callable[[], Any]) -> Any:
        self._strike(named(effect), "before")
        result = call()
        self._strike(named(effect), "after")
        return result


def watched(store: Store, strike: Strike) -> Store:
    """The same folder of the same bucket, with every change of it told."""
    root = store.key("")
    return BucketStore(WatchedClient(store.client, root, strike), store.bucket, root, store.seal)


def watch_machine(strike: Strike, places: Sequence[Path]) -> None:
    """Tell of programs that this process starts, and of what it does to folders of ours in some places.

    There is no way back: an audit hook stays for as long as its process.

    Args:
        strike: Told before each.
        places: Where temporary files go.
    """

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen":
            argv = [Path(str(word)).name for word in arguments[1]]
            program = next((name for name in _PROGRAMS if name in argv), None)
            if program is not None and "--version" not in argv:
                strike(f"start {program}", "before")
        elif event in _ON_FOLDERS:
            # A link is made at its second path, and a move ends there.
            path = Path(str(arguments[_ON_FOLDERS[event]]))
            if any(place in path.parents for place in places) and (
                event in _ALWAYS or path.name.startswith("keepwell")
            ):
                strike(f"{event.partition('.')[2]} {named(path.name)}", "before")

    sys.addaudithook(hook)
