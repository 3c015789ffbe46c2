"""Removed rows as text: short, and read back as they were written."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index import tombstones


@given(st.sets(st.integers(0, 300)))
def test_any_rows_are_read_back(rows: set[int]) -> None:
    ordered = np.array(sorted(rows), dtype=np.int64)
    text = tombstones.write(ordered)
    again = tombstones.read(text)
    assert again.dtype == np.int64
    assert again.tolist() == ordered.tolist()
    runs = sum(row - 1 not in rows for row in rows)
    assert len(text.split()) == runs, "one word a run"
    keep = tombstones.keep(text, 301)
    assert (keep is None) == (not rows)
    if rows:
        assert set(np.flatnonzero(~keep)) == rows


def test_a_million_neighbours_are_one_word() -> None:
    assert tombstones.write(np.arange(5, 1_000_005)) == "5-1000004"
    assert tombstones.write(np.array([3, 7, 8, 9, 12])) == "3 7-9 12"
    assert tombstones.write(np.array([], dtype=np.int64)) == ""


@pytest.mark.parametrize("text", ["x", "3 - 4", "1.5", "-"])
def test_what_was_not_written_here_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        tombstones.read(text)
