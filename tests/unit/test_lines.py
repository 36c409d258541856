from hypothesis import given
from hypothesis import strategies as st

from keepwell.backup.lines import LineSink, LineSource

lines = st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line), max_size=20)


def read_all(source: LineSource, size: int) -> list[bytes]:
    chunks = []
    while chunk := source.read(size):
        chunks.append(chunk)
    return chunks


@given(lines, st.integers(1, 40), st.integers(1, 40))
def test_lines_come_back_however_they_are_cut(given_lines: list[bytes], out: int, back: int) -> None:
    stream = b"".join(read_all(LineSource(iter(given_lines)), out))
    assert stream == b"".join(line + b"\n" for line in given_lines)
    taken: list[bytes] = []
    sink = LineSink(taken.append)
    for start in range(0, len(stream), back):
        sink.write(stream[start : start + back])
    assert taken == given_lines
    assert sink.finish()


def test_no_more_is_read_than_asked_for_and_everything_without_a_size() -> None:
    assert [len(chunk) for chunk in read_all(LineSource(iter([b"0123456789"])), 4)] == [4, 4, 3]
    assert LineSource(iter([b"a", b"b"])).read() == b"a\nb\n"
    assert LineSource(iter([])).read(10) == b""


def test_a_line_without_its_end_is_noticed() -> None:
    sink = LineSink(lambda line: None)
    sink.write(b"whole\nhalf")
    assert not sink.finish()
