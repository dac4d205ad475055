"""Writing text features: bit for bit the same however often it is interrupted."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, repeat
from threading import Barrier
from zlib import crc32

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.layout import TEXT_LENGTH
from data.text import feature_file
from data.text.feature_file import count_unencoded, write_text_features
from tests.preparation import SINGLE_PROCESS


class BatchEncoder:
    """Stands for TextEncoder; its features show in which batch a sentence was encoded."""

    width = 2
    batch_size = 3
    batches_ahead = 0  # of those that are written

    def __init__(self, before_batch=lambda: None) -> None:
        self.encoded: list[str] = []
        self._before_batch = before_batch

    def encode_batches(self, batches):
        encoded = []
        for batch in batches:
            encoded.append(self.encode(batch))
            if len(encoded) > self.batches_ahead:
                yield encoded.pop(0)
        yield from encoded

    def encode(self, sentences):
        self._before_batch()
        self.encoded += sentences
        batch = crc32(repr(sentences).encode())
        shape = (TEXT_LENGTH, self.width)
        return np.stack(
            [
                np.random.default_rng([batch, crc32(sentence.encode())]).random(shape, np.float32)
                for sentence in sentences
            ]
        )


class WatchedProcess:
    """The only process there is; calls `watch` wherever several would wait for each other."""

    count, rank, is_first = 1, 0, True

    def __init__(self, watch) -> None:
        self._watch = watch

    def broadcast(self, value):
        self._watch()
        return value


some_sentences = st.lists(st.sampled_from("a b c d e f g h i j".split()), max_size=20)
on_a_file = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def put(folder, files):
    """Let `folder` hold `files`, and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("batches_ahead", [0, 1])
@given(sentences=some_sentences)
@on_a_file
def test_every_sentence_is_encoded_once_and_written_where_it_occurs(
    tmp_path, batches_ahead, sentences
):
    encoder, folder = BatchEncoder(), tmp_path / "train"
    encoder.batches_ahead = batches_ahead
    put(folder, {})
    write_text_features(folder / "bert50.npy", sentences, encoder, SINGLE_PROCESS)
    features = np.load(folder / "bert50.npy")
    assert features.shape == (len(sentences), TEXT_LENGTH, encoder.width)
    assert features.dtype == np.float32
    different = list(dict.fromkeys(sentences))
    assert encoder.encoded == different
    batches = [different[start : start + 3] for start in range(0, len(different), 3)]
    expected = {
        sentence: values
        for batch in batches
        for sentence, values in zip(batch, BatchEncoder().encode(batch), strict=True)
    }
    for values, sentence in zip(features, sentences, strict=True):
        np.testing.assert_array_equal(values, expected[sentence])
    assert set(files_in(folder)) == {"bert50.npy", "bert50.npy.done"}


@pytest.fixture
def every_batch(monkeypatch):
    """Put each batch on the disk as it comes."""
    monkeypatch.setattr(feature_file, "_SECONDS_BETWEEN_FLUSHES", 0)


@given(sentences=some_sentences, data=st.data())
@on_a_file
def test_after_a_kill_the_result_is_the_same_bit_for_bit(every_batch, tmp_path, sentences, data):
    folder, states = tmp_path / "train", []
    path = folder / "bert50.npy"
    put(folder, {})
    first = BatchEncoder()

    def watch():
        states.append((files_in(folder), list(first.encoded)))

    first._before_batch = watch
    write_text_features(path, sentences, first, WatchedProcess(watch))
    whole = files_in(folder)

    # What is on disk at one of these moments is what a kill leaves then.
    remaining, encoded = data.draw(st.sampled_from(states))
    put(folder, remaining)
    if {"bert50.npy", "bert50.npy.done"} <= set(remaining):
        # In the midst of the next batch: any part of its rows is written.
        for sentence in first.encoded[len(encoded) : len(encoded) + first.batch_size]:
            row_bytes = TEXT_LENGTH * first.width * 4
            with path.open("r+b") as file:
                file.seek(128 + sentences.index(sentence) * row_bytes)
                file.write(b"?" * data.draw(st.integers(0, row_bytes)))
    second = BatchEncoder()
    write_text_features(path, sentences, second, SINGLE_PROCESS)
    assert files_in(folder) == whole
    assert encoded + second.encoded == first.encoded


@given(sentences=some_sentences, interruptions=st.lists(st.integers(0, 3), max_size=3))
@on_a_file
def test_after_interruptions_the_result_is_the_same_bit_for_bit(tmp_path, sentences, interruptions):
    folder = tmp_path / "train"
    path = folder / "bert50.npy"
    put(folder, {})
    write_text_features(path, sentences, BatchEncoder(), SINGLE_PROCESS)
    whole = files_in(folder)
    put(folder, {})
    encoded = []
    for batches in [*interruptions, None]:
        allowed = iter(range(batches)) if batches is not None else repeat(None)

        def stop_after(allowed=allowed):
            if next(allowed, "stop") == "stop":
                raise KeyboardInterrupt

        encoder = BatchEncoder(stop_after)
        with suppress(KeyboardInterrupt):
            write_text_features(path, sentences, encoder, SINGLE_PROCESS)
        encoded += encoder.encoded
    assert files_in(folder) == whole
    assert encoded == list(dict.fromkeys(sentences))


