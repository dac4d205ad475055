"""Computational sequences that point elsewhere, or claim more than they hold."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t

from data.formats.csd import ComputationalSequence
from system.errors import InputError
from tests.csd_files import all_features, write_csd

INTERVALS = np.stack([np.arange(5.0), np.arange(5.0) + 1], axis=1)
FEATURES = np.arange(15, dtype=np.float32).reshape(5, 3)
WORDS = np.array([[b"good"], [b"bad"], [b"a"], [b"sp"], [b""]], "S8")
ENTRY = "sequence/data/video"


@pytest.fixture
def path(tmp_path):
    write_csd(tmp_path / "sequence.csd", {"video": (INTERVALS, FEATURES)})
    return tmp_path / "sequence.csd"


def read(path, holds_text=False):
    with ComputationalSequence(path, holds_text) as sequence:
        rows = sequence.read("video")
        return rows.words(np.arange(5)) if holds_text else all_features(rows)


def refused(path, message, holds_text=False):
    """Reading must end in one line, and soon, and without taking memory."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message) as caught:
            read(path, holds_text)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def replaced(path, name, make):
    """Put what `make(group, name)` makes in the place of a dataset, or of the entry."""
    with h5py.File(path, "a") as file:
        group, _, last = f"{ENTRY}/{name}".rstrip("/").rpartition("/")
        del file[group][last]
        make(file[group], last)


def other_file(tmp_path):
    write_csd(tmp_path / "other.csd", {"video": (INTERVALS, FEATURES + 1)}, root="sequence")
    return str(tmp_path / "other.csd")


@pytest.mark.parametrize("name", ["features", "intervals", ""])
def test_a_link_into_another_file_is_not_followed(path, tmp_path, name):
    link = h5py.ExternalLink(other_file(tmp_path), f"{ENTRY}/{name}")
    replaced(path, name, lambda group, last: group.__setitem__(last, link))
    refused(path, "link into another file")


@pytest.mark.parametrize("name", ["features", "intervals", ""])
@pytest.mark.parametrize("target", [f"/{ENTRY}/intervals", "/sequence/out", "features", "/"])
def test_a_link_within_the_file_is_not_followed(path, tmp_path, name, target):
    """It may lead to a link into another file, or to itself."""
    with h5py.File(path, "a") as file:
        file["sequence/out"] = h5py.ExternalLink(other_file(tmp_path), f"{ENTRY}/{name}")
    replaced(path, name, lambda group, last: group.__setitem__(last, h5py.SoftLink(target)))
    refused(path, f"{name or 'video'} is a link, which is not followed")


@pytest.mark.parametrize("group", ["sequence", "sequence/data"])
def test_no_group_above_the_entries_is_elsewhere(path, tmp_path, group):
    with h5py.File(path, "a") as file:
        del file[group]
        file[group] = h5py.ExternalLink(other_file(tmp_path), group)
    refused(path, f"{group.split('/')[-1]} is a link into another file")


def test_a_dataset_in_the_place_of_an_entry_is_told(path):
    replaced(path, "", lambda group, last: group.create_dataset(last, data=FEATURES))
    refused(path, "no dataset features; expected features and intervals")


def test_a_name_with_a_slash_leads_nowhere(path, tmp_path):
    """HDF5 takes it for a way, which may go through a link."""
    write_csd(path, {"vid_eo": (INTERVALS, FEATURES)})
    path.write_bytes(path.read_bytes().replace(b"vid_eo", b"vid/eo"))
    refused(path, "the name vid/eo")


def test_a_name_that_is_not_utf8_is_told(path):
    path.write_bytes(path.read_bytes().replace(b"video\0", b"vid\xff\xfe\0"))
    refused(path, "not UTF-8")


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_external_storage_is_not_read(path, tmp_path, kind):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(200))) if kind == "file" else os.mkfifo(secret)

    def make(group, name):
        group.create_dataset(name, (5, 3), "<f4", external=[(str(secret), 0, 60)])

    replaced(path, "features", make)
    refused(path, "external storage")


