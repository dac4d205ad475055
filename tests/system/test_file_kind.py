"""For a file of another kind than its name says, the message has its kind and advice."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
import torch

from data.formats import safe_pickle
from data.formats.csd import check_csd
from models.checkpoint import read_checkpoint
from system.errors import InputError
from system.safetensors_file import load_safetensors, write_safetensors
from system.torch_file import load_torch_file


def zipped(content, name="file"):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, content)
    return archive.getvalue()


def saved(save=np.savez, **arrays):
    archive = io.BytesIO()
    save(archive, **arrays)
    return archive.getvalue()


def tarred(content):
    archive, member = io.BytesIO(), tarfile.TarInfo("folder/file.pkl")
    member.size = len(content)
    with tarfile.open(fileobj=archive, mode="w") as file:
        file.addfile(member, io.BytesIO(content))
    return archive.getvalue()


FILES = {
    "page": (b"\r\n<!DOCTYPE HTML><html>Sign in", "a web page"),
    "plain page": (b"<HTML><head>", "a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "gzip": (gzip.compress(pickle.dumps({})), "gunzip"),
    **{f"zlib {n}": (zlib.compress(pickle.dumps({}), n), "joblib.load") for n in (0, 3, 6, 9)},
    "zip": (zipped(pickle.dumps({})), "unzip"),
    "npz": (saved(visual=np.zeros(3)), r"\(\.npz\); give the pickle"),
    "compressed npz": (saved(np.savez_compressed, x=np.zeros(3)), r"\(\.npz\); give the pickle"),
    "zipped folder of arrays": (zipped(b"\x93NUMPY", "train/visual50.npy"), "unzip"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x00", "unzstd"),
    "tar": (tarred(pickle.dumps({})), "tar -xf"),
    "empty": (b"", "an empty file"),
}


READERS = {
    "csd": check_csd,
    "pickle": safe_pickle.load,
    "checkpoint": lambda path: load_torch_file(path, "a checkpoint", "give another."),
    "safetensors": lambda path: load_safetensors(path, "give another."),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_it_is_told_in_one_line_with_advice(tmp_path, read, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_checkpoint_with_the_ending_of_the_other_format_is_told_to_be_renamed(tmp_path, is_zip):
    path = tmp_path / "a.safetensors"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(InputError, match=r"is a file of torch.save; rename it to end in \.pth"):
        read_checkpoint(path)
    path = tmp_path / "a.pth"
    write_safetensors(path, {"a": torch.ones(2)}, {"task": "emotion"})
    with pytest.raises(InputError, match=r"is a safetensors file; .* to end in \.safetensors;"):
        read_checkpoint(path)


def test_a_damaged_safetensors_file_is_not_taken_for_another_kind(tmp_path):
    path = tmp_path / "a.safetensors"
    length = 0x178  # of its header: zlib's mark too
    path.write_bytes(length.to_bytes(8, "little") + b'{"a":{}}'.ljust(length) + bytes(8))
    with pytest.raises(InputError, match=r"is not a \.safetensors file, or is damaged"):
        load_safetensors(path, "give another.")


def test_a_csd_that_is_no_hdf5_is_offered_for_download(tmp_path):
    path = tmp_path / "file.csd"
    path.write_bytes(b"no such thing")
    with pytest.raises(InputError, match=r"delete it; .* the same command downloads it"):
        check_csd(path)


def test_a_csd_among_pickles_is_told(tmp_path):
    path = tmp_path / "file.pkl"
    path.write_bytes(b"\x89HDF\r\n\x1a\n and more")
    with pytest.raises(InputError, match=r"an HDF5 file; \.csd files go into --csd"):
        safe_pickle.load(path)
