"""Those who are told: a notification channel and a dead-man's switch of our own, both on loopback."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHANNEL_PASSWORD = "marked-password-of-the-channel"
CHANNEL_TOKEN = "Marked0Token0Of0The0Channel"
SWITCH_TOKEN = "Marked0Token0Of0The0Switch"


@dataclass
class People:
    """What reached them.

    Attributes:
        told: Messages, oldest first.
        pings: How often the dead-man's switch was asked.
    """

    told: list[dict[str, Any]] = field(default_factory=list)
    pings: int = 0

    @property
    def alarms(self) -> list[dict[str, Any]]:
        """All but the one good word: that the first backup is proven."""
        return [message for message in self.told if not message["title"].endswith(": backups are proven")]


@contextmanager
def listening_people(platform_file: Path, folder: Path) -> Iterator[People]:
    """Let a platform file name them for as long as the block; their addresses hold marked secrets.

    Args:
        platform_file: Restored afterwards.
        folder: For the files that it names.
    """
    before = platform_file.read_text()
    with _serve() as (people, place):
        (folder / "urls").write_text(f"json://keepwell:{CHANNEL_PASSWORD}@{place}/{CHANNEL_TOKEN}")
        (folder / "switch").write_text(f"http://{place}/{SWITCH_TOKEN}")
        platform_file.write_text(
            f'{before}\n[notify]\nurls_file = "{folder / "urls"}"\ndead_mans_switch_url_file = "{folder / "switch"}"\n'
        )
        try:
            yield people
        finally:
            platform_file.write_text(before)


@contextmanager
def _serve() -> Iterator[tuple[People, str]]:
    people = People()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == f"/{CHANNEL_TOKEN}"
            people.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._accept()

        def do_GET(self) -> None:
            assert self.path == f"/{SWITCH_TOKEN}"
            people.pings += 1
            self._accept()

        def _accept(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield people, f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
