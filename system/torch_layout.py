"""The layout of `torch.save` files from strangers: no size in them is trusted.

A file is a zip archive with a pickle and a record for each storage of values, or (before PyTorch
1.6, and still within `pickle.dump`) several pickles followed by the storages. The caller passes
the function that reads a pickle. Memory is allocated only where the file is that large.
"""

from __future__ import annotations

import errno
import io
import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NoReturn, cast

import numpy as np

ZIP_START = b"PK\x03\x04"  # the first bytes of a zip archive
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the old format
_LEGACY_VERSION = 1001

StorageOf = Callable[[int, str, int], np.ndarray]
"""Returns the uint8 content of a storage: by bytes a value, key and number of values."""
Unpickle = Callable[[BinaryIO, "StorageOf | None"], Any]


def require(condition: bool, complaint: str) -> None:
    """Raise UnpicklingError with `complaint` unless `condition` holds."""
    if not condition:
        raise pickle.UnpicklingError(complaint)


class BoundedFile:
    """A file that reads no more bytes than it has: Python would allocate any size first."""

    def __init__(self, file: BinaryIO, max_bytes: int = sys.maxsize) -> None:
        """Read up to `max_bytes` from the file's current position."""
        self._file = file
        start = file.tell()
        self._end = min(file.seek(0, os.SEEK_END), start + max_bytes)
        self.size = self._end - start
        file.seek(start)
        self.tell = file.tell

    def read(self, count: int) -> bytes:
        """Read up to `count` bytes."""
        return self._file.read(max(min(count, self._end - self._file.tell()), 0))

    def readline(self) -> bytes:
        """Read a line."""
        return self._file.readline(max(self._end - self._file.tell(), 0))


class Instructions(dict[int, Callable[[Any], None]]):
    """The functions of a pickle's instructions, by byte; UnpicklingError for any other byte."""

    def __missing__(self, code: int) -> NoReturn:
        raise pickle.UnpicklingError(f"{code:#04x} is no instruction of a pickle")


@contextmanager
def _explain_damage() -> Iterator[None]:
    """Raise UnpicklingError for whatever damaged bytes make `zipfile` raise in the block."""
    try:
        yield
    except (pickle.UnpicklingError, MemoryError):
        raise
    except Exception as error:
        # A damaged table has impossible offsets (EINVAL); other such errors are the disk's.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        complaint = "its zip archive is damaged, perhaps by an incomplete copy; copy it again"
        raise pickle.UnpicklingError(complaint) from error


def read_zip(file: BinaryIO, unpickle: Unpickle, largest_pickle: int = sys.maxsize) -> Any:
    """Return the value in a zip archive; raises any exception for another or a damaged archive."""
    size = file.seek(0, os.SEEK_END)
    with _explain_damage():
        opened = zipfile.ZipFile(file)
    with opened as archive:
        records = archive.infolist()
        sizes = {record.filename: record.file_size for record in records}
        is_stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
        require(is_stored, "a compressed record, which torch.save does not write")
        # In a malicious file, records may overlap, so that it expands.
        require(sum(record.file_size for record in records) <= size, "records larger than the file")
        require(len(sizes) == len(records), "two records of one name")
        (main,) = [name for name in sizes if name.count("/") == 1 and name.endswith("/data.pkl")]
        require(sizes[main] <= largest_pickle, "too large a pickle")
        folder = main.removesuffix("data.pkl")

        def content_of(name: str) -> np.ndarray:
            content = np.empty(sizes[name], np.uint8)
            with _explain_damage(), cast("zipfile.ZipExtFile", archive.open(name)) as record:
                require(record.readinto(content.data) == len(content), "it ends too early")
            return content

        order = f"{folder}byteorder"
        is_native = order not in sizes or content_of(order).tobytes() == sys.byteorder.encode()
        require(is_native, "numbers of another byte order")
        storages: dict[str, np.ndarray] = {}

        def storage_of(itemsize: int, key: str, count: int) -> np.ndarray:
            if key not in storages:
                storages[key] = content_of(f"{folder}data/{key}")
            return _require_size(storages[key], itemsize, count)

        return unpickle(io.BytesIO(content_of(main).tobytes()), storage_of)


def read_legacy(file: io.BytesIO | io.BufferedReader, unpickle: Unpickle) -> Any:
    """Return the value in a file of the old format, after LEGACY_MAGIC; raises any exception."""
    require(unpickle(file, None) == _LEGACY_VERSION, "no PyTorch file")
    is_little_endian = unpickle(file, None).get("little_endian")
    require(is_little_endian is (sys.byteorder == "little"), "numbers of another byte order")
    start = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(start)
    storages: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}

    def storage_of(itemsize: int, key: str, count: int) -> np.ndarray:
        if key not in storages:
            claimed = count * itemsize + sum(map(len, storages.values()))
            require(claimed <= size, "more values than the file has")
            storages[key], counts[key] = np.zeros(count * itemsize, np.uint8), count
        return _require_size(storages[key], itemsize, count)

    unpickle(file, storage_of)  # for the storages' sizes: their values follow in the file
    keys = unpickle(file, None)
    are_keys = type(keys) is list and all(type(key) is str for key in keys)
    require(are_keys and set(keys) == set(storages), "other storages than it names")
    for key in keys:
        count = int.from_bytes(file.read(8), sys.byteorder)
        require(count == counts[key], "a storage of another size")
        require(file.readinto(storages[key].data) == len(storages[key]), "it ends too early")
    file.seek(start)
    return unpickle(file, storage_of)


def _require_size(content: np.ndarray, itemsize: int, count: int) -> np.ndarray:
    require(len(content) == count * itemsize, "a storage of another size")
    return content
