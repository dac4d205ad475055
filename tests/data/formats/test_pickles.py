from __future__ import annotations

import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data.formats.pickle_split import move_padding_to_front
from data.formats.pickles import read_pickle
from data.formats.word_pickles import holds_words
from system.errors import InputError

COUNTS = {"train": 4, "valid": 2, "test": 3}
NAMES = {"train": "train", "valid": "val", "test": "test"}


def frames(rng, count: int, lengths, rows: int, channels: int, dtype=np.float32) -> np.ndarray:
    """Random features with zeros behind each segment's own rows."""
    values = rng.normal(size=(count, rows, channels)).astype(dtype)
    values[np.arange(rows) >= np.asarray(lengths)[:, None]] = 0
    return values


def mmsa_split(count: int, aligned: bool = False) -> dict:
    rng = np.random.default_rng(count)
    audio_lengths, vision_lengths = rng.integers(2, 8, count), rng.integers(2, 5, count)
    mask = np.arange(50) < rng.integers(3, 50, count)[:, None]
    pieces = np.stack([rng.integers(1, 30522, (count, 50)) * mask, mask, 0 * mask], axis=1)
    split = {
        "raw_text": np.array([f"sentence {index}" for index in range(count)]),
        "audio": frames(rng, count, audio_lengths, 9, 74),
        "vision": frames(rng, count, vision_lengths, 6, 35, np.float64),
        "text": rng.normal(size=(count, 50, 768)).astype(np.float32),
        "text_bert": pieces.astype(np.float32),
        "audio_lengths": audio_lengths.tolist(),
        "vision_lengths": vision_lengths,
        "annotations": np.array(["Neutral"] * count),
        "classification_labels": np.zeros(count),
        "regression_labels": np.linspace(-3, 3, count),
        "id": [f"vid_{index // 2}$_${index % 2 + 3}" for index in range(count)],
    }
    if aligned:
        del split["audio_lengths"], split["vision_lengths"]
    return split


def mult_split(count: int, text_width: int = 768, emotions: int = 1) -> dict:
    rng = np.random.default_rng(count)
    audio = rng.normal(size=(count, 5, 74))
    audio[0, :2] = 0  # Padded in front.
    audio[1, 3, 4] = -np.inf
    video = np.array([f"video{index // 2}" for index in range(count)])
    times = [np.arange(count) + offset for offset in (0.25, 1.5)]
    return {
        "vision": rng.normal(size=(count, 5, 35)),
        "audio": audio,
        "text": rng.normal(size=(count, 5, text_width)),
        "labels": rng.uniform(-3, 3, (count, 1, emotions)),
        "id": np.stack([video, *(column.astype(str) for column in times)], axis=1).astype("S"),
    }


def mmsa(**options) -> dict:
    return {name: mmsa_split(count, **options) for name, count in COUNTS.items()}


def mult(**options) -> dict:
    return {name: mult_split(count, **options) for name, count in COUNTS.items()}


def write(tmp_path, content: object, protocol: int = 4):
    path = tmp_path / "mosei.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def with_numpy1_names(path):
    content = path.read_bytes()
    assert b"numpy._core" in content or np.__version__ < "2"
    path.write_bytes(content.replace(b"numpy._core", b"numpy.core"))
    return path


class Python2Pickler(pickle._Pickler):
    """Writes bytes and ASCII text as Python 2 writes its `str`."""

    def save_string(self, value):
        value = value.encode("ascii") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    dispatch = {**pickle._Pickler.dispatch, bytes: save_string, str: save_string}  # noqa: RUF012


def assert_reads_mmsa(path):
    splits = read_pickle(path).splits
    assert list(splits) == ["train", "val", "test"]
    for name, count in COUNTS.items():
        split, raw = splits[NAMES[name]], mmsa_split(count)
        assert split.names.ids == [f"vid_{index // 2}[{index % 2 + 3}]" for index in range(count)]
        assert split.names.videos == [f"vid_{index // 2}" for index in range(count)]
        assert split.names.times is None
        assert split.sentences == [f"sentence {index}" for index in range(count)]
        for values, key in ((split.visual, "vision"), (split.audio, "audio")):
            assert values.dtype == np.float32
            assert values.shape == raw[key].shape
            rows = zip(values, raw[key], raw[f"{key}_lengths"], strict=True)
            for segment, expected, length in rows:
                assert np.array_equal(segment[-length:], expected[:length].astype(np.float32))
                assert not segment[:-length].any()
        assert split.labels.dtype == np.float32
        assert split.labels.shape == (count, 1, 1)
        assert split.labels[:, 0, 0].tolist() == raw["regression_labels"].astype("f4").tolist()
        assert split.text.dtype == np.float32
        assert np.array_equal(split.text, raw["text"])
        assert split.pieces.dtype == np.int64
        assert np.array_equal(split.pieces, raw["text_bert"][:, :2])


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_mmsa(tmp_path, protocol, aligned):
    assert_reads_mmsa(write(tmp_path, mmsa(aligned=aligned), protocol))