@pytest.mark.parametrize("source", [None, "missing.csd", "other.csd", "pipe"])
def test_a_virtual_dataset_is_not_read(path, tmp_path, source):
    other_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    file, name = (".", f"/{ENTRY}/features") if source is None else (str(tmp_path / source), "x")

    def make(group, last):
        layout = h5py.VirtualLayout((5, 3), "f4", maxshape=(None, 3))
        values = h5py.VirtualSource(file, name, (5, 3), maxshape=(None, 3))
        layout[: h5s.UNLIMITED] = values[: h5s.UNLIMITED]
        group.create_virtual_dataset(last, layout)

    replaced(path, "features", make)
    refused(path, "virtual dataset")


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("attributes", [0, 9])
def test_a_virtual_dataset_of_countless_sources_takes_no_memory(path, libver, attributes):
    """HDF5 would take it on opening; a header in several parts is read like any other."""
    path.unlink()
    write_csd(path, {"video": (INTERVALS, FEATURES)})
    with h5py.File(path, "r") as file:
        intervals = file[f"{ENTRY}/intervals"][:]
    with h5py.File(path, "w", libver=libver) as file:
        file[f"{ENTRY}/intervals"] = intervals
        layout = h5py.VirtualLayout((5, 3), "f4")
        layout[:] = h5py.VirtualSource("source.csd", "values", (5, 3))
        dataset = file[ENTRY].create_virtual_dataset("features", layout)
        for number in range(attributes):
            dataset.attrs[f"a{number}"] = "x" * 99
    content = path.read_bytes()
    before = struct.pack("<Q", 1) + b"source.csd\0"
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, struct.pack("<Q", 2**24) + before[8:]))
    refused(path, "virtual dataset")


def test_a_header_that_goes_on_in_itself_is_refused_at_once(path):
    """Otherwise a part of a megabyte would be read 64 times, which takes a quarter of a minute."""
    with h5py.File(path, "a") as file:
        for number in range(9):
            file[f"{ENTRY}/features"].attrs[f"a{number}"] = "x" * 99
    content = path.read_bytes()
    continuation = struct.pack("<HHB3x", 0x10, 16, 0)
    head, _, rest = content.partition(continuation)
    assert rest and continuation not in rest
    loop = continuation + struct.pack("<QQ", len(content), 2**20)
    path.write_bytes(head + loop + rest[16:] + loop.ljust(2**20, b"\0"))
    refused(path, "a header in too many parts")


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_headers_of_all_other_datasets_are_no_virtual_ones(tmp_path, libver):
    for number, how in enumerate(({}, {"compression": "gzip"}, {"chunks": (5, 3)})):
        with h5py.File(tmp_path / f"{number}.csd", "w", libver=libver, userblock_size=512) as file:
            file[f"{ENTRY}/intervals"] = INTERVALS
            dataset = file.create_dataset(f"{ENTRY}/features", data=FEATURES, **how)
            for attribute in range(12):
                dataset.attrs[f"a{attribute}"] = "x" * 2000
        np.testing.assert_array_equal(read(tmp_path / f"{number}.csd"), FEATURES)


def stored_as(path, file_type, values, memory_type=None, name="features", **options):
    """Store `values` as an HDF5 type that NumPy has no name for."""

    def make(group, last):
        settings = h5p.create(h5p.DATASET_CREATE)
        if options:
            settings.set_chunk((2, 1))
            settings.set_deflate(4)
        space = h5s.create_simple(values.shape)
        dataset = h5d.create(group.id, last.encode(), file_type, space, settings)
        dataset.write(h5s.ALL, h5s.ALL, values, memory_type)

    replaced(path, name, make)


@pytest.mark.parametrize("options", [{}, {"gzip": True}])
@pytest.mark.parametrize("padding", [h5t.STR_NULLPAD, h5t.STR_SPACEPAD, h5t.STR_NULLTERM])
@pytest.mark.parametrize("encoding", [h5t.CSET_ASCII, h5t.CSET_UTF8])
def test_words_are_the_same_however_they_are_padded(path, options, padding, encoding):
    kind = h5t.C_S1.copy()
    kind.set_size(8)
    kind.set_cset(encoding)
    numpys = kind.copy()
    numpys.set_strpad(h5t.STR_NULLPAD)
    kind.set_strpad(padding)
    stored_as(path, kind, WORDS, numpys, **options)
    assert read(path, holds_text=True) == ["good", "bad", "a", "sp", ""]


