"""Putting archived keys into a server for good, unlike a rehearsal, which takes each out again."""

from redis.exceptions import RedisError

from keepwell.cache.keys import KeyRecord, RawClient, connect_raw
from keepwell.cache.probe import translate


class KeyLoader:
    """Puts keys into one server.

    Args:
        socket: Of the server.
        now_ms: Unix time: what has expired by then is left out, as the server itself would.

    Attributes:
        loaded: Keys that it took.
        expired: Keys that were left out.
    """

    def __init__(self, socket: str, now_ms: int) -> None:
        self.loaded, self.expired = 0, 0
        self._socket, self._now_ms = socket, now_ms
        self._clients: dict[int, RawClient] = {}

    def take(self, line: bytes) -> None:
        """Load the key of one archived line.

        Raises:
            ValueError: It is none.
            KeepwellError: The server does not take it.
        """
        record = KeyRecord.from_line(line)
        if record.expires_at_ms is not None and record.expires_at_ms <= self._now_ms:
            self.expired += 1
            return
        expiry = record.expires_at_ms or 0
        try:
            client = self._client(record.database)
            client.execute_command("RESTORE", record.key, expiry, record.payload, "REPLACE", "ABSTTL")
        except RedisError as error:
            raise translate(error, "The scratch server for Redis") from error
        self.loaded += 1

    def close(self) -> None:
        """Let go of the server."""
        for client in self._clients.values():
            client.close()

    def _client(self, database: int) -> RawClient:
        if database not in self._clients:
            self._clients[database] = connect_raw(database, unix_socket_path=self._socket)
        return self._clients[database]