def test_mmsa_from_numpy_1(tmp_path):
    assert_reads_mmsa(with_numpy1_names(write(tmp_path, mmsa(), 2)))


def test_lists_for_ids_sentences_and_labels(tmp_path):
    content = mmsa()
    for split in content.values():
        split["regression_labels"] = split["regression_labels"].tolist()
        split["raw_text"] = split["raw_text"].tolist()
        split["id"] = tuple(split["id"])
    assert_reads_mmsa(write(tmp_path, content))


def test_a_split_that_stands_in_for_another(tmp_path):
    content = mmsa()
    content["test"] = content["valid"]
    splits = read_pickle(write(tmp_path, content)).splits
    assert np.array_equal(splits["test"].audio, splits["val"].audio)


def assert_reads_mult(path, emotions: int = 1):
    splits = read_pickle(path).splits
    for name, count in COUNTS.items():
        split, raw = splits[NAMES[name]], mult_split(count, emotions=emotions)
        assert split.names.ids == [f"video{index // 2}[{index % 2}]" for index in range(count)]
        assert split.names.videos == [f"video{index // 2}" for index in range(count)]
        assert split.names.times.tolist() == [[k + 0.25, k + 1.5] for k in range(count)]
        assert np.array_equal(split.visual, raw["vision"].astype(np.float32))
        assert np.array_equal(split.audio, raw["audio"].astype(np.float32))
        assert np.array_equal(split.text, raw["text"].astype(np.float32))
        assert np.array_equal(split.labels, raw["labels"].astype(np.float32))
        assert split.labels.shape == (count, 1, emotions)
        assert split.sentences is None
        assert split.pieces is None
        for array in (split.visual, split.audio, split.text, split.labels):
            assert array.dtype == np.float32


@pytest.mark.parametrize("emotions", [1, 7])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_mult(tmp_path, protocol, emotions):
    assert_reads_mult(write(tmp_path, mult(emotions=emotions), protocol), emotions)


def test_mult_from_python_2(tmp_path):
    path = tmp_path / "mosei.pkl"
    with path.open("wb") as file:
        Python2Pickler(file, 2).dump(mult())
    assert_reads_mult(with_numpy1_names(path))


@pytest.mark.parametrize(
    "rows",
    [
        lambda ids: np.array(ids.tolist(), dtype=object),
        lambda ids: ids.astype(str),
        lambda ids: ids[:, None],
        lambda ids: list(ids),
        lambda ids: [[video.decode(), float(start), float(end)] for video, start, end in ids],
        lambda ids: [(video, start, np.float64(end)) for video, start, end in ids.tolist()],
    ],
)
def test_ids_with_times_in_any_form(tmp_path, rows):
    content = mult()
    for split in content.values():
        split["id"] = rows(split["id"])
    assert_reads_mult(write(tmp_path, content))


@pytest.mark.parametrize(
    ("written", "ids", "videos"),
    [
        (["a$_$7", "a$_$9"], ["a[7]", "a[9]"], ["a", "a"]),
        (["a[7]", b"-b_[0]"], ["a[7]", "-b_[0]"], ["a", "-b_"]),
        (["a", "a"], ["a[0]", "a[1]"], ["a", "a"]),
        (np.array([["b"], ["a"]], "S"), ["b[0]", "a[0]"], ["b", "a"]),
        (["a$_$b$_$0012", "c[1][2]"], ["a$_$b[0012]", "c[1][2]"], ["a$_$b", "c[1]"]),
        (["a\ud800[1]", "b"], ["a?[1]", "b[0]"], ["a?", "b"]),
        ([b"caf\xc3\xa9[1]", b"caf\xe9[2]"], ["café[1]", "café[2]"], ["café", "café"]),
    ],
)
def test_ids(tmp_path, written, ids, videos):
    content = mmsa()
    content["valid"]["id"] = written
    split = read_pickle(write(tmp_path, content)).splits["val"]
    assert (split.names.ids, split.names.videos) == (ids, videos)


