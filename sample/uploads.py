"""Writes the sample platform's uploads folder: the files its users would have sent.

The names agree with the database of the same seed and scale: an avatar bears its user's id, a picture its event's.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from sample.population import Population

_JPEG_START, _JPEG_END = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", b"\x00\x00\x00\x00IEND\xaeB`\x82"
_LARGE_BYTES = 400_000


@dataclass(frozen=True)
class UploadTotals:
    """What the folder now holds of ours, and how much of it this run had to write."""

    files: int
    size_bytes: int
    written: int


def write_uploads(folder: Path, *, scale: float, seed: int = 1) -> UploadTotals:
    """Write avatars/, events/ and receipts/ under a folder, which is created when missing.

    Safe to repeat: a file that already has the right bytes is left alone, its time too, and files of others
    are never touched.

    Raises:
        ValueError: The scale is not positive.
        OSError: The folder cannot be written.
    """
    population = Population.plan(scale=scale, seed=seed)
    files = size_bytes = written = 0
    for name, make_content in _planned_files(population):
        content = make_content()
        files += 1
        size_bytes += len(content)
        written += _write_when_different(folder / name, content, modified_at_seconds=population.as_of_ms // 1000)
    return UploadTotals(files=files, size_bytes=size_bytes, written=written)


def _planned_files(population: Population) -> Iterator[tuple[str, Callable[[], bytes]]]:
    seed = population.seed
    for index in range(population.avatar_files):
        user_id = population.user_key(index)[1]
        yield f"avatars/{user_id}.jpg", partial(_jpeg, seed, user_id)
    for index in range(population.event_image_files):
        event_id = population.event_id(index)
        yield f"events/{event_id}.png", partial(_png, seed, event_id, range(4_000, 40_000))
    for index in range(population.receipt_files):
        number = f"receipt-{index + 1:05d}"
        yield f"receipts/{number}.txt", partial(_receipt, seed, number)
    # The names and sizes that break careless archivers.
    yield "events/Ausflug nach Köln – 日帰り旅行 🚌.png", partial(_png, seed, "trip", range(3_000, 9_000))
    yield "receipts/empty-upload.pdf", bytes
    yield "events/poster-large.png", partial(_png, seed, "poster", range(_LARGE_BYTES, _LARGE_BYTES + 1))


def _jpeg(seed: int, name: str) -> bytes:
    rng = Random(f"{seed}:{name}")
    return _JPEG_START + rng.randbytes(rng.randrange(600, 9_000)) + _JPEG_END


def _png(seed: int, name: str, sizes_bytes: range) -> bytes:
    rng = Random(f"{seed}:{name}")
    return _PNG_START + rng.randbytes(rng.choice(sizes_bytes)) + _PNG_END


def _receipt(seed: int, name: str) -> bytes:
    rng = Random(f"{seed}:{name}")
    lines = [f"{rng.choice(('Bus', 'Museum', 'Groceries', 'Venue'))}\t{rng.randrange(300, 90_000) / 100:.2f} €"]
    lines += [f"line {number}: {rng.randrange(10**12):012d}" for number in range(rng.randrange(3, 60))]
    return "\n".join([name, *lines, ""]).encode()


def _write_when_different(path: Path, content: bytes, *, modified_at_seconds: int) -> bool:
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (modified_at_seconds, modified_at_seconds))
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when the folder is complete."""
    parser = argparse.ArgumentParser(prog="python -m sample.uploads", description="Write the sample uploads folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.0, help="as for sample.generate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="as for sample.generate (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        totals = write_uploads(options.folder, scale=options.scale, seed=options.seed)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"sample.uploads: {error}\n")
        return 1
    sys.stdout.write(f"{totals.files} files, {totals.size_bytes:,} bytes, {totals.written} written now\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
