"""An application for drills: /seen says what it sees of rows, files and keys, unless a way leads out."""

import os
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psycopg
import redis


def see() -> str:
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        row = connection.execute("SELECT count(*) FROM public.people").fetchone()
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        value = client.get("drilled").decode()
    files = len(list(Path(os.environ["UPLOADS"]).iterdir()))
    return f"{row[0] if row else None} rows, {files} files, {value}"


def is_enclosed() -> bool:
    try:
        socket.create_connection(("192.0.2.1", 80), timeout=5).close()
    except OSError as error:
        return error.strerror == "Network is unreachable"
    return False


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        enclosed = is_enclosed()
        self.send_response(200 if enclosed else 500)
        self.end_headers()
        self.wfile.write(b"fine" if self.path == "/health" else see().encode())


if __name__ == "__main__":
    if sys.argv[1:] == ["die"]:
        sys.stderr.write("I cannot go on\n")
        sys.exit(3)
    if sys.argv[1:] == ["hang"]:
        # Somebody connects, and never hears a word.
        subprocess.Popen(["sleep", "300"], start_new_session=True)
        listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
        time.sleep(300)
    if sys.argv[1:] == ["daemon"]:
        subprocess.Popen(["sleep", "300"], start_new_session=True)
    HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Pages).serve_forever()
