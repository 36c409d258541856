"""The published JSON schemas of our documents, generated from their models.

python -m keepwell.schemas docs/schemas
"""

import json
import sys
from pathlib import Path

from pydantic import BaseModel

from keepwell.backup.expire import Expiring
from keepwell.backup.first_proven import FirstProven
from keepwell.backup.manifest import Manifest
from keepwell.backup.pins import Pin
from keepwell.backup.proof import Proof
from keepwell.drill.documents import Drill
from keepwell.drill.offline_key import OfflineKeyTrial
from keepwell.evidence import Evidence
from keepwell.incident.documents import Case, Entry
from keepwell.restore.journal import JournalStep, RestoreCase

# Name and format version; an old version's file is never changed again once it was released.
PUBLISHED: dict[str, type[BaseModel]] = {
    "manifest-3": Manifest,
    "proof-2": Proof,
    "evidence-1": Evidence,
    "pin-1": Pin,
    "expiring-1": Expiring,
    "first-proven-1": FirstProven,
    "restore-case-1": RestoreCase,
    "restore-step-1": JournalStep,
    "drill-1": Drill,
    "offline-key-trial-1": OfflineKeyTrial,
    "incident-case-1": Case,
    "incident-entry-1": Entry,
}


def render_schema(name: str) -> str:
    """One schema as it is published.

    Raises:
        KeyError: There is no document of that name.
    """
    schema = PUBLISHED[name].model_json_schema(mode="serialization")
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema, indent=2) + "\n"


def write_schemas(folder: Path) -> None:
    """Write every schema into a folder, which is made when it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PUBLISHED:
        (folder / f"{name}.json").write_text(render_schema(name), encoding="utf-8")


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
