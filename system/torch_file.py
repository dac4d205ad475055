"""Files that `torch.save` wrote, from strangers: nothing in them can run, no size is believed.

A file is a zip of one pickle and a record a storage, or (before PyTorch 1.6) a row of pickles
with the storages behind. Memory is asked for only where the file is that large.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from system.errors import InputError, first_line
from system.tensor_pickle import RefusedName, TensorUnpickler, require

_ZIP_START = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file before PyTorch 1.6
_LEGACY_VERSION = 1001
_LARGEST_PICKLE = 2**23  # bytes, read in seconds; a training's has some thousand


def load_torch_file(path: Path, what: str, advice: str) -> Any:
    """Return what `torch.save` wrote: dense tensors on the CPU, plain values, lists and dicts.

    A NumPy number comes back as Python's, a tuple for a set or a size. Raises InputError, which
    says that `path` is not `what` and ends with `advice`, when the file is damaged, or asks for
    anything else; nothing of it has run then.
    """
    with path.open("rb") as file:
        try:
            is_zip = file.read(4) == _ZIP_START
            return _load_zip(file) if is_zip else _load_legacy(file)
        except RefusedName as error:
            raise InputError(
                f"{path} is refused: it asks to call {error} while loading, which could run any "
                f"code. {what[0].upper()}{what[1:]} holds dense tensors, numbers and text only; "
                "get it from its authors."
            ) from error
        except Exception as error:  # damaged bytes can fail in any way
            raise InputError(
                f"{path} is not {what}, or is damaged ({path.stat().st_size:,} bytes; "
                f"{first_line(error)}); {advice}"
            ) from error


def _load_zip(file: BinaryIO) -> Any:
    size = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        is_stored = all(one.compress_type == zipfile.ZIP_STORED for one in records)
        require(is_stored, "a compressed record")
        # Records may overlap in a file that is made to grow.
        require(sum(one.file_size for one in records) <= size, "records larger than the file")
        sizes = {one.filename: one.file_size for one in records}
        require(len(sizes) == len(records), "two records of one name")
        (main,) = [name for name in sizes if name.count("/") == 1 and name.endswith("/data.pkl")]
        folder = main.removesuffix("data.pkl")
        require(sizes[main] <= _LARGEST_PICKLE, "too large a pickle")
        if folder + "byteorder" in sizes:
            require(archive.read(folder + "byteorder") == sys.byteorder.encode(), "a byte order")
        storages: dict[str, Tensor] = {}

        def storage_of(dtype: torch.dtype, key: str, count: int) -> Tensor:
            if key not in storages:
                name = f"{folder}data/{key}"
                content = torch.empty(sizes[name], dtype=torch.uint8)
                with cast("zipfile.ZipExtFile", archive.open(name)) as record:
                    count_read = record.readinto(content.numpy().data)
                require(count_read == len(content), "it ends too early")
                storages[key] = content
            return _viewed(storages[key], dtype, count)

        return TensorUnpickler(io.BytesIO(archive.read(main)), storage_of).load()


def _load_legacy(file: io.BufferedReader) -> Any:
    size = file.seek(0, 2)
    file.seek(0)
    pickles = io.BytesIO(file.read(_LARGEST_PICKLE))
    storages: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def storage_of(dtype: torch.dtype, key: str, count: int) -> Tensor:
        if key not in storages:
            nbytes = count * dtype.itemsize
            require(nbytes + sum(map(len, storages.values())) <= size, "storages above its size")
            storages[key] = torch.empty(nbytes, dtype=torch.uint8)
            counts[key] = count
        return _viewed(storages[key], dtype, count)

    def read() -> Any:
        return TensorUnpickler(pickles, storage_of).load()

    require((read(), read()) == (_LEGACY_MAGIC, _LEGACY_VERSION), "no PyTorch file")
    require(read().get("little_endian") is (sys.byteorder == "little"), "a byte order")
    content, keys = read(), read()
    require(set(keys) == set(storages), "other storages than it names")
    file.seek(pickles.tell())
    for key in keys:
        found = int.from_bytes(file.read(8), sys.byteorder)
        require(found == counts[key], "a storage of another size")
        count_read = file.readinto(storages[key].numpy().data)
        require(count_read == len(storages[key]), "it ends too early")
    return content


def _viewed(content: Tensor, dtype: torch.dtype, count: int) -> Tensor:
    require(len(content) == count * dtype.itemsize, "a storage of another size")
    return content.view(dtype)
