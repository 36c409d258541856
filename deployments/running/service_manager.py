"""Telling systemd how we stand, where it started us and asked for that; elsewhere nobody listens."""

import os
import socket
from contextlib import suppress

SOCKET_VARIABLE = "NOTIFY_SOCKET"


def tell_service_manager(**states: str) -> None:
    """Send what `sd_notify` sends, such as READY="1"; a service manager that does not answer changes nothing for us."""
    address = os.environ.get(SOCKET_VARIABLE)
    if not address:
        return
    message = "\n".join(f"{name}={value}" for name, value in states.items())
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        # An address that begins with @ lies in no folder.
        manager.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        manager.sendall(message.encode())
