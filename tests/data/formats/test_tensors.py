"""PyTorch's tensors in files: read as arrays, without running anything."""

from __future__ import annotations

import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from data.formats import safe_pickle
from system.errors import InputError

TENSORS = {
    "float32": torch.arange(6.0).reshape(2, 3),
    "integers": torch.arange(6).reshape(3, 2)[:, 1:],
    "transposed": torch.arange(6.0, dtype=torch.float64).reshape(2, 3).T,
    "a parameter": torch.nn.Parameter(torch.ones(2)),
    "bfloat16": torch.ones(2, 2, dtype=torch.bfloat16),
    "no values": torch.zeros(0, 3),
}


def dump(path, value):
    path.write_bytes(pickle.dumps(value, 4))


def save(path, value):
    torch.save(value, path)


def save_as_of_old(path, value):
    torch.save(value, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [dump, save, save_as_of_old])
@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_come_back_as_arrays(tmp_path, kind, write):
    tensor = TENSORS[kind]
    write(tmp_path / "file.pkl", {"train": {"audio": tensor, "id": ["a", "b"]}})
    split = safe_pickle.load(tmp_path / "file.pkl")["train"]
    assert split["id"] == ["a", "b"]
    assert type(split["audio"]) is np.ndarray
    np.testing.assert_array_equal(split["audio"], tensor.detach().double().numpy())


class MakesFolder:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def as_storage(content: bytes) -> bytes:
    """Pickle a call of torch.storage._load_from_bytes."""
    return b"\x80\x04ctorch.storage\n_load_from_bytes\n" + pickle.dumps((content,), 4)[2:-1] + b"R."


@pytest.mark.parametrize("write", [save, save_as_of_old])
def test_what_could_run_code_is_refused_and_does_not(tmp_path, write):
    path, marker = tmp_path / "file.pkl", tmp_path / "marker"
    write(path, {"train": MakesFolder(marker)})
    hostile = [path.read_bytes(), as_storage(path.read_bytes())]
    for content in hostile:
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"file.pkl(: holds| is not a complete)") as caught:
            safe_pickle.load(path)
        assert "\n" not in str(caught.value)
    assert not marker.exists()


def rebuilt(offset, size, stride) -> bytes:
    """Pickle a tensor of two values whose shape claims otherwise."""
    honest = pickle.dumps(torch.tensor([1.0, 2.0]), 2)
    begin, old = honest.index(b"K\x00K\x02"), b"K\x00K\x02\x85"
    tail = honest[begin:]
    assert tail.startswith(old), tail
    rest = tail[tail.index(b"\x89") :]  # requires_grad, and what follows
    arguments = pickle.dumps((offset, size, stride), 2)[2:-1]
    middle = arguments[: arguments.rindex(b"\x87")]
    return honest[:begin] + middle + rest


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (2**40,), (0,)), (0, (8,), (1,)), (1, (2,), (1,)), (-1, (2,), (1,)), (0, (2,), (-1,))],
)
def test_shapes_that_leave_the_storage_are_refused(tmp_path, offset, size, stride):
    (tmp_path / "file.pkl").write_bytes(rebuilt(offset, size, stride))
    with pytest.raises(InputError, match="not a complete pickle"):
        safe_pickle.load(tmp_path / "file.pkl")


def test_the_rebuilding_is_reached(tmp_path):
    (tmp_path / "file.pkl").write_bytes(rebuilt(1, (1,), (1,)))
    assert safe_pickle.load(tmp_path / "file.pkl").tolist() == [2.0]


def test_a_sparse_tensor_is_refused(tmp_path):
    save(tmp_path / "file.pkl", {"train": torch.eye(3).to_sparse()})
    with pytest.raises(InputError, match="_rebuild_sparse_tensor"):
        safe_pickle.load(tmp_path / "file.pkl")


def test_arrays_beside_tensors_are_read(tmp_path):
    save(tmp_path / "file.pkl", {"tensor": torch.ones(2), "array": np.arange(3)})
    assert safe_pickle.load(tmp_path / "file.pkl")["array"].tolist() == [0, 1, 2]


def test_an_archive_that_expands_is_refused(tmp_path):
    save(tmp_path / "saved.pkl", torch.zeros(10**6))
    with zipfile.ZipFile(tmp_path / "saved.pkl") as saved:
        contents = {name: saved.read(name) for name in saved.namelist()}
    with zipfile.ZipFile(tmp_path / "file.pkl", "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            file.writestr(name, content)
    with pytest.raises(InputError, match="a compressed record"):
        safe_pickle.load(tmp_path / "file.pkl")


def test_old_storages_that_claim_more_than_the_file_has_are_refused(tmp_path):
    save_as_of_old(tmp_path / "file.pkl", torch.zeros(70_000))
    content = (tmp_path / "file.pkl").read_bytes()
    claim = pickle.dumps(70_000, 2)[2:-1]
    assert content.count(claim) >= 2
    (tmp_path / "file.pkl").write_bytes(content.replace(claim, pickle.dumps(2**30, 2)[2:-1]))
    tracemalloc.start()
    with pytest.raises(InputError, match="more values than the file has"):
        safe_pickle.load(tmp_path / "file.pkl")
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()
