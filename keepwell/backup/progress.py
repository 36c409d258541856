"""How far a backup, a proof or a restore is; see `keepwell.progress`, which every procedure shares."""

from keepwell.progress import Progress, Step, silent

__all__ = ["Progress", "Step", "silent"]
