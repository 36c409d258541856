"""The sample platform's frontend: `python -m sample.frontend` serves one static page and a static /health.

Settings come from the environment: BACKEND_URL (the backend's address as the browser sees it), HOST, PORT.
"""

import html
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from sample.settings import SettingsError, whole_number


def render_page(backend_url: str) -> bytes:
    """The page, told where to find the backend."""
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return template.replace("{{backend_url}}", html.escape(backend_url.rstrip("/"), quote=True)).encode()


class FrontendServer(ThreadingHTTPServer):
    """Serves the same bytes to everyone."""

    def __init__(self, host: str, port: int, backend_url: str) -> None:
        self.page = render_page(backend_url)
        super().__init__((host, port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: FrontendServer
    timeout: ClassVar[float] = 10.0

    def do_GET(self) -> None:
        """Answer `/` with the page and `/health` with a constant, as nginx would."""
        if self.path == "/health":
            self._send(200, b"healthy\n", "text/plain; charset=utf-8")
        elif self.path.partition("?")[0] in {"/", "/index.html"}:
            self._send(200, self.server.page, "text/html; charset=utf-8")
        else:
            self._send(404, b"Not Found\n", "text/plain; charset=utf-8")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class names it so
        """One line for each request on stdout, as nginx in a container does."""
        sys.stdout.write(f"{self.client_address[0]} - - [{self.log_date_time_string()}] {format % args}\n")
        sys.stdout.flush()

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> int:
    """Serve until SIGTERM or SIGINT; 1 with a message on stderr when it cannot start."""
    try:
        backend_url = os.environ.get("BACKEND_URL", "http://127.0.0.1:4000")
        if urlsplit(backend_url).scheme not in {"http", "https"}:
            raise SettingsError("BACKEND_URL must begin with http:// or https://")
        port = whole_number(os.environ, "PORT", default=8080, highest=65_535)
        with FrontendServer(os.environ.get("HOST", "127.0.0.1"), port, backend_url) as server:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
            host, bound_port = server.server_address[:2]
            sys.stdout.write(f"Frontend is running on: http://{host!s}:{bound_port}\n")
            sys.stdout.flush()
            server.serve_forever(poll_interval=0.1)
    except (SettingsError, OSError) as error:
        sys.stderr.write(f"sample.frontend: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
