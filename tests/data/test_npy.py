"""Reading .npy files some rows at a time, and writing them before their length is known."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.npy import NpyReader, NpyWriter
from system.errors import InputError

SHAPE = (11, 3, 2)


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
        array = np.load(path, mmap_mode=mmap_mode)
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, numbered(0, rows, row_shape))


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


# Reading


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Files of several kinds of floats, and what they hold."""
    folder = tmp_path_factory.mktemp("stored")
    values = np.random.default_rng(0).normal(size=SHAPE)
    arrays = {dtype: values.astype(dtype) for dtype in ("<f4", ">f4", "<f8", ">f8", "<f2", ">f2")}
    for dtype, array in arrays.items():
        np.save(folder / f"{dtype[1:]}{dtype[0] == '>'}.npy", array)
    return {
        dtype: (folder / f"{dtype[1:]}{dtype[0] == '>'}.npy", arrays[dtype]) for dtype in arrays
    }


ROWS = st.lists(st.integers(0, SHAPE[0] - 1), max_size=25)
RANGES = st.tuples(st.integers(0, SHAPE[0]), st.integers(0, SHAPE[0])).map(
    lambda ends: range(*ends)
)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "<f2", ">f2"])
@given(rows=ROWS | ROWS.map(np.array) | RANGES)
def test_rows_are_read_as_they_are_stored(stored, dtype, rows):
    path, array = stored[dtype]
    values = NpyReader(path).read(rows)
    expected = array[np.asarray(rows, dtype=int)]
    assert values.shape == expected.shape
    assert values.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(values, expected)


def test_an_array_of_many_fields_is_told_in_short(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((2, 3, 4), [(f"field{number}", "f4") for number in range(300)]))
    with pytest.raises(InputError, match=r"holds void\d+ of shape \(2, 3, 4\), expected") as caught:
        NpyReader(path)
    assert len(str(caught.value)) < len(str(path)) + 200


def test_a_reader_tells_what_the_file_holds(stored):
    reader = NpyReader(stored["<f8"][0])
    assert (reader.shape, reader.dtype, len(reader)) == (SHAPE, np.float64, 11)
    assert (reader.row_bytes, reader.nbytes) == (3 * 2 * 8, 11 * 3 * 2 * 8)


def test_consecutive_rows_are_read_at_once(stored, monkeypatch):
    path, array = stored["<f4"]
    sizes, preadv = [], os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda *arguments: sizes.append(preadv(*arguments)) or sizes[-1]
    )
    np.testing.assert_array_equal(
        NpyReader(path).read([4, 5, 6, 2, 2, 3, 1]), array[[4, 5, 6, 2, 2, 3, 1]]
    )
    assert sizes == [3 * 24, 24, 2 * 24, 24]


def test_reads_that_give_less_than_was_asked_for_go_on(stored, monkeypatch):
    path, array = stored["<f8"]
    preadv = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda file, buffers, offset: preadv(file, [buffers[0][:7]], offset)
    )
    np.testing.assert_array_equal(NpyReader(path).read(range(11)), array)


@pytest.mark.parametrize("size", [0, 100, 128 + 24 * 5, 128 + 24 * 11 - 1])
def test_a_file_that_is_cut_short_while_in_use_is_told(tmp_path, size):
    path = tmp_path / "a.npy"
    np.save(path, np.ones(SHAPE, np.float32))
    reader = NpyReader(path)
    os.truncate(path, size)
    expected = rf"{re.escape(str(path))} has become {size} bytes long, expected 392; prepare"
    with pytest.raises(InputError, match=expected):
        reader.read([1, 10])


def test_rows_that_are_left_of_a_file_that_was_cut_short_are_read(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.ones(SHAPE, np.float32))
    reader = NpyReader(path)
    os.truncate(path, 128 + 24 * 5)
    assert (reader.read(range(5)) == 1).all()


def test_a_file_that_cannot_be_read_is_told(stored, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path, _ = stored["<f4"]
    reader = NpyReader(path)
    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(InputError, match=rf"{re.escape(str(path))} cannot be read: Input/output"):
        reader.read([1])


def test_a_file_that_is_replaced_while_in_use_is_read_on(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.ones(SHAPE, np.float32))
    reader = NpyReader(path)
    np.save(tmp_path / "b.npy", np.zeros(SHAPE, np.float32))
    (tmp_path / "b.npy").replace(path)
    assert (reader.read(range(11)) == 1).all()


def test_fortran_order_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.asfortranarray(np.ones(SHAPE)))
    expected = rf"{re.escape(str(path))} is stored in Fortran order, expected C order; save it"
    with pytest.raises(InputError, match=expected):
        NpyReader(path)


@pytest.mark.parametrize("shape", [(1, 1, 7), (7, 1, 1), (1, 7, 1), (0, 2, 3)])
def test_arrays_in_both_orders_at_once_are_not_refused(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.asfortranarray(np.ones(shape)))
    assert NpyReader(tmp_path / "a.npy").read(range(shape[0])).shape == shape


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_nothing_is_mapped_and_no_file_stays_open(stored):
    def open_files():
        paths = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
        return [str(path.readlink()) for path in paths if path.is_symlink()]

    path, _ = stored[">f8"]
    reader = NpyReader(path)
    reader.read(range(11))
    assert str(path) not in Path("/proc/self/maps").read_text()
    assert open_files().count(str(path)) == 1
    del reader
    assert str(path) not in open_files()


def test_advice_is_about_the_rows_that_will_be_read(stored, monkeypatch):
    advised = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda _, *arguments: advised.append(arguments), raising=False
    )
    monkeypatch.setattr(os, "POSIX_FADV_WILLNEED", "soon", raising=False)
    NpyReader(stored["<f4"][0]).prefetch([2, 3, 7])
    assert advised == [(128 + 2 * 24, 2 * 24, "soon"), (128 + 7 * 24, 24, "soon")]


def test_advice_that_is_not_taken_does_no_harm(stored, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ESPIPE, os.strerror(errno.ESPIPE))

    reader = NpyReader(stored["<f4"][0])
    monkeypatch.setattr(os, "posix_fadvise", refuse, raising=False)
    reader.prefetch([1])
    monkeypatch.delattr(os, "posix_fadvise")
    reader.prefetch([1])


def with_header(path, text: str, values=b""):
    header = text.encode("latin-1") + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + values)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("(1099511627776, 3, 2)", "needs 26,388,279,066,7"),
        ("(4611686018427387904, 4, 1)", "is damaged"),  # more bytes than 64 bits count
        ("(-1, -3, 2)", "is damaged"),
        ("(" * 90 + "1" + ")" * 90, "no .npy array"),
        ("-" * 5000 + "1", "no .npy array"),
        ("-" * 9000 + "1", "no .npy array"),  # on which Python says that memory ran out
        ("9" * 9000, "no .npy array"),
    ],
)
def test_a_header_that_claims_too_much_is_told(tmp_path, shape, message):
    path = tmp_path / "a.npy"
    with_header(path, f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}", bytes(24))
    with pytest.raises(InputError, match=message) as caught:
        NpyReader(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "labels", [np.zeros(5), np.zeros((5, 1)), np.zeros((5, 1, 1), int)], ids=["N", "N, 1", "ints"]
)
def test_the_shape_that_labels_need_is_told(tmp_path, labels):
    np.save(tmp_path / "label50.npy", labels)
    with pytest.raises(InputError, match=r"expected floats \(N, 1, L\), sentiment first; save it"):
        NpyReader(tmp_path / "label50.npy")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(InputError, match=r"a\.npy is a folder, pipe or device"):
        NpyReader(tmp_path / "a.npy")