@pytest.mark.parametrize("options", [{}, {"gzip": True}])
def test_numbers_of_an_unusual_type_keep_their_values(path, options):
    kind = h5t.STD_I32LE.copy()
    kind.set_precision(24)
    kind.set_offset(8)  # bits
    stored_as(path, kind, FEATURES, h5t.NATIVE_FLOAT, **options)
    np.testing.assert_array_equal(read(path), FEATURES)


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle": True},
        {"fletcher32": True},
        {"compression": "gzip", "shuffle": True},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"chunks": (2, 2)},
        {"chunks": (2, 2), "compression": "gzip", "shuffle": True},
    ],
)
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2"])
def test_simple_filters_are_undone(path, options, dtype):
    write_csd(path, {"video": (INTERVALS, FEATURES.astype(dtype))}, **options)
    np.testing.assert_array_equal(read(path), FEATURES)


def test_words_of_any_length_are_read_from_chunks(path):
    values = np.array(WORDS.astype(str), dtype=h5py.string_dtype())
    write_csd(path, {"video": (INTERVALS, values)}, compression="gzip")
    assert read(path, holds_text=True) == ["good", "bad", "a", "sp", ""]


@pytest.mark.parametrize("options", [{"scaleoffset": 3}, {"compression": "lzf"}])
def test_another_filter_is_refused_by_name(path, options):
    write_csd(path, {"video": (INTERVALS, FEATURES)}, **options)
    refused(path, "has the filter .*expected gzip")


def test_a_filter_that_is_not_there_is_refused_by_name(path):
    """HDF5 would look for it in the folders of its plugins."""

    def make(group, name):
        settings = h5p.create(h5p.DATASET_CREATE)
        settings.set_chunk((5, 3))
        settings.set_filter(32999, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5s.create_simple((5, 3))
        h5d.create(group.id, name.encode(), h5t.IEEE_F32LE, space, settings)

    replaced(path, "features", make)
    refused(path, "the filter 32999")


def chunked(path, content, shape=(5, 3), skipped=0, chunk=(5, 3), name="features"):
    def make(group, name):
        dataset = group.create_dataset(name, shape, "<f4", chunks=chunk, compression="gzip")
        if content is not None:
            try:
                dataset.id.write_direct_chunk((0, 0), content, skipped)
            except OSError:
                pytest.skip("this HDF5 does not write such a chunk")

    replaced(path, name, make)


@pytest.mark.parametrize(
    ("content", "skipped"),
    [
        (zlib.compress(bytes(300 * 2**20)), 0),
        (zlib.compress(bytes(56)), 0),
        (zlib.compress(bytes(60))[:-3], 0),
        (b"no gzip", 0),
        (bytes(40), 1),
    ],
    ids=["expands", "too short", "cut", "no gzip", "too short, plain"],
)
def test_a_chunk_of_another_length_is_told(path, content, skipped):
    chunked(path, content, skipped=skipped)
    refused(path, "damaged")


def test_chunks_that_are_larger_than_their_rows_are_not_all_held_at_once(path):
    """Rows as wide as 40 chunks of a megabyte each, of which all but a few bytes are padding."""

    def make(group, name):
        dataset = group.create_dataset(
            name, (5, 40), "<f4", chunks=(2**18, 1), maxshape=(None, 40), compression="gzip"
        )
        for column in range(40):
            content = np.zeros(2**18, "<f4")
            content[:5] = column
            dataset.id.write_direct_chunk((0, column), zlib.compress(content.tobytes()))

    replaced(path, "features", make)
    tracemalloc.start()
    np.testing.assert_array_equal(read(path), np.tile(np.arange(40.0), (5, 1)))
    assert tracemalloc.get_traced_memory()[1] < 12e6
    tracemalloc.stop()


def test_chunks_that_were_never_written_are_no_zeros(path):
    chunked(path, None)
    refused(path, "0 of 1 chunks were written")


def test_values_that_were_never_written_are_no_zeros(path):
    replaced(path, "features", lambda group, name: group.create_dataset(name, (5, 3), "<f4"))
    refused(path, r"shape \(5, 3\) claims 60 bytes, but the file has 0")


@pytest.mark.parametrize("chunk_rows", [5, 2**28])
def test_a_shape_that_the_file_cannot_hold_is_told(path, chunk_rows):
    chunked(path, zlib.compress(bytes(60)), (2**40, 3), chunk=(chunk_rows, 3))
    chunked(path, zlib.compress(bytes(40)), (2**40, 2), chunk=(chunk_rows, 2), name="intervals")
    refused(path, r"claims|1 of 4,096 chunks were written")


@pytest.mark.parametrize("rows", [100_000, 1_000_000])
def test_parts_that_are_links_to_one_entry_claim_no_more_than_the_file_can_hold(path, rows):
    """Each is as small as may be, or claims the same bytes of the file as the others."""
    values = np.zeros((rows, 2), np.float32), np.zeros((rows, 1), np.int8)
    path.unlink()
    write_csd(path, {"video[0]": values}, chunks=(50_000, 1), compression="gzip")
    with h5py.File(path, "a") as file:
        data = file["sequence/data"]
        for part in range(1, 100):
            data[f"video[{part}]"] = data["video[0]"]
    refused(path, r"the 100 parts of video claim [\d,]+ bytes, but the file has [\d,]+ for them")


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}])
def test_many_small_parts_are_read(path, options):
    """Together they claim far more than is stored for any one of them."""
    path.unlink()
    write_csd(path, {f"video[{part}]": (INTERVALS, FEATURES) for part in range(300)}, **options)
    np.testing.assert_array_equal(read(path), np.repeat(FEATURES, 300, axis=0))


