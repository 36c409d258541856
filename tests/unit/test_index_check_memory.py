"""How much memory the check of indexes gets: enough for every row that a table can hold, and no more."""

import pytest

from keepwell.postgres.soundness import choose_filter_bytes

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("table_bytes", "filter_bytes"),
    [(0, MIB), (18 * MIB, MIB), (18 * MIB + 36, 2 * MIB), (144 * MIB, 8 * MIB), (145 * MIB, 16 * MIB)],
)
def test_two_bytes_for_each_row_and_a_power_of_two(table_bytes: int, filter_bytes: int) -> None:
    assert choose_filter_bytes(table_bytes) == filter_bytes
