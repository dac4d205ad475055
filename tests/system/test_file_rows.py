"""Rows of equal size in a file."""

from __future__ import annotations

import os
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from system.file_rows import fill, runs_of


@given(st.lists(st.integers(0, 12), max_size=20))
def test_runs_are_the_rows_again_and_as_few_as_can_be(rows):
    runs = runs_of(np.array(rows, dtype=int))
    assert [row for begin, end in runs for row in range(begin, end)] == rows
    assert all(end != begin for (_, end), (begin, _) in pairwise(runs))


def test_a_read_that_stops_short_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    read_some = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda file, targets, at: read_some(file, [targets[0][:7]], at)
    )
    with path.open("rb") as file:
        target = bytearray(90)
        assert fill(file.fileno(), memoryview(target), 10)
        assert target == bytes(range(10, 100))
        assert not fill(file.fileno(), memoryview(bytearray(91)), 10)
