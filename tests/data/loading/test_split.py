from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import re
import socket
import tracemalloc
import warnings
from multiprocessing import resource_sharer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.checking.check import check_dataset
from data.layout import SEGMENT_COLUMNS
from data.loading import batches as batches_module
from data.loading.batches import _outlast_interrupts, batches
from data.loading.options import LoaderOptions
from data.loading.split import Split
from data.manifest import write_manifest
from system.errors import InputError

FILES = {"visual": "visual50.npy", "audio": "audio50.npy", "text": "bert50.npy"}
LABELS = "label50.npy"
SHAPES = {"visual": (50, 35), "audio": (40, 74), "text": (30, 16)}
SEGMENTS = 11


def write_split(folder, segments=SEGMENTS, dtype=np.float32, ids=None, labels=None):
    """Write a split of random numbers; without `ids` it has no segments.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(segments)
    arrays = {}
    for kind, file in FILES.items():
        arrays[kind] = rng.normal(size=(segments, *SHAPES[kind])).astype(np.float32)
        np.save(folder / file, arrays[kind].astype(dtype))
    arrays["label"] = rng.uniform(-3, 3, (segments, 1, 7)).astype(np.float32)
    if labels is not None:
        arrays["label"][:, 0, 0] = labels
    np.save(folder / LABELS, arrays["label"].astype(dtype))
    if ids is not None:
        write_table(folder, ids)
    return arrays


def write_table(folder, ids, columns=SEGMENT_COLUMNS):
    rows = [",".join([f'"{id_}"'] + ["0"] * (len(columns) - 1)) for id_ in ids]
    text = "\n".join([",".join(columns), *rows]) + "\n"
    (folder / "segments.csv").write_text(text, encoding="utf-8")


def on_cpu(batch_size=4, num_workers=0):
    return LoaderOptions(torch.device("cpu"), batch_size, num_workers, verbose=False)


def read(split, order=None, **options):
    return list(batches(split, order, on_cpu(**options)))


def assert_same(read_batches, expected):
    assert len(read_batches) == len(expected)
    for batch, expected_batch in zip(read_batches, expected, strict=True):
        for x, y in zip(batch, expected_batch, strict=True):
            assert torch.equal(torch.as_tensor(x), torch.as_tensor(y))


@pytest.fixture(scope="module")
def awkward(tmp_path_factory):
    """A split with -inf, inf and NaN in every input, and its arrays."""
    folder = tmp_path_factory.mktemp("awkward")
    arrays = write_split(folder)
    rng = np.random.default_rng(1)
    for kind, file in FILES.items():
        array = arrays[kind]
        for value in (-np.inf, np.inf, np.nan):
            array[rng.random(array.shape) < 0.01] = value
        np.save(folder / file, array)
    return Split(folder), arrays


def test_batches_are_whole_and_in_file_order(tmp_path):
    arrays = write_split(tmp_path)
    read_batches = read(Split(tmp_path), batch_size=4)
    assert [len(batch.labels) for batch in read_batches] == [4, 4, 3]
    for batch in read_batches:
        assert [x.dtype for x in batch[:4]] == [torch.float32] * 4
        assert [tuple(x.shape[1:]) for x in batch.inputs] == list(SHAPES.values())
        assert batch.labels.shape[1:] == (7,)
        assert batch.not_finite == 0
    for kind in SHAPES:
        whole = torch.cat([getattr(batch, kind) for batch in read_batches])
        np.testing.assert_array_equal(whole, arrays[kind])
    labels = torch.cat([batch.labels for batch in read_batches])
    np.testing.assert_array_equal(labels, arrays["label"][:, 0])


@given(
    order=st.permutations(range(SEGMENTS)),
    count=st.integers(1, SEGMENTS),
    batch_size=st.integers(1, SEGMENTS + 1),
)
def test_infinite_and_nan_values_become_0_and_are_counted(awkward, order, count, batch_size):
    split, arrays = awkward
    order = np.array(order[:count])
    read_batches = read(split, order, batch_size=batch_size)
    assert sum(batch.not_finite for batch in read_batches) == sum(
        np.count_nonzero(~np.isfinite(arrays[kind][order])) for kind in SHAPES
    )
    for kind in SHAPES:
        whole = torch.cat([getattr(batch, kind) for batch in read_batches])
        expected = np.nan_to_num(arrays[kind][order], nan=0, posinf=0, neginf=0)
        np.testing.assert_array_equal(whole, expected)


def test_numbers_whose_sum_is_too_large_are_kept(tmp_path):
    write_split(tmp_path)
    largest = np.full((SEGMENTS, *SHAPES["audio"]), np.finfo(np.float32).max)
    np.save(tmp_path / FILES["audio"], largest)
    (batch,) = read(Split(tmp_path), batch_size=SEGMENTS)
    np.testing.assert_array_equal(batch.audio, largest)
    assert batch.not_finite == 0


def test_reading_leaves_the_files_as_they_are(awkward):
    split, arrays = awkward
    read(split)
    for kind, file in FILES.items():
        np.testing.assert_array_equal(np.load(split.folder / file), arrays[kind])


@pytest.mark.parametrize("dtype", ["float64", "float16", ">f4"])
def test_other_floats_load_as_float32(tmp_path, dtype):
    arrays = write_split(tmp_path, dtype=dtype)
    split = Split(tmp_path)
    (batch,) = read(split, batch_size=SEGMENTS)
    for kind in SHAPES:
        assert getattr(batch, kind).dtype == torch.float32
        expected = arrays[kind].astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(getattr(batch, kind), expected)
    assert split.labels.dtype == np.float32


@pytest.mark.parametrize(
    ("folder", "command"),
    [("data/train", "--datadir data)"), ("data/word/train", "--datadir data --alignment word)")],
)
def test_a_split_that_is_not_there_is_told_with_the_command_for_it(folder, command):
    with pytest.raises(InputError, match=f"prepare .* first .dataset_prep.py {re.escape(command)}"):
        Split(Path(folder))


def test_two_workers_give_the_same_batches(awkward):
    split, _ = awkward
    order = np.random.default_rng(0).permutation(SEGMENTS)
    assert_same(read(split, order, num_workers=2), read(split, order, num_workers=0))


@pytest.mark.parametrize(("batches_fit", "expected"), [(0, 0), (3, 0), (4, 1), (5, 1), (6, 2)])
def test_no_more_processes_load_than_shared_memory_has_room_for(
    awkward, monkeypatch, batches_fit, expected
):
    split, _ = awkward
    batch = sum(tensor.nbytes for tensor in split[[0]][:4])
    room = SimpleNamespace(free=batches_fit * batch)
    monkeypatch.setattr("shutil.disk_usage", lambda path: room)
    batches_module._warn_of_fewer.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            loader = batches(split, None, on_cpu(1, num_workers=2))
    assert loader.num_workers == expected
    assert len(caught) == (expected < 2)
    assert all(f"of --num_workers 2: {expected} load them" in str(one.message) for one in caught)
    assert_same(list(loader), read(split, batch_size=1))
    room.free = len(split) * batch
    assert batches(split, None, on_cpu(1, num_workers=100)).num_workers == 100


def test_a_system_without_shared_memory_files_loads_with_all_processes(awkward, monkeypatch):
    monkeypatch.setattr("data.loading.batches._SHARED_MEMORY", "/nowhere")
    assert batches(awkward[0], None, on_cpu(1, num_workers=5)).num_workers == 5


def test_a_pickled_split_opens_the_files_itself(awkward):
    split, _ = awkward
    pickled = pickle.dumps(split)
    assert len(pickled) < 1000
    assert_same(read(pickle.loads(pickled)), read(split))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_every_kind_give_the_same_batches(awkward, method):
    split, _ = awkward
    loader = batches(split, None, on_cpu(num_workers=1))
    loader.multiprocessing_context = method
    assert_same(list(loader), read(split))


def lose_a_reader():
    """Pass a resource on, as a loading process does, to a reader that ends meanwhile."""
    _outlast_interrupts(0)
    address, _ = resource_sharer._resource_sharer.register(None, lambda: None)
    with socket.socket(socket.AF_UNIX) as reader:
        reader.connect(address)
    resource_sharer.stop()  # waits for the thread


def test_a_loading_process_that_loses_its_reader_prints_nothing(capfd):
    process = multiprocessing.get_context("fork").Process(target=lose_a_reader)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("file", FILES.values())
def test_a_file_that_is_cut_short_while_in_use_is_told_in_a_line(
    tmp_path, monkeypatch, file, num_workers
):
    # PyTorch waits for so many seconds, and in vain, for a worker whose batch failed.
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)
    write_split(tmp_path)
    loader = batches(Split(tmp_path), None, on_cpu(num_workers=num_workers))
    size = (tmp_path / file).stat().st_size
    os.truncate(tmp_path / file, size - 1)
    read_batches = []
    with pytest.raises(InputError) as caught:
        read_batches.extend(loader)
    assert len(read_batches) == 2  # of three batches
    assert str(caught.value) == (
        f"{tmp_path / file} has become {size - 1:,} bytes long, expected {size:,}; prepare the "
        "dataset again."
    )
    gc.collect()


@pytest.mark.parametrize("order", [None, [3, 1, 4, 1, 5, 9, 2, 6]])
def test_the_rows_after_those_that_are_read_are_prefetched(awkward, monkeypatch, order):
    calls, split = [], awkward[0]
    read_rows = Split.__getitem__
    monkeypatch.setattr(Split, "prefetch", lambda _, rows: calls.append(("prefetch", *rows)))
    monkeypatch.setattr(
        Split, "__getitem__", lambda self, rows: calls.append(rows) or read_rows(self, rows)
    )
    order = None if order is None else np.array(order)
    read(split, order, batch_size=5)
    rows = list(range(SEGMENTS)) if order is None else list(order)
    expected = [rows[n : n + 5] for n in range(0, len(rows), 5)]
    assert [list(call[1:]) for call in calls[::2]] == [*expected[1:], []]
    assert [list(call) for call in calls[1::2]] == expected


@given(st.lists(st.integers(0, 99)), st.integers(1, 12))
def test_an_order_is_cut_into_batches(order, size):
    options = LoaderOptions(torch.device("cpu"), size, num_workers=0, verbose=False)
    row_batches = options.rows(np.array(order, dtype=int))
    expected = [order[n : n + size] for n in range(0, len(order), size)]
    assert len(row_batches) == len(expected)
    assert [batch.tolist() for batch in row_batches] == expected


def test_a_large_split_is_read_a_batch_at_a_time(tmp_path):
    segments = 1500
    write_split(tmp_path, 1)
    np.save(tmp_path / LABELS, np.zeros((segments, 1, 7), np.float32))
    for kind, file in FILES.items():  # sparse files: half a GB that takes no room
        shape = (segments, 50, {"visual": 35, "audio": 74, "text": 768}[kind])
        np.lib.format.open_memmap(tmp_path / file, "w+", np.float32, shape)
    tracemalloc.start()
    try:
        split = Split(tmp_path)
        opened = tracemalloc.get_traced_memory()[1]
        split[np.arange(4)]
        read_once = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert opened < 2e6
    assert read_once < 8e6


def test_many_segments_take_a_few_bytes_each(tmp_path):
    segments = 60_000
    write_split(tmp_path, 1)
    np.save(tmp_path / LABELS, np.zeros((segments, 1, 7), np.float32))
    for file in FILES.values():
        np.lib.format.open_memmap(tmp_path / file, "w+", np.float32, (segments, 1, 2))
    write_table(tmp_path, [f"video{row}[0]" for row in range(segments)])
    tracemalloc.start()
    try:
        split = Split(tmp_path)
        opened = tracemalloc.get_traced_memory()[1]
        next(iter(batches(split, None, on_cpu())))
        next(iter(batches(split, np.random.default_rng(0).permutation(segments), on_cpu())))
        read_once = tracemalloc.get_traced_memory()[1]
        assert split.ids[segments - 1] == f"video{segments - 1}[0]"
    finally:
        tracemalloc.stop()
    # Opening: 28 of the labels, about 80 of the id, and some labels at once; an epoch: 8 more.
    assert opened < 120 * segments + 1.5e6
    assert read_once < 128 * segments + 1.5e6


def test_widths_are_the_arrays(tmp_path):
    write_split(tmp_path)
    assert Split(tmp_path).widths == {"visual": 35, "audio": 74, "text": 16}


def test_segment_ids_come_from_the_table_or_count_the_rows(tmp_path):
    write_split(tmp_path, 3)
    assert Split(tmp_path).ids == ["0", "1", "2"]
    write_table(tmp_path, ["a[0]", "a[1]", "b,c[0]"])
    assert Split(tmp_path).ids == ["a[0]", "a[1]", "b,c[0]"]


def saves(array):
    return lambda path: np.save(path, array, allow_pickle=True)


def holds(content):
    return lambda path: path.write_bytes(content)


def cuts(length):
    return lambda path: path.write_bytes(path.read_bytes()[:length])


def replaces(old, new):
    def damage(path):
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, 1))

    return damage


def saves_two(path):
    with path.open("wb") as file:
        np.savez(file, a=np.ones(3), b=np.ones(3))


DAMAGES = {
    "missing": (lambda path: path.unlink(), "No file"),
    "empty": (holds(b""), r"damaged.*\(0 bytes"),
    "cut in the magic": (cuts(3), "damaged"),
    "cut in the header": (cuts(60), "damaged"),
    "header only": (cuts(128), "damaged"),
    "last byte missing": (cuts(-1), "damaged"),
    "text": (holds(b"not an array\n" * 20), "damaged"),
    "pickle": (holds(pickle.dumps([1.0, 2.0])), "damaged"),
    "Python objects": (saves(np.array([{}] * SEGMENTS, object)), "damaged"),
    "broken header": (replaces(b"'descr'", b"'descr("), "damaged"),
    "negative shape": (replaces(b"(11,", b"(-1,"), "damaged"),
    "two arrays": (saves_two, "damaged, or no .npy array"),
    "two dimensions": (saves(np.zeros((SEGMENTS, 7))), r"float64 of shape \(11, 7\)"),
    "one number": (saves(np.float32(1)), r"float32 of shape \(\)"),
    "whole numbers": (saves(np.zeros((SEGMENTS, 1, 7), int)), "int64"),
    "complex": (saves(np.zeros((SEGMENTS, 1, 7), complex)), "complex128"),
    "Fortran order": (saves(np.asfortranarray(np.zeros((SEGMENTS, 2, 7)))), "Fortran order"),
    "no length": (saves(np.zeros((SEGMENTS, 0, 7))), r"\(11, 0, 7\)"),
    "no width": (saves(np.zeros((SEGMENTS, 1, 0))), r"\(11, 1, 0\)"),
    "fewer segments": (saves(np.zeros((SEGMENTS - 1, 1, 7))), "NAME 10"),
    "no segments": (saves(np.zeros((0, 1, 7))), "NAME 0"),
}


def refusal(folder):
    """Return the message with which the split in `folder` is refused."""
    with pytest.raises(InputError) as caught:
        Split(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


@pytest.mark.parametrize("file", [*FILES.values(), LABELS])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_array_is_refused_by_its_name(tmp_path, file, damage):
    write_split(tmp_path)
    do_damage, expected = DAMAGES[damage]
    do_damage(tmp_path / file)
    message = refusal(tmp_path)
    assert file in message
    assert re.search(expected.replace("NAME", file), message)


class MakesFolder:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_python_objects_in_an_array_are_not_brought_to_life(tmp_path):
    write_split(tmp_path)
    objects = np.array([[[MakesFolder(tmp_path / "was here")]]] * SEGMENTS, object)
    np.save(tmp_path / FILES["visual"], objects, allow_pickle=True)
    assert "visual50.npy holds object of shape (11, 1, 1), expected floats" in refusal(tmp_path)
    assert not (tmp_path / "was here").exists()


def test_labels_that_are_another_array_are_refused(tmp_path):
    write_split(tmp_path)
    np.save(tmp_path / LABELS, np.load(tmp_path / FILES["visual"]))
    assert re.search(
        r"label50.npy has shape \(11, 50, 35\), expected \(11, 1, 7\)", refusal(tmp_path)
    )


def test_an_empty_split_is_refused(tmp_path):
    write_split(tmp_path, 0)
    assert re.search("no segments|damaged", refusal(tmp_path))


def test_a_missing_folder_is_refused_with_the_command_that_makes_it(tmp_path):
    message = refusal(tmp_path / "datadir" / "train")
    assert f"dataset_prep.py --datadir {tmp_path / 'datadir'}" in message


def test_a_file_in_place_of_a_dataset_is_told(tmp_path):
    file = tmp_path / "dataset.json"
    file.write_text("{}")
    for attempt in (lambda: Split(file / "train"), lambda: check_dataset(file)):
        with pytest.raises(InputError, match=r"dataset.json is a file; give the folder"):
            attempt()


def test_a_split_in_place_of_a_dataset_is_told(tmp_path):
    write_split(tmp_path / "test")
    message = refusal(tmp_path / "test" / "train")
    assert f"{tmp_path / 'test'} is itself a split; give the folder above it." in message


@pytest.mark.parametrize("count", [0, SEGMENTS - 1, SEGMENTS + 1])
def test_a_segment_table_of_another_length_is_refused(tmp_path, count):
    write_split(tmp_path, ids=[f"v[{row}]" for row in range(count)])
    assert f"segments.csv has {count} segments, the arrays {SEGMENTS}" in refusal(tmp_path)


@pytest.mark.parametrize("columns", [["id", "video"], SEGMENT_COLUMNS[1:]])
def test_a_segment_table_that_lacks_columns_is_refused(tmp_path, columns):
    write_split(tmp_path)
    write_table(tmp_path, ["v"] * SEGMENTS, columns)
    assert f"segments.csv has columns {list(columns)}" in refusal(tmp_path)


def test_a_row_that_ends_early_has_empty_cells(tmp_path):
    write_split(tmp_path, ids=map(str, range(SEGMENTS)))
    table = tmp_path / "segments.csv"
    table.write_text(table.read_text().replace('"3",0,0,0,0,0', '"3"'))
    assert Split(tmp_path).videos == ["0"] * 3 + [""] + ["0"] * (SEGMENTS - 4)


def test_an_empty_segment_table_is_refused(tmp_path):
    write_split(tmp_path)
    (tmp_path / "segments.csv").touch()
    assert "segments.csv has columns []" in refusal(tmp_path)


# ---------------------------------------------------------------- word pieces


@pytest.mark.parametrize("dtype", [np.uint16, np.int64])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_word_pieces_take_the_place_of_text(tmp_path, monkeypatch, dtype, num_workers):
    write_split(tmp_path)
    pieces = np.random.default_rng(0).integers(0, 40, (SEGMENTS, 3, 7)).astype(dtype)
    np.save(tmp_path / "pieces50.npy", pieces)
    split, plain = Split(tmp_path, takes_pieces=True), Split(tmp_path)
    assert split.widths == {**plain.widths, "text": 3}
    assert split.shapes == [*plain.shapes[:2], (7, 3)]
    assert split.digest == plain.digest
    monkeypatch.setattr("data.npy._BYTES_AT_ONCE", 5 * pieces[0].nbytes)
    assert split.pieces_ranges == tuple(
        ends(axis=(0, 2)).tolist() for ends in (pieces.min, pieces.max)
    )
    (batch,) = read(split, batch_size=SEGMENTS, num_workers=num_workers)
    assert batch.text.dtype == torch.float32
    np.testing.assert_array_equal(batch.text, pieces.swapaxes(1, 2))
    (expected,) = read(plain, batch_size=SEGMENTS)
    assert torch.equal(batch.visual, expected.visual)


def test_a_split_of_word_pieces_needs_no_features_of_text(tmp_path):
    write_split(tmp_path)
    np.save(tmp_path / "pieces50.npy", np.ones((SEGMENTS, 2, 7), np.uint16))
    with_features = Split(tmp_path, takes_pieces=True).digest
    (tmp_path / "bert50.npy").unlink()
    assert Split(tmp_path, takes_pieces=True).digest != with_features


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (None, r"has no pieces50.npy, which fine-tuning .*: write that file too \(see docs/data"),
        (np.ones((3, 2, 7), np.float32), "holds float32 of shape .* expected whole numbers"),
        (np.ones((3, 2), np.uint16), "expected whole numbers"),
        (np.ones((1, 2, 7), np.uint16), "different numbers of segments .*pieces50.npy 1"),
    ],
)
def test_word_pieces_that_are_none_are_refused(tmp_path, pieces, message):
    write_split(tmp_path)
    if pieces is not None:
        np.save(tmp_path / "pieces50.npy", pieces)
    with pytest.raises(InputError, match=message):
        Split(tmp_path, takes_pieces=True)


FROM_CSD, FROM_PICKLE = {"folds": {}}, {}
BY_BERT, BY_PICKLE = {"encoder": "bert", "weights": None}, {"encoder": "as in clips.pkl"}


@pytest.mark.parametrize(
    ("made_from", "text", "advice"),
    [
        (FROM_CSD, BY_BERT, r"needs; add it: run dataset_prep.py [^,]*, with the other options as"),
        (FROM_PICKLE, BY_BERT, r"add it: run .*, with --from and the other options as before\.$"),
        (FROM_PICKLE, BY_PICKLE, r"a BERT that .* adds it: run .* as before, and --bert NAME\.$"),
        (FROM_CSD, None, r"add it: run .* as before, without --no_bert\.$"),
        (FROM_PICKLE, None, r"adds it: run .* as before, without --no_bert, and --bert NAME\.$"),
    ],
)
def test_the_command_that_adds_word_pieces_depends_on_the_text(tmp_path, made_from, text, advice):
    """The same command would take a pickle's own text features again, and add nothing."""
    write_split(tmp_path / "train")
    manifest = {"made_from": made_from, "splits": {}, "left_out": {}, "text": text}
    write_manifest(tmp_path, manifest)
    with pytest.raises(InputError, match=advice):
        Split(tmp_path / "train", takes_pieces=True)


def test_text_features_that_were_left_out_are_told_with_the_command_that_adds_them(tmp_path):
    write_split(tmp_path / "train")
    manifest = {"made_from": FROM_CSD, "splits": {}, "left_out": {}, "text": None}
    write_manifest(tmp_path, manifest)
    Split(tmp_path / "train")  # as soon as they are there
    (tmp_path / "train" / "bert50.npy").unlink()
    with pytest.raises(InputError, match=r"without --no_bert adds the text .*dataset_prep.py --da"):
        Split(tmp_path / "train")