def test_infinities_and_nan_stay(tmp_path):
    content = mmsa()
    content["train"]["audio"][1, 0, :3] = [-np.inf, np.nan, np.inf]
    length = content["train"]["audio_lengths"][1]
    split = read_pickle(write(tmp_path, content)).splits["train"]
    values = split.audio[1, -length, :3]
    assert np.array_equal(values, [-np.inf, np.nan, np.inf], equal_nan=True)


@pytest.mark.parametrize("remaining", ["raw_text", "text_bert"])
def test_text_of_any_width_is_read_beside_sentences_or_pieces(tmp_path, remaining):
    content = mmsa()
    for split in content.values():
        split["text"] = split["text"][:, :, :300]
        del split["text_bert" if remaining == "raw_text" else "raw_text"]
    for split in read_pickle(write(tmp_path, content)).splits.values():
        assert split.text.shape[2] == 300
        assert (split.sentences is None) == (remaining == "text_bert")
        assert (split.pieces is None) == (remaining == "raw_text")


def refused(path) -> str:
    with pytest.raises(InputError) as caught:
        read_pickle(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert len(message.splitlines()) == 1
    return message


def test_the_file_is_freed_while_it_is_read(tmp_path):
    """A converted array replaces the file's, so that memory holds little more than the file."""
    content = {
        name: mult_split(count) for name, count in (("train", 40), ("valid", 2), ("test", 2))
    }
    for split in content.values():  # Three arrays of about the same size.
        for key, rows, channels in (("vision", 440, 35), ("audio", 208, 74), ("text", 20, 768)):
            split[key] = np.ones((len(split["id"]), rows, channels))
    path = write(tmp_path, content)
    tracemalloc.start()
    try:
        read_pickle(path)
        assert tracemalloc.get_traced_memory()[1] < 1.3 * path.stat().st_size
    finally:
        tracemalloc.stop()


def test_glove_alone_is_read(tmp_path):
    content = mult(text_width=300)
    split = read_pickle(write(tmp_path, content)).splits["val"]
    assert np.array_equal(split.text, content["valid"]["text"].astype(np.float32))


def test_no_text_at_all_is_refused(tmp_path):
    content = mult()
    del content["test"]["text"]
    assert "split 'test', 'text': found no array, no 'raw_text'" in refused(
        write(tmp_path, content)
    )


def deleted(key):
    return lambda split: split.pop(key)


def changed(key, change):
    return lambda split: split.update({key: change(split[key])})


def drop_last(values):
    return values[:-1]


FAULTS = {
    **{
        f"{key} missing": (deleted(key), f"has no '{key}', only 'raw_text', ")
        for key in ("audio", "vision")
    },
    **{
        f"{key} short": (changed(key, drop_last), f"'{key}': found ")
        for key in mmsa_split(1)
        if key not in ("id", "annotations", "classification_labels")
    },
    "audio flat": (changed("audio", lambda a: a[:, 0]), "shape (2, 74), expected shape (2, rows"),
    "text flat": (changed("text", lambda a: a[:, 0]), "shape (2, 768), expected shape (2, rows"),
    "no rows": (changed("vision", lambda a: a[:, :0]), "'vision': found shape (2, 0, 35)"),
    "no channels": (changed("vision", lambda a: a[..., :0]), "'vision': found shape (2, 6, 0)"),
    "a number": (changed("audio", lambda a: 5), "'audio': found a value of type int"),
    "no dimensions": (changed("audio", lambda a: np.array(1.0)), "'audio': found shape ()"),
    "a list of texts": (changed("audio", lambda a: ["a"] * 2), "'audio': found a value of type li"),
    "arrays of two widths": (
        changed("audio", lambda a: [a[0], a[1, :3, :9]]),
        "arrays 74 and 9 wide, expected the same width",
    ),
    "too few arrays": (changed("audio", lambda a: [a[0], a[1, :3], a[1]]), "found 3 items, expec"),
    "flat arrays": (
        changed("audio", lambda a: [a[0, 0], a[1, 0]]),
        "found shape (2, 74), expected",
    ),
    "text for numbers": (changed("audio", lambda a: a.astype(str)), "found an array of <U"),
    "objects for numbers": (changed("audio", lambda a: a.astype(object)), "an array of object"),
    "labels wide": (changed("regression_labels", lambda a: np.ones((2, 1, 2))), "(2, 1, 2)"),
    "labels deep": (changed("regression_labels", lambda a: np.ones((2, 1, 1, 1))), "1, 1 or 7)"),
    "length too long": (changed("audio_lengths", lambda a: [9, 10]), "10, expected a whole number"),
    "length negative": (changed("vision_lengths", lambda a: -a), "from 0 to 6"),
    "length broken": (changed("vision_lengths", lambda a: a + 0.5), "found 2.5"),
    "length NaN": (changed("vision_lengths", lambda a: a * np.nan), "found nan"),
    "lengths deep": (changed("vision_lengths", lambda a: a[:, None]), "found shape (2, 1)"),
    "pieces flat": (changed("text_bert", lambda a: a[:, 0]), "expected shape (2, 3, pieces)"),
    "two rows of pieces": (changed("text_bert", lambda a: a[:, :2]), "found shape (2, 2, 50)"),
    "pieces broken": (changed("text_bert", lambda a: a + 0.5), "expected a whole number"),
    "mask above 1": (changed("text_bert", lambda a: a + 1), "2.0, expected a whole number from 0"),
    "no segments": (changed("id", lambda a: []), "split 'valid' is empty"),
    "ids a text": (changed("id", lambda a: "ab"), "'id': found 'ab'"),
    "ids no list": (changed("id", lambda a: np.array("ab")), "'id': found an array of <U2"),
    "ids numbers": (changed("id", lambda a: [1, 2]), "found a value of type int, expected text"),
    "an empty id row": (changed("id", lambda a: [[], []]), "'id': found a value of type list"),
    "ids in pairs": (changed("id", lambda a: [["a", 1], ["b", 2]]), "found rows of 2 items"),
    "ids uneven": (changed("id", lambda a: ["a", ["b", 1, 2]]), "found rows of 1 and 3 items"),
    "a time of text": (changed("id", lambda a: [["a", 1, "end"]] * 2), "'end', expected a time"),
    "a time of None": (changed("id", lambda a: [["a", None, 2]] * 2), "expected a time"),
    "sentences as words": (changed("raw_text", lambda a: [["a", "b"]] * 2), "several items"),
    "sentences as numbers": (changed("raw_text", lambda a: [1.5, 2.5]), "1.5, expected text"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused_with_split_and_key(tmp_path, fault):
    make, expected = FAULTS[fault]
    content = mmsa()
    make(content["valid"])
    message = refused(write(tmp_path, content, 5))
    assert "split 'valid'" in message
    assert expected in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([1, 2], "holds something else, expected a dict with 'train', 'valid', 'test'"),
        ({}, "holds nothing, expected"),
        ({"train": {}, 5: {}, "test": {}}, "holds 'train', 'test', expected"),
        ({"train": 5, "valid": {}, "test": {}}, "split 'train' is a value of type int"),
        ({"train": [1], "valid": {}, "test": {}}, "split 'train', item 0 is no segment ((words"),
        ({"train": {}, "valid": {}, "test": {}}, "split 'train' has no 'id', only nothing"),
        ({"train": {}, "dev": {}, "valid": {}, "test": {}}, "'test', each once"),
    ],
)
def test_files_without_the_splits_are_refused(tmp_path, content, expected):
    assert expected in refused(write(tmp_path, content))


@pytest.mark.parametrize("key", ["vision", "audio"])
def test_splits_of_different_widths_are_refused(tmp_path, key):
    content = mmsa()
    content["test"][key] = content["test"][key][:, :, :20]
    assert "in val, 20 in test), expected the same" in refused(write(tmp_path, content))


def test_a_file_cut_short_is_refused(tmp_path):
    path = write(tmp_path, mmsa())
    path.write_bytes(path.read_bytes()[:-1000])
    assert "not a complete pickle" in refused(path)


class MakesFolder:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_file_that_could_run_code_is_refused_and_does_not(tmp_path):
    marker = tmp_path / "marker"
    message = refused(write(tmp_path, {**mmsa(), "extra": MakesFolder(marker)}))
    assert "posix.mkdir, which could run code when loaded" in message
    assert not marker.exists()


# Moving padding.

NUMBERS = st.one_of(
    st.just(0.0), st.floats(-1e6, 1e6, width=32), st.sampled_from([-np.inf, np.nan, np.inf])
)


@st.composite
def contents(draw, first_and_last_filled: bool):
    """Some segments' own rows, `(length, 2)` each, and a number of steps to pad them to."""
    segments = [
        draw(arrays(np.float32, (draw(st.integers(0, 6)), 2), elements=NUMBERS))
        for _ in range(draw(st.integers(1, 5)))
    ]
    if first_and_last_filled:
        for segment in segments:
            segment[:1] = segment[-1:] = 1
    steps = max(1, *(len(segment) for segment in segments)) + draw(st.integers(0, 3))
    return segments, steps


def padded(segments, steps: int, front: bool) -> np.ndarray:
    values = np.zeros((len(segments), steps, 2), np.float32)
    for row, segment in zip(values, segments, strict=True):
        row[steps - len(segment) if front else 0 :][: len(segment)] = segment
    return values


@given(contents(first_and_last_filled=False))
def test_padding_goes_to_the_front_by_lengths(content):
    segments, steps = content
    lengths = np.array([len(segment) for segment in segments])
    values = padded(segments, steps, front=False)
    before = values.copy()
    moved = move_padding_to_front(values, lengths)
    assert np.array_equal(moved, padded(segments, steps, front=True), equal_nan=True)
    assert np.array_equal(values, before, equal_nan=True)


@given(contents(first_and_last_filled=True), st.booleans())
def test_padding_goes_to_the_front_without_lengths(content, front):
    segments, steps = content
    moved = move_padding_to_front(padded(segments, steps, front))
    assert np.array_equal(moved, padded(segments, steps, front=True), equal_nan=True)


@given(arrays(np.float32, st.tuples(*[st.integers(1, 5)] * 3), elements=NUMBERS), st.data())
def test_no_row_is_ever_lost(values, data):
    steps = values.shape[1]
    lengths = data.draw(st.none() | arrays(np.int64, len(values), elements=st.integers(0, steps)))
    moved = move_padding_to_front(values, lengths)
    for before, after in zip(values, moved, strict=True):
        rows = [[row.tolist() for row in rows if row.any()] for rows in (before, after)]
        assert np.array_equal(*rows, equal_nan=True)


def test_zero_rows_at_the_end_of_front_padded_segments_are_content():
    """A face that is lost in the last frames, in a file padded in front."""
    values = np.ones((3, 6, 2), np.float32)
    values[0, :2] = 0
    values[1, -2:] = 0
    values[2] = 0
    assert move_padding_to_front(values) is values


def test_zero_rows_at_the_start_of_back_padded_segments_are_content():
    values = np.ones((3, 6, 2), np.float32)
    values[0, 2:] = 0
    values[1, 0] = values[1, 3:] = 0
    moved = move_padding_to_front(values)
    assert moved[:, :, 0].tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1], [1] * 6]


