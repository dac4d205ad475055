"""Compressed sequences: the same values as plain ones, and no more work than it takes."""

from __future__ import annotations

import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from data.formats import chunks as chunks_module
from data.formats import inflate as inflate_module
from data.formats.csd import ComputationalSequence
from data.formats.inflate import inflate
from tests.csd_files import all_features, write_csd


@pytest.fixture(params=["libdeflate", "zlib"])
def either(request, monkeypatch):
    """Decompress with the fast library, and as where it is missing."""
    with_zlib = inflate_module.decompress_with_zlib
    if request.param == "zlib":
        monkeypatch.setattr(inflate_module, "decompress", with_zlib)
    elif inflate_module.decompress is with_zlib:
        pytest.skip("the package deflate is not installed")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(data=st.data(), level=st.integers(0, 9), shuffle=st.booleans(), fletcher32=st.booleans())
def test_any_rows_of_any_chunks_are_the_plain_files(
    either, tmp_path, data, level, shuffle, fletcher32
):
    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 9)))
    size = data.draw(st.tuples(*(st.integers(1, n) for n in shape)))
    dtype = data.draw(st.sampled_from(["<f4", ">f8", "<i2", "u1"]))
    features = data.draw(hypothesis_numpy.arrays(dtype, shape))
    starts = np.array(data.draw(st.permutations(range(shape[0]))), float)
    entry = {"video": (np.stack([starts, starts + 1], axis=1), features)}
    options = {"compression": "gzip", "compression_opts": level, "shuffle": shuffle}
    write_csd(tmp_path / "plain.csd", entry)
    write_csd(
        tmp_path / "gzip.csd",
        entry,
        features_options={"chunks": size, "fletcher32": fletcher32},
        **options,
    )
    rows = np.array(data.draw(st.lists(st.integers(0, shape[0] - 1), max_size=20)), dtype=int)
    read = []
    for name in ("plain.csd", "gzip.csd"):
        with ComputationalSequence(tmp_path / name) as sequence:
            video = sequence.read("video")
            read.append((video.features(rows), all_features(video)))
    for plain, packed in zip(*read, strict=True):
        assert plain.shape == packed.shape
        assert plain.tobytes() == packed.tobytes()


def test_a_chunk_is_decompressed_once_and_only_if_it_is_wanted(tmp_path, monkeypatch):
    features = np.arange(600.0).reshape(100, 6)
    intervals = np.stack([np.arange(100.0), np.arange(100.0) + 1], axis=1)
    write_csd(
        tmp_path / "a.csd",
        {"video": (intervals, features)},
        features_options={"chunks": (10, 4)},
        compression="gzip",
    )
    sizes = []
    monkeypatch.setattr(
        chunks_module, "inflate", lambda content, size: sizes.append(size) or inflate(content, size)
    )
    with ComputationalSequence(tmp_path / "a.csd") as sequence:
        video = sequence.read("video")
        sizes.clear()  # those of the intervals
        rows = np.array([55, 12, 13, 57, 12, 99, 58])
        np.testing.assert_array_equal(video.features(rows), features[rows])
    assert sizes == [10 * 4 * 8] * 6  # three chunks along the rows, two along the columns


CONTENT = bytes(range(256)) * 20
STREAM = zlib.compress(CONTENT, 9)


def test_a_stream_becomes_what_it_was(either):
    assert inflate(STREAM, len(CONTENT)) == CONTENT
    assert inflate(STREAM + b"more", len(CONTENT)) == CONTENT  # as a checksum behind it
    zeros = zlib.compress(bytes(10**6), 9)  # which is as small as a stream can be
    assert inflate(zeros, 10**6) == bytes(10**6)
    assert inflate(zlib.compress(b""), 0) == b""


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (STREAM, len(CONTENT) - 1),
        (STREAM, len(CONTENT) + 1),
        (STREAM, 2**40),
        (STREAM[:-1], len(CONTENT)),
        (STREAM[:-4] + b"\0\0\0\0", len(CONTENT)),
        (zlib.compress(bytes(300 * 2**20)), 60),
        (zlib.compress(CONTENT)[2:-4], len(CONTENT)),
        (b"", 60),
        (b"", 1),
        (b"no gzip", 7),
    ],
    ids="shorter longer huge cut checksum expands raw empty one other".split(),
)
def test_a_stream_of_another_length_is_refused(either, content, size):
    with pytest.raises(OSError, match=f"does not hold {size} bytes"):
        inflate(content, size)


def test_no_more_memory_is_asked_for_than_a_stream_can_fill(either):
    tracemalloc.start()
    with pytest.raises(OSError, match="does not hold"):
        inflate(STREAM, 2**30)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
