"""The cache beside the database (Redis, or Valkey, which speaks the same)."""

from keepwell.cache.beside import BesideLoader, KeyRemover, require_empty
from keepwell.cache.keys import KeyRecord, ServerFacts, read_keys, read_server
from keepwell.cache.loading import KeyLoader
from keepwell.cache.probe import CacheFacts, read_facts
from keepwell.cache.rehearsal import CacheRehearsal, ComparedKey, Comparison
from keepwell.cache.scratch import choose_cache_program, find_cache_programs, throwaway_cache

__all__ = [
    "BesideLoader",
    "CacheFacts",
    "CacheRehearsal",
    "ComparedKey",
    "Comparison",
    "KeyLoader",
    "KeyRecord",
    "KeyRemover",
    "ServerFacts",
    "choose_cache_program",
    "find_cache_programs",
    "read_facts",
    "read_keys",
    "read_server",
    "require_empty",
    "throwaway_cache",
]
