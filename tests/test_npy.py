"""Writing .npy files row by row, before their length is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.npy import NpyWriter


def numbered(begin, end, row_shape):
    """Rows `begin` to `end` of an array that counts up."""
    size = int(np.prod(row_shape))
    numbers = np.arange(begin * size, end * size, dtype=np.float32)
    return numbers.reshape(-1, *row_shape)


def write(path, *lengths, row_shape=(2,)):
    """Append as many numbered rows at a time as `lengths` says."""
    begin = 0
    with NpyWriter(path, row_shape) as writer:
        for length in lengths:
            writer.append(numbered(begin, begin + length, row_shape))
            begin += length


def assert_holds(path, rows, row_shape=(2,)):
    for mmap_mode in (None, "r"):
        found = np.load(path, mmap_mode=mmap_mode)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, numbered(0, rows, row_shape))


@pytest.mark.parametrize("rows", [0, 1, 9, 10, 99, 100, 12345])
def test_a_file_of_any_length_loads(tmp_path, rows):
    path = tmp_path / "a.npy"
    write(path, rows)
    assert_holds(path, rows)
    assert path.stat().st_size == 128 + rows * 2 * 4  # the header is as long for all


@given(
    row_shape=st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
    lengths=st.lists(st.integers(0, 12)),
)
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_appended_is_there(tmp_path, row_shape, lengths):
    path = tmp_path / "a.npy"
    write(path, *lengths, row_shape=row_shape)
    assert_holds(path, sum(lengths), row_shape)


def test_rows_before_a_failure_are_kept(tmp_path):
    path = tmp_path / "a.npy"
    with pytest.raises(KeyboardInterrupt), NpyWriter(path, (2,)) as writer:
        writer.append(numbered(0, 11, (2,)))
        raise KeyboardInterrupt
    assert_holds(path, 11)


def test_rows_become_float32_whatever_their_type_and_order(tmp_path):
    path = tmp_path / "a.npy"
    with NpyWriter(path, (3, 2)) as writer:
        writer.append(np.asfortranarray(numbered(0, 2, (3, 2)).astype(">f8")))
        writer.append(np.repeat(numbered(2, 5, (3, 2)), 2, axis=0)[::2])
    assert_holds(path, 5, (3, 2))


def test_infinite_and_missing_values_stay(tmp_path):
    path, rows = tmp_path / "a.npy", np.float32([[np.nan, -np.inf], [np.inf, -0.0]])
    with NpyWriter(path, (2,)) as writer:
        writer.append(rows)
    assert np.load(path).tobytes() == rows.tobytes()


def test_a_file_that_is_there_is_written_anew(tmp_path):
    path = tmp_path / "a.npy"
    write(path, 50)
    write(path, 3)
    assert_holds(path, 3)
    assert path.stat().st_size == 128 + 3 * 2 * 4