def test_many_parts_that_fill_little_of_their_chunks_are_read(path):
    """A chunk takes memory only while it is read."""
    path.unlink()
    entries = {f"video[{part}]": (INTERVALS, FEATURES) for part in range(100)}
    options = {"compression": "gzip", "maxshape": (None, 3), "chunks": (100_000, 3)}
    write_csd(path, entries, features_options=options)
    np.testing.assert_array_equal(read(path), np.repeat(FEATURES, 100, axis=0))


def test_a_place_outside_the_file_is_told(path):
    with h5py.File(path) as file:
        place = struct.pack("<Q", file[f"{ENTRY}/features"].id.get_offset())
    content = path.read_bytes()
    assert content.count(place) == 1
    path.write_bytes(content.replace(place, struct.pack("<Q", len(content) - 4)))
    refused(path, "damaged")


def test_words_that_claim_more_than_the_file_has_are_told(path):
    values = np.array([["word" * 9]] * 5, dtype=h5py.string_dtype())
    write_csd(path, {"video": (INTERVALS, values)})
    content = path.read_bytes()
    length = struct.pack("<I", 36)
    with h5py.File(path) as file:
        place = file[f"{ENTRY}/features"].id.get_offset()
    assert content[place : place + 4] == length
    path.write_bytes(content[:place] + struct.pack("<I", 2**31) + content[place + 4 :])
    refused(path, "words claim", holds_text=True)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, b"H"),  # the signature
        (8, struct.pack("<Q", 2**40)),  # the heap's size
        (24, struct.pack("<Q", 2**64 - 16)),  # a word's: back to where it begins
        (24, struct.pack("<Q", 2**40)),
        (16, b"\0\0"),  # the number of free space, which has its own size, here of 4 bytes
    ],
)
def test_heaps_of_words_that_cannot_be_walked_through_are_told(path, offset, value):
    """HDF5 looks for a word by the sizes of those before it, if need be without end."""
    values = np.array([["word"]] * 5, dtype=h5py.string_dtype())
    write_csd(path, {"video": (INTERVALS, values)})
    assert read(path, holds_text=True) == ["word"] * 5
    content = path.read_bytes()
    place = content.rindex(b"GCOL") + offset
    path.write_bytes(content[:place] + value + content[place + len(value) :])
    refused(path, "words are in a damaged heap; download it again", holds_text=True)


