"""Which way to run a server is chosen, by what the machine allows."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from keepwell.errors import KeepwellError
from keepwell.postgres import confinement, isolation
from keepwell.postgres.binaries import Binaries
from keepwell.postgres.isolation import Isolation, isolate, unprivileged

PROGRAMS = Binaries(Path("/pg/bin"), (17, 2), "system")
Prefix = tuple[str, ...]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine on which only some programs work, seen by root or by an ordinary user."""

    def allow(*, root: bool, through: bool = True, works: tuple[str, ...] = (), runs: tuple[str, ...] = ()) -> None:
        monkeypatch.setattr(isolation.os, "geteuid", lambda: 0 if root else 1000)
        monkeypatch.setattr(confinement, "_can_confine", lambda: False)
        monkeypatch.setattr(isolation, "_let_nobody_through", lambda folder: through)
        monkeypatch.setattr(isolation, "_works", lambda prefix: describe(prefix) in works)
        monkeypatch.setattr(isolation, "_runs", lambda prefix, binaries, folder: describe(prefix) in runs)

    return allow


def describe(prefix: Prefix) -> str:
    """Programs in their order, and whether the last is without a network."""
    programs = [word for word in prefix if word in ("unshare", "setpriv")]
    return " ".join(programs) + (" without network" if "--net" in prefix else "")


@pytest.mark.parametrize(
    ("works", "runs", "prefix", "told"),
    [
        ((), ("unshare setpriv without network",), "unshare setpriv without network", "another user, no network"),
        ((), ("setpriv unshare without network",), "setpriv unshare without network", "another user, no network"),
        (("unshare", "unshare without network"), ("setpriv",), "setpriv", "another user, a socket only"),
        (("unshare", "unshare without network"), (), "unshare without network", "root, seemingly"),
        (("unshare",), (), "unshare", "root, seemingly"),
        (("setpriv",), (), "setpriv", "another user, a socket only"),
    ],
)
def test_root_runs_a_scratch_server_as_far_apart_as_the_machine_allows(
    works: tuple[str, ...], runs: tuple[str, ...], prefix: str, told: str, machine: Callable[..., None]
) -> None:
    machine(root=True, works=works, runs=runs)
    chosen = isolate(PROGRAMS, Path("/scratch"))
    assert describe(chosen.prefix) == prefix
    assert str(chosen).startswith(told)
    assert chosen.owns_its_files is told.startswith("another user")
    assert chosen.has_network is ("without network" not in prefix)


def test_root_by_name_only_takes_nobody_for_another_user_in_vain(machine: Callable[..., None]) -> None:
    """In a user namespace of one user there is nobody to become."""
    machine(root=True, through=False, works=("unshare without network",), runs=("unshare setpriv without network",))
    assert describe(isolate(PROGRAMS, Path("/scratch")).prefix) == "unshare without network"


@pytest.mark.parametrize("root", [True, False])
def test_a_trusted_server_gives_no_folder_away_where_it_need_not(root: bool, machine: Callable[..., None]) -> None:
    """The local stack may lie below /root, and its folders belong to whoever made it."""
    machine(root=root, works=("unshare", "setpriv"), runs=("unshare setpriv without network",))
    chosen = unprivileged()
    assert (describe(chosen.prefix), chosen.owns_its_files) == ("unshare" if root else "", False)


def test_root_without_any_way_to_be_less_is_told_so(machine: Callable[..., None]) -> None:
    machine(root=True)
    for choose in (unprivileged, lambda: isolate(PROGRAMS, Path("/scratch"))):
        with pytest.raises(KeepwellError, match="refuses to run as root"):
            choose()


def test_only_what_belongs_to_another_user_is_handed_over(tmp_path: Path) -> None:
    before = tmp_path.stat()
    Isolation((), "this user", has_network=True).hand_over(tmp_path)
    assert tmp_path.stat() == before
    if os.geteuid() == 0:
        Isolation((), "another user", has_network=True, owns_its_files=True).hand_over(tmp_path)
        assert tmp_path.stat().st_uid == isolation.UNPRIVILEGED_ID