def test_arrays_in_fortran_order_are_written_in_ours(tmp_path):
    content = mmsa()
    for split in content.values():
        split.update({k: np.asfortranarray(v) for k, v in split.items() if np.ndim(v) == 3})
    split = read_pickle(write(tmp_path, content)).splits["val"]
    assert split.pieces.flags.c_contiguous
    np.testing.assert_array_equal(split.pieces, content["valid"]["text_bert"][:, :2])


def test_one_long_segment_does_not_pad_all_others(tmp_path):
    rows = [np.zeros((2**20, 1), np.float32)] + [np.zeros((1, 1), np.float32)] * 999
    split = {"id": [f"v$_${k}" for k in range(1000)], "audio": rows, "vision": rows}
    with pytest.raises(InputError, match="from 1 to 1048576 rows a segment"):
        read_pickle(write(tmp_path, {"test": split}))


def test_a_pipe_holds_no_words(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert not holds_words(tmp_path / "pipe")


def test_only_the_first_bytes_are_read_to_tell_a_kind_of_pickle(tmp_path):
    size = 2**26
    path = tmp_path / "file.pkl"
    path.write_bytes(b"\x80\x04\x8e" + size.to_bytes(8, "little") + bytes(size) + b".")
    tracemalloc.start()
    assert not holds_words(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size // 8