def test_a_complete_file_is_left_as_it_is(tmp_path):
    path, encoder = tmp_path / "bert50.npy", BatchEncoder()
    write_text_features(path, ["a", "b"], encoder, SINGLE_PROCESS)
    before = path.stat()
    write_text_features(path, ["a", "b"], encoder, SINGLE_PROCESS)
    assert encoder.encoded == ["a", "b"]
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("damage", ["cut", "no marks", "cut marks", "junk", "zeros in a row"])
def test_what_nothing_vouches_for_is_encoded_again(tmp_path, damage):
    path, sentences = tmp_path / "bert50.npy", list("abcdaefgh")
    marks = path.with_name("bert50.npy.done")
    write_text_features(path, sentences, BatchEncoder(), SINGLE_PROCESS)
    whole = path.read_bytes()
    content = {"cut": whole[:1000], "junk": b"junk", "zeros in a row": whole[:-400] + bytes(400)}
    path.write_bytes(content.get(damage, whole))
    if damage == "no marks":
        marks.unlink()
        path.write_bytes(whole[:200] + bytes(len(whole) - 200))
    if damage == "cut marks":
        marks.write_bytes(marks.read_bytes()[:5])
    encoder = BatchEncoder()
    write_text_features(path, sentences, encoder, SINGLE_PROCESS)
    assert path.read_bytes() == whole
    assert encoder.encoded == (["g", "h"] if damage == "zeros in a row" else list("abcdefgh"))


def test_a_disk_that_is_full_at_the_start_leaves_nothing_wrong(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "bert50.npy"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text_features(path, ["a"], BatchEncoder(), SINGLE_PROCESS)
    assert not path.exists()
    monkeypatch.undo()
    write_text_features(path, ["a"], BatchEncoder(), SINGLE_PROCESS)
    np.testing.assert_array_equal(np.load(path), BatchEncoder().encode(["a"]))


class ProcessInThread:
    """One of several processes, played by threads."""

    def __init__(self, rank, box, barrier) -> None:
        self.count, self.rank, self.is_first = barrier.parties, rank, rank == 0
        self._box, self._barrier = box, barrier

    def broadcast(self, value):
        if self.is_first:
            self._box["value"] = value
        self._barrier.wait(timeout=30)
        value = self._box["value"]
        self._barrier.wait(timeout=30)
        return value


@pytest.mark.parametrize("count", [2, 5])
def test_several_processes_share_the_work_and_the_result_is_the_same(tmp_path, count):
    sentences = list("abcdefgabcdefghijkl")
    alone, together = tmp_path / "alone.npy", tmp_path / "together.npy"
    write_text_features(alone, sentences, BatchEncoder(), SINGLE_PROCESS)
    box, barrier = {}, Barrier(count)
    encoders = [BatchEncoder() for _ in range(count)]
    with ThreadPoolExecutor(count) as threads:
        calls = [
            threads.submit(
                write_text_features,
                together,
                sentences,
                encoder,
                ProcessInThread(rank, box, barrier),
            )
            for rank, encoder in enumerate(encoders)
        ]
        for call in calls:
            call.result()
    assert together.read_bytes() == alone.read_bytes()
    encoded = chain.from_iterable(encoder.encoded for encoder in encoders)
    assert sorted(encoded) == sorted(set(sentences))
    assert sum(bool(encoder.encoded) for encoder in encoders) == min(count, 4)  # batches


# ---------------------------------------------------------------- what is on the disk


def marks_of(path):
    marks = path.with_name(path.name + ".done")
    return np.count_nonzero(np.fromfile(marks, "<u4")) if marks.exists() else None


def record_flushes(monkeypatch, path, record):
    """Call `record` after each flush of the file at `path`."""
    fsync = os.fsync

    def flush(descriptor):
        fsync(descriptor)
        if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
            record()

    monkeypatch.setattr(os, "fsync", flush)


@pytest.mark.parametrize("seconds", [0, 3600])
def test_a_batch_is_marked_once_it_is_on_the_disk(tmp_path, monkeypatch, seconds):
    path, encoder, flushed, counts = tmp_path / "bert50.npy", BatchEncoder(), [0], []

    def watch():
        counts.append(marks_of(path))
        assert counts[-1] <= flushed[-1]

    def record():
        watch()  # nor is it marked before
        counts.pop()
        flushed.append(len(encoder.encoded) // encoder.batch_size)

    record_flushes(monkeypatch, path, record)
    monkeypatch.setattr(feature_file, "_SECONDS_BETWEEN_FLUSHES", seconds)
    encoder._before_batch = watch
    write_text_features(path, list("abcdefghijkl"), encoder, SINGLE_PROCESS)
    assert counts == ([0, 0, 0, 0] if seconds else [0, 1, 2, 3])
    assert flushed[-1] == 4


def test_a_complete_file_is_on_the_disk_with_what_occurs_again(tmp_path, monkeypatch):
    path, flushed = tmp_path / "bert50.npy", []
    record_flushes(monkeypatch, path, lambda: flushed.append(path.read_bytes()))
    write_text_features(path, ["a", "b", "a"], BatchEncoder(), SINGLE_PROCESS)
    assert flushed[-1] == path.read_bytes()


def test_an_interruption_keeps_the_batches_since_the_last_flush(tmp_path):
    path, calls = tmp_path / "bert50.npy", iter([None, None])

    def stop_at_the_third():
        if next(calls, "stop") == "stop":
            raise KeyboardInterrupt

    sentences = list("abcdefghi")
    with pytest.raises(KeyboardInterrupt):
        write_text_features(path, sentences, BatchEncoder(stop_at_the_third), SINGLE_PROCESS)
    assert marks_of(path) == 2
    assert count_unencoded(path, sentences, BatchEncoder.batch_size) == 3


@given(sentences=some_sentences)
@on_a_file
def test_what_is_left_is_counted(tmp_path, sentences):
    folder = tmp_path / "train"
    put(folder, {})
    path, encoder = folder / "bert50.npy", BatchEncoder()
    assert count_unencoded(path, sentences, encoder.batch_size) == len(set(sentences))
    write_text_features(path, sentences, encoder, SINGLE_PROCESS)
    assert count_unencoded(path, sentences, encoder.batch_size) == 0
