"""Reading computational sequences, whole and broken."""

from __future__ import annotations

import fcntl

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.formats.csd import ComputationalSequence, check_csd, sort_order
from system.errors import InputError
from tests.csd_files import all_features, write_csd

WIDTH = 3


def entry(n, seed=0, width=WIDTH, dtype=np.float32):
    rng = np.random.default_rng(seed)
    starts = rng.permutation(n) / 4
    return np.stack([starts, starts + 0.25], axis=1), rng.normal(size=(n, width)).astype(dtype)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sequence.csd"


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(
    parts=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    options=st.sampled_from([{}, {"chunks": True}, {"compression": "gzip"}]),
    dtype=st.sampled_from([np.float32, np.float64]),
    data=st.data(),
)
def test_reads_any_layout_and_any_parts(path, parts, options, dtype, data):
    entries = {f"video[{k}]": entry(n, seed=k, dtype=dtype) for k, n in enumerate(parts)}
    options = options if min(parts) else {}  # empty datasets have no chunks
    write_csd(path, entries, **options)
    intervals = np.concatenate([intervals for intervals, _ in entries.values()])
    features = np.concatenate([features for _, features in entries.values()])
    order = np.argsort(intervals[:, 0], kind="stable")
    with ComputationalSequence(path) as sequence:
        assert sequence.videos == {"video"}
        rows = sequence.read("video")
        np.testing.assert_array_equal(rows.intervals, intervals[order])
        np.testing.assert_array_equal(all_features(rows), features[order])
        chosen = data.draw(st.lists(st.integers(0, max(len(order) - 1, 0)), max_size=len(order)))
        np.testing.assert_array_equal(
            rows.features(np.array(chosen, dtype=int)), features[order][chosen]
        )
        unsorted = sequence.read_unsorted("video")
        np.testing.assert_array_equal(unsorted[0], intervals)
        np.testing.assert_array_equal(unsorted[1], features)


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("starts", [[0, 1, 2, 3], [3, 1, 2, 0]])
def test_rows_without_a_time_are_left_out(column, starts):
    intervals = np.stack([np.array(starts, float), np.array(starts, float) + 1], axis=1)
    intervals[1, column] = np.nan
    expected = [row for row in np.argsort(starts) if row != 1]
    assert sort_order(intervals).tolist() == expected


def test_an_id_that_begins_another_is_another_video(path):
    write_csd(path, {"25522": entry(2), "255224": entry(3), "255224[1]": entry(4)})
    with ComputationalSequence(path) as sequence:
        assert sequence.videos == {"25522", "255224"}
        assert len(sequence.read("25522").intervals) == 2
        assert len(sequence.read("255224").intervals) == 7


def test_the_root_may_be_named_otherwise_than_the_file(path):
    write_csd(path, {"video": entry(2)}, root="another name")
    with ComputationalSequence(path) as sequence:
        assert sequence.videos == {"video"}


def test_words_are_text(path):
    words = np.array([[b"good"], ["naïve".encode()], [b"\xff"]], dtype="S32")
    write_csd(path, {"video": (np.array([[0, 1], [1, 2], [2, 3]]), words)})
    with ComputationalSequence(path, holds_text=True) as sequence:
        rows = sequence.read("video")
        assert rows.words(np.arange(3)) == ["good", "naïve", "\ufffd"]


def test_words_of_variable_length_are_text(path):
    words = np.array([["good"], ["bad"]], dtype=h5py.string_dtype())
    write_csd(path, {"video": (np.array([[0, 1], [1, 2]]), words)})
    with ComputationalSequence(path, holds_text=True) as sequence:
        assert sequence.read("video").words(np.arange(2)) == ["good", "bad"]


def open_and_read(path):
    with ComputationalSequence(path) as sequence:
        for video in sequence.videos:
            all_features(sequence.read(video))


def broken(path, fault):
    """Write a file that is broken in one way."""
    intervals, features = entry(5)
    write_csd(path, {"video": (intervals, features)})
    if fault == "missing":
        path.unlink()
    elif fault == "text":
        path.write_text("<html>Not found</html>")
    elif fault == "empty":
        path.write_bytes(b"")
    elif fault == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif fault == "no data":
        with h5py.File(path, "w") as file:
            file.create_group("sequence/metadata")
    elif fault == "no entries":
        write_csd(path, {})
    elif fault == "two roots":
        with h5py.File(path, "a") as file:
            file.create_group("other")
    elif fault == "lengths":
        write_csd(path, {"video": (intervals[:4], features)})
    elif fault == "width":
        write_csd(path, {"a": (intervals, features), "b": (intervals, features[:, :2])})
    elif fault == "intervals":
        write_csd(path, {"video": (intervals[:, :1], features)})
    elif fault == "no intervals":
        with h5py.File(path, "a") as file:
            del file["sequence/data/video/intervals"]
    elif fault == "entry is a dataset":
        with h5py.File(path, "a") as file:
            file["sequence/data/other"] = np.zeros(3)
    return path


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "No file"),
        ("text", "a web page"),
        ("empty", "an empty file"),
        ("truncated", "truncated"),
        ("no data", "no group sequence/data"),
        ("no entries", "no entries"),
        ("two roots", "2 root groups"),
        ("lengths", "5 feature rows but 4 intervals"),
        ("width", r"shape \(5, 2\), expected \(n, 3\)"),
        ("intervals", r"shape \(5, 1\), expected \(n, 2\)"),
        ("no intervals", "no dataset intervals"),
        ("entry is a dataset", "entry other: no dataset features"),
    ],
)
def test_a_broken_file_is_told_in_one_line(path, fault, message):
    with pytest.raises(InputError, match=message) as caught:
        open_and_read(broken(path, fault))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damage_inside_a_file_is_told(path):
    """Bytes lost inside a compressed dataset show only when it is read."""
    write_csd(path, {"video": entry(4000)}, compression="gzip")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes(4000)
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        open_and_read(path)


@pytest.mark.parametrize("fault", ["text", "truncated", "no data", "no entries"])
def test_a_download_that_is_no_csd_is_refused(path, fault):
    with pytest.raises(InputError):
        check_csd(broken(path, fault))


def test_a_whole_file_passes_the_download_check(path):
    write_csd(path, {"video": entry(2)})
    check_csd(path)


def test_the_width_is_the_files(path):
    write_csd(path, {"a": entry(4, width=709), "b": entry(2, width=709)})
    with ComputationalSequence(path) as sequence:
        assert sequence.width == 709
        assert all_features(sequence.read("b")).shape == (2, 709)


@pytest.mark.parametrize("features", [np.zeros(5), np.zeros((5, 0)), np.zeros((5, 2, 2))])
def test_features_that_are_no_rows_are_told(path, features):
    write_csd(path, {"video": (entry(5)[0], features)})
    with (
        ComputationalSequence(path) as sequence,
        pytest.raises(InputError, match=r"features have shape .*, expected \(n, width\)"),
    ):
        sequence.read("video")


def test_a_file_that_another_program_has_locked_is_named_so(path):
    write_csd(path, {"video": entry(2)})
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="is open in another program"):
            check_csd(path)


def test_a_drive_without_locks_is_read_all_the_same(path, monkeypatch):
    write_csd(path, {"video": entry(2)})
    opened = h5py.File

    def without_locks(path, mode, locking=None):
        if locking is not False:
            raise OSError("unable to lock file, errno = 37, error message = 'No locks available'")
        return opened(path, mode, locking=locking)

    monkeypatch.setattr("data.formats.csd.h5py.File", without_locks)
    check_csd(path)
