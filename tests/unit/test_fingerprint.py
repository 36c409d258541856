from hypothesis import assume, given
from hypothesis import strategies as st

from keepwell.postgres.fingerprint import sum_line_hashes

rows = st.lists(st.binary(max_size=20), max_size=20)


@given(rows=rows, dice=st.randoms())
def test_the_order_of_lines_does_not_matter(rows: list[bytes], dice: object) -> None:
    shuffled = list(rows)
    dice.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sum_line_hashes(shuffled) == sum_line_hashes(rows)


@given(rows=rows, extra=st.binary(max_size=20))
def test_each_line_counts_as_often_as_it_occurs(rows: list[bytes], extra: bytes) -> None:
    once = sum_line_hashes([*rows, extra])
    assert len({sum_line_hashes(rows), once, sum_line_hashes([*rows, extra, extra])}) == 3


@given(one=st.binary(max_size=20), other=st.binary(max_size=20))
def test_a_pair_is_told_from_another_pair(one: bytes, other: bytes) -> None:
    assume(one != other)
    assert sum_line_hashes([one, one]) != sum_line_hashes([other, other])
