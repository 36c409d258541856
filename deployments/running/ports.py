"""Free ports on loopback, remembered, so that addresses stay the same from one start to the next."""

import random
import socket
from collections.abc import Callable, Iterable, Mapping

from keepwell.errors import ServiceUnavailable

HOST = "127.0.0.1"
# Below the range from which Linux takes the near ends of outgoing connections: those come and go.
_RANGE = range(20_000, 32_000)
_TRIES = 500


def is_free(port: int, host: str = HOST) -> bool:
    """Whether a server could listen on this port of an IPv4 address now; loopback by default."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        # As servers do: a connection of a server just stopped, in its last minute, takes no port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return False
    return True


def choose_ports(
    names: Iterable[str], recorded: Mapping[str, int], free: Callable[[int], bool] = is_free
) -> dict[str, int]:
    """A port for each name: the recorded one while it is free, otherwise a new one.

    Args:
        names: Who needs a port.
        recorded: Ports of an earlier start; names that nobody needs any more keep theirs.
        free: Whether a port can be had.

    Raises:
        ServiceUnavailable: Hardly a port is free.
    """
    chosen = dict(recorded)
    for name in names:
        if name not in recorded or not free(recorded[name]):
            chosen[name] = find_free_port(free, taken=chosen.values())
    return chosen


def find_free_port(free: Callable[[int], bool] = is_free, taken: Iterable[int] = ()) -> int:
    """Some free port on loopback that is not one of `taken`.

    Raises:
        ServiceUnavailable: Hardly a port is free.
    """
    excluded = set(taken)
    for _ in range(_TRIES):
        port = random.choice(_RANGE)
        if port not in excluded and free(port):
            return port
    raise ServiceUnavailable(
        f"No free port was found on {HOST} between {_RANGE.start} and {_RANGE.stop}.",
        hint="Stop servers that are not needed.",
    )
