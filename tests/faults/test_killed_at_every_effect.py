"""kill -9 before and after every effect of a whole backup and its proof, as a healthy run itself names them.

Each effect is one that shows outside of the process: an object or a part written, copied or deleted, a program started,
a folder made, moved or removed. A few runs die one after the other, each among the remains of those before; then one
must succeed, prove its set and clean up.
"""

import os
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from deadly_runs import Doomed, Ended


@dataclass(frozen=True)
class Strike:
    """Where a run dies: before or after an effect's nth time, in a backup or in a proof."""

    effect: str
    count: int
    moment: str
    proof: bool

    def __str__(self) -> str:
        return f"{self.moment} {self.effect} ({self.count}, {'proof' if self.proof else 'backup'})"


SMALL = ("CREATE TABLE people AS SELECT n AS id, md5(n::text) FROM generate_series(1, 100) n",)
# Nine megabytes that no compression makes fewer: more than one part.
LARGE = (
    *SMALL,
    (
        "CREATE TABLE noise AS SELECT string_agg(sha256((n || '-' || m)::text::bytea), '') AS body"
        " FROM generate_series(1, 30) n, generate_series(1, 9400) m GROUP BY n"
    ),
)
# What a run is known to do; a list without one of these was not recorded whole.
KINDS = {
    "put unfinished/",
    "put leases/",
    "put backups/<id>/database/<table>.dat",
    "put backups/<id>/database/toc.dat",
    "put backups/<id>/globals.sql",
    "put backups/<id>/schema.jsonl",
    "put backups/<id>/platform.toml",
    "put backups/<id>/RESTORE.md",
    "put backups/<id>/redis.jsonl",
    "put backups/<id>/uploads.jsonl",
    "put uploads/<content>",
    "put backups/<id>/manifest.json.sig",
    "put backups/<id>/manifest.json",
    "put backups/<id>/proofs/",
    "delete unfinished/",
    "delete leases/",
    "start pg_dump",
    "start pg_dumpall",
    "start pg_restore",
    "start initdb",
    "start postgres",
    "start pg_amcheck",
    "start valkey-server",
    "mkdir keepwell-spool-",
    "mkdir keepwell-scratch-",
    "rename lock",
    "symlink scratch",
    "rmtree keepwell-spool-",
    "rmtree keepwell-scratch-",
}
MULTIPART = ("begin upload of", "send part of", "complete upload of")


def record(doomed: Doomed) -> list[Strike]:
    """Every effect of a healthy backup and of its proof, with the moments at which it can be struck, in order."""
    write_new_file(doomed)
    written = doomed.run(prove=False)
    assert (written.status, written.wrote is not None) == (0, True)
    proven = doomed.run(backup=False, prove=str(written.wrote))
    assert (proven.status, proven.reached) == (0, "serving")
    doomed.proven.add(str(written.wrote))
    return [*list_strikes(written, proof=False), *list_strikes(proven, proof=True)]


def list_strikes(ended: Ended, *, proof: bool) -> Iterator[Strike]:
    met: Counter[str] = Counter()
    for told in ended.effects:
        met[told] += 1
        moment, _, effect = told.partition(" ")
        yield Strike(effect, met[told], moment, proof)


def write_new_file(doomed: Doomed) -> None:
    """A content that the store does not have yet, so that each run has one to send."""
    (doomed.uploads / "new.bin").write_bytes(secrets.token_bytes(2000))


def die(doomed: Doomed, strike: Strike) -> None:
    """One death, and what must hold right after it."""
    write_new_file(doomed)
    place = [strike.effect, strike.count, strike.moment]
    if strike.proof:
        # Of a set that is proven already: it must stay so.
        ended = doomed.run(backup=False, prove=max(doomed.proven), strike=place)
    else:
        ended = doomed.run(prove=False, strike=place)
    assert ended.status == -signal.SIGKILL, f"{strike}: no such effect, or it died otherwise: {ended}"
    assert ended.effects[-1] == f"{strike.moment} {strike.effect}"
    doomed.require_no_false_set(str(strike))


def die_and_recover(doomed: Doomed, strikes: Sequence[Strike]) -> None:
    for strike in strikes:
        die(doomed, strike)
    told = f"after dying {', '.join(map(str, strikes))}"
    doomed.recover(told)
    doomed.require_nothing_left(told)
    doomed.require_no_false_set(told)
    doomed.forget_sets()


def spread(strikes: Sequence[Strike], together: int) -> list[list[Strike]]:
    """Groups of early, middle and late ones, which together are all of them."""
    groups = -(-len(strikes) // together)
    return [list(strikes[number::groups]) for number in range(groups)]


@pytest.mark.timeout(600)
def test_a_run_killed_at_any_effect_loses_nothing_and_the_next_one_cleans_up(
    doomed: Callable[[str, Sequence[str]], Doomed],
) -> None:
    one, other, large = doomed("a", SMALL), doomed("b", SMALL), doomed("c", LARGE)
    strikes = record(one)
    effects = {strike.effect for strike in strikes}
    missing = {kind for kind in KINDS if not any(effect.startswith(kind) for effect in effects)}
    assert missing == set(), "these effects were not recorded"
    assert len(strikes) > 55
    record(other)
    in_parts = [strike for strike in record(large) if strike.effect.startswith(MULTIPART)]
    assert {kind for kind in MULTIPART if any(one.effect.startswith(kind) for one in in_parts)} == set(MULTIPART)

    waiting = spread(strikes, 5)
    groups = len(waiting)
    last = next(one for one in strikes if one.effect.startswith("delete leases/") and one.moment == "after")

    def share(own: Doomed) -> int:
        done = 0
        while waiting:
            die_and_recover(own, waiting.pop(0))
            done += 1
        # One more set whose run died with its last word, which nobody has proven.
        die(own, last)
        own.prove_what_was_left(str(last))
        return done

    def after_the_large_ones(own: Doomed) -> int:
        for group in spread(in_parts, 5):
            die_and_recover(large, group)
        return share(own)

    # Two at a time, for two cores: much of a run is waiting for a server.
    with ThreadPoolExecutor(2) as lanes:
        shares = [lanes.submit(share, one), lanes.submit(after_the_large_ones, other)]
        assert sum(done.result() for done in shares) == groups
    for doomed_one in (one, other, large):
        require_no_folder_is_left_for_ever(doomed_one)


def require_no_folder_is_left_for_ever(doomed: Doomed) -> None:
    """Folders whose runs died before they were locked are taken for living ones for ten minutes, and then go."""
    hour_ago = time.time() - 3600
    for place in doomed.places:
        for path in place.iterdir():
            os.utime(path, (hour_ago, hour_ago))
    ended = doomed.run()
    assert ended.reached == "serving"
    assert [path.name for place in doomed.places for path in place.iterdir()] == []
