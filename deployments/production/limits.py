"""What keeps the orchestrator from being in the platform's way on a small machine; inherited by all that it starts."""

import os
import resource
from contextlib import suppress
from pathlib import Path

# Below the platform, above what a backup's own tools take.
NICE = 5
# When memory runs out, the kernel ends one of us before the platform's database; we are started again.
OUT_OF_MEMORY_SCORE = 300
_SCORE_FILE = Path("/proc/self/oom_score_adj")


def stand_back() -> None:
    """Let the platform go first in processor time and memory, and leave no dump of our memory, which holds secrets.

    A limit that this machine does not let us set is left as it is: some containers allow none.
    """
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))
    with suppress(OSError, ValueError):
        _SCORE_FILE.write_text(str(max(OUT_OF_MEMORY_SCORE, int(_SCORE_FILE.read_text()))))
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
