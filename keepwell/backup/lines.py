"""Parts that are lists: one JSON document a line, written and read as they come, so that memory stays small."""

from collections.abc import Callable, Iterator

# A line holds one key of Redis at most, whose values may have 512 MB; anything longer is not ours.
_LONGEST_BYTES = 2 * 1024**3


class LineSource:
    """Lines as a stream of bytes to be read.

    Args:
        lines: Without their ends.
    """

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._ahead = bytearray()

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, at most so many; none at the end."""
        while size < 0 or len(self._ahead) < size:
            line = next(self._lines, None)
            if line is None:
                break
            self._ahead += line
            self._ahead += b"\n"
        wanted = len(self._ahead) if size < 0 else size
        chunk = bytes(self._ahead[:wanted])
        del self._ahead[:wanted]
        return chunk


class LineSink:
    """Bytes as they come, handed on line by line.

    Args:
        take: Gets each line without its end.
    """

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self._take = take
        self._begun = bytearray()

    def write(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            ValueError: A line is longer than any of ours.
        """
        first, *others = chunk.split(b"\n")
        self._begun += first
        for line in others:
            self._take(bytes(self._begun))
            self._begun = bytearray(line)
        if len(self._begun) > _LONGEST_BYTES:
            message = "a line has no end"
            raise ValueError(message)

    def finish(self) -> bool:
        """Whether the last line had its end."""
        return not self._begun