def test_parts_that_are_links_to_one_have_no_more_text_than_the_file(path):
    values = np.array([["word" * 10_000]], dtype=h5py.string_dtype())
    path.unlink()
    write_csd(path, {"video[0]": (INTERVALS[:1], values)})
    with h5py.File(path, "a") as file:
        data = file["sequence/data"]
        for part in range(1, 1000):
            data[f"video[{part}]"] = data["video[0]"]
    message = r"video video: its parts have [\d,]+ letters, more than the file has bytes"
    with ComputationalSequence(path, holds_text=True) as sequence:
        rows = sequence.read("video")
        with pytest.raises(InputError, match=message):
            rows.words(np.arange(1000))


@pytest.mark.parametrize(
    "value",
    [
        h5py.Empty("f4"),
        np.float32(1),
        np.dtype("f4"),
        np.zeros((5, 3), [("a", "f4"), ("b", "i4")]),
        np.zeros((5, 3), complex),
        np.zeros((5, 3), bool),
        np.zeros((5, 3), "V7"),
        "reference",
        "numbers of any length",
    ],
    ids=str,
)
def test_what_is_no_table_of_numbers_is_told(path, value):
    def make(group, name):
        if isinstance(value, str):
            kind = h5py.ref_dtype if value == "reference" else h5py.vlen_dtype("f4")
            group.create_dataset(name, (5, 3), kind)
        else:
            group[name] = value

    for holds_text in (False, True):
        replaced(path, "features", make)
        refused(path, "expected", holds_text)


def test_a_named_type_is_as_good(path):
    with h5py.File(path, "a") as file:
        file["sequence/type"] = np.dtype("<f4")
    replaced(
        path,
        "features",
        lambda group, name: group.create_dataset(
            name, data=FEATURES, dtype=group.file["sequence/type"]
        ),
    )
    np.testing.assert_array_equal(read(path), FEATURES)


def with_tree(path, node, key_bytes, levels, children):
    """Put levels of nodes above a node of an index, each of which holds the one below many times.

    Returns the file's content, and the place of the highest node, which nothing refers to yet.
    """
    content = path.read_bytes()
    grown, child = bytearray(content), node
    for level in range(1, levels + 1):
        key = content[node + 24 : node + 24 + key_bytes]
        head = b"TREE" + content[node + 4 : node + 5] + struct.pack("<BH", level, children)
        entries = (key + struct.pack("<Q", child)) * children + key
        child = len(grown)
        grown += head + b"\xff" * 16 + entries.ljust(64 * (key_bytes + 8) + key_bytes, b"\0")
    return grown.replace(*(struct.pack("<Q", len(x)) for x in (content, grown)), 1), child


@pytest.mark.parametrize("checksum", [False, True])
def test_an_index_of_chunks_whose_nodes_hold_each_other_is_told(path, checksum):
    """HDF5 would walk through a billion nodes."""
    path.unlink()
    options = {"chunks": (1, 3), "compression": "gzip", "fletcher32": checksum}
    write_csd(path, {"video": (INTERVALS, FEATURES)}, features_options=options)
    node = path.read_bytes().rindex(b"TREE\1\0")
    content, root = with_tree(path, node, key_bytes=32, levels=5, children=64)
    place = struct.pack("<Q", node)
    assert content.count(b"\3\2\3" + place) == 1  # in the layout message
    path.write_bytes(content.replace(b"\3\2\3" + place, b"\3\2\3" + struct.pack("<Q", root)))
    refused(path, "the index of its chunks is damaged")


@pytest.mark.parametrize("number", [0, 2], ids=["root", "data"])
def test_an_index_of_names_whose_nodes_hold_each_other_is_told(path, number):
    content = path.read_bytes()
    nodes = [place for place in range(len(content)) if content[place : place + 5] == b"TREE\0"]
    node, size = nodes[number], 24 + 32 * 16 + 8
    path.write_bytes(content + content[node : node + size])  # its copy is the lowest
    grown, root = with_tree(path, len(content), key_bytes=8, levels=6, children=32)
    grown[node : node + size] = grown[root : root + size]
    path.write_bytes(grown.replace(*(struct.pack("<Q", len(x)) for x in (content, grown)), 1))
    refused(path, "the index of its names is damaged")
