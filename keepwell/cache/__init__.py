"""The cache beside the database (Redis, or Valkey, which speaks the same)."""

from keepwell.cache.probe import CacheFacts, read_facts

__all__ = ["CacheFacts", "read_facts"]
