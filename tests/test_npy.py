"""Writing .npy files row by row: they load, they grow, they go on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.npy import NpyWriter, rows_on_disk

on_a_file = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
row_shapes = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)


def numbered(begin, end, row_shape):
    """Rows `begin` to `end` of an array that counts up."""
    size = int(np.prod(row_shape))
    numbers = np.arange(begin * size, end * size, dtype=np.float32)
    return numbers.reshape(-1, *row_shape)


def write(path, *lengths, row_shape=(2,), resume_at=0):
    """Append as many numbered rows at a time as `lengths` says."""
    with NpyWriter(path, row_shape, resume_at) as writer:
        for length in lengths:
            writer.append(numbered(writer.rows, writer.rows + length, row_shape))


def assert_holds(path, rows, row_shape=(2,)):
    expected = numbered(0, rows, row_shape)
    for mmap_mode in (None, "r"):
        found = np.load(path, mmap_mode=mmap_mode)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    assert rows_on_disk(path, row_shape) == rows


@pytest.mark.parametrize("rows", [0, 1, 9, 10, 99, 100, 12345])
def test_a_file_of_any_length_loads(tmp_path, rows):
    path = tmp_path / "a.npy"
    write(path, rows)
    assert_holds(path, rows)
    assert path.stat().st_size == 128 + rows * 2 * 4  # the header is as long for all


@given(row_shape=row_shapes, lengths=st.lists(st.integers(0, 12)))
@on_a_file
def test_what_is_appended_is_there(tmp_path, row_shape, lengths):
    path = tmp_path / "a.npy"
    write(path, *lengths, row_shape=row_shape)
    assert_holds(path, sum(lengths), row_shape)


@given(
    row_shape=row_shapes,
    before=st.integers(0, 120),
    after=st.integers(0, 120),
    data=st.data(),
)
@on_a_file
def test_resuming_keeps_the_rows_before_and_drops_the_others(
    tmp_path, row_shape, before, after, data
):
    path = tmp_path / "a.npy"
    write(path, before, row_shape=row_shape)
    kept = data.draw(st.integers(0, before), label="kept")
    with NpyWriter(path, row_shape, resume_at=kept) as writer:
        assert writer.rows == kept
    assert_holds(path, kept, row_shape)
    write(path, after, row_shape=row_shape, resume_at=kept)
    assert_holds(path, kept + after, row_shape)


@given(rows=st.integers(1, 12), data=st.data())
@on_a_file
def test_rows_read_while_writing(tmp_path, rows, data):
    with NpyWriter(tmp_path / "a.npy", (2, 3)) as writer:
        for _ in range(rows):
            writer.append(numbered(writer.rows, writer.rows + 1, (2, 3)))
            row = data.draw(st.integers(0, writer.rows - 1))
            np.testing.assert_array_equal(writer.read(row), numbered(row, row + 1, (2, 3))[0])
    assert_holds(tmp_path / "a.npy", rows, (2, 3))


@given(rows=st.integers(0, 12), cut=st.integers(0, 400))
@on_a_file
def test_whole_rows_on_disk_are_counted_while_the_header_says_none(tmp_path, rows, cut):
    path, nothing = tmp_path / "a.npy", tmp_path / "nothing.npy"
    write(path, rows, row_shape=(5,))
    write(nothing, row_shape=(5,))
    header = nothing.read_bytes()
    content = (header + path.read_bytes()[len(header) :])[:cut]
    path.write_bytes(content)
    found = rows_on_disk(path, (5,))
    assert found == max(0, len(content) - len(header)) // 20
    write(path, rows - found, row_shape=(5,), resume_at=found)
    assert_holds(path, rows, (5,))


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


def test_without_resuming_a_file_is_written_anew(tmp_path):
    path = tmp_path / "a.npy"
    write(path, 50)
    write(path, 3)
    assert_holds(path, 3)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 3), np.float32), np.zeros((4, 2, 1), np.float32), np.zeros((4, 2)), np.zeros(4)],
    ids=["another width", "another rank", "float64", "no rows"],
)
def test_an_array_of_another_kind_has_no_rows_to_keep(tmp_path, array):
    path = tmp_path / "a.npy"
    np.save(path, array)
    assert rows_on_disk(path, (2,)) == 0


def test_what_is_no_array_has_no_rows_to_keep(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"<html>" * 100)
    assert rows_on_disk(tmp_path / "a.npy", (2,)) == 0
    assert rows_on_disk(tmp_path / "missing.npy", (2,)) == 0
    assert rows_on_disk(tmp_path, (2,)) == 0
