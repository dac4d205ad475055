"""Reading pickles of NumPy arrays from strangers: nothing in the file can run.

A pickle is a program for a small machine that can call whatever it names. This reader
knows only the few names that NumPy arrays, NumPy numbers and plain Python values need, and
answers each with its own narrow stand-in, so that no real class, function or attribute is
ever in a file's reach. The standard library's `pickle` page, "Restricting Globals", has the idea.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from data.formats import pickled_arrays, tensors
from data.formats.pickle_bounds import check_key, check_size
from system.errors import InputError, described, first_line, refuse_if_out_of_memory
from system.torch_layout import (
    LEGACY_MAGIC,
    ZIP_START,
    BoundedFile,
    Instructions,
    StorageOf,
    latin1_bytes,
    no_bytes,
    read_legacy,
    read_zip,
    require,
)
from system.what_it_is import what_it_is

_LONGEST_QUOTE = 120


def load(path: Path) -> Any:
    """Return the content of the pickle at `path`, whatever pickle protocol it has.

    Plain Python values, NumPy arrays and NumPy numbers are read, as NumPy 1, NumPy 2 and
    Python 2 write them. An `OrderedDict` comes back as a dict, a bytearray of protocol 5
    and a `str` of Python 2 (which says nothing of its encoding) as bytes, a PyTorch tensor as
    an array. What `torch.save` wrote is read too.

    Raises InputError if the file names anything else (nothing of it has run then), or is
    no complete pickle, or cannot be opened.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"{path}: is a pipe or a device, expected a file; check the path")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = _content(path, file)
        check_size(content, size)
        return content
    except InputError:
        raise
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise InputError(f"{path}: cannot be read ({reason}); check the path") from error
    except Exception as error:  # Damaged bytes can fail in any way.
        refuse_if_out_of_memory(error, path)
        found = what_it_is(path)
        if found is not None:
            raise InputError(f"{path}: {found}; expected a pickle of NumPy arrays") from error
        reason = _quote(described(error))
        raise InputError(
            f"{path}: not a complete pickle of NumPy arrays and plain values ({reason}); "
            "check that this is the right file, and download it anew"
        ) from error


def _content(path: Path, file: io.BufferedReader) -> Any:
    unpickle = partial(_unpickle_within_torch, path)
    if file.read(4) == ZIP_START:
        return read_zip(file, unpickle)
    file.seek(0)
    content = _Unpickler(file, path).load()
    return read_legacy(file, unpickle) if _is_magic(content) else content


def _unpickle_within_torch(path: Path, part: BinaryIO, storage_of: StorageOf | None) -> Any:
    return _Unpickler(part, path, storage_of, is_within_torch=True).load()


def _is_magic(content: Any) -> bool:
    return type(content) is int and content == LEGACY_MAGIC  # an array cannot be compared


def _quote(text: str) -> str:
    """Return a stranger's text as one short line without control characters."""
    return text[:_LONGEST_QUOTE].encode("unicode_escape").decode("ascii")


def _ordered_dict(items: Iterable[tuple[Any, Any]] = ()) -> dict[Any, Any]:
    """Return a dict, which Python 2 made of a list of keys and values."""
    pairs = list(items)
    for key, _ in pairs:
        check_key(key)
    return dict(pairs)


_KNOWN = {
    ("numpy", "ndarray"): pickled_arrays.NDARRAY,
    ("numpy", "dtype"): pickled_arrays.ArrayType,
    ("_codecs", "encode"): latin1_bytes,
    ("__builtin__", "bytes"): no_bytes,
    ("builtins", "bytes"): no_bytes,
    ("collections", "OrderedDict"): _ordered_dict,
    **{("torch", name): kind for name, kind in tensors.VALUE_TYPES.items()},
    ("torch._utils", "_rebuild_tensor_v2"): tensors.rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda array, *_: array,
}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and NumPy 2
    _KNOWN[f"{_core}.multiarray", "_reconstruct"] = pickled_arrays.reconstruct
    _KNOWN[f"{_core}.multiarray", "scalar"] = pickled_arrays.scalar
    _KNOWN[f"{_core}.numeric", "_frombuffer"] = pickled_arrays.from_buffer


def _with_keys_checked(code: bytes, keys: slice) -> Callable[[Any], None]:
    """Return pickle's own instruction, made to look first at the keys that lie on the stack."""
    instruction = pickle._Unpickler.dispatch[code[0]]

    def checked(unpickler: Any) -> None:
        for key in unpickler.stack[keys]:
            check_key(key)
        instruction(unpickler)

    return checked


# The standard library's unpickler in Python, not the one in C, because here an instruction
# can be replaced, and because the C one allocates (up to Python 3.13) as many memo places as
# a short file claims. It is no slower where it counts: arrays are single reads.
class _Unpickler(pickle._Unpickler):
    """Reads one pickle; `storage_of` gives the storages of a file of PyTorch's."""

    stack: list[Any]

    def __init__(
        self,
        file: BinaryIO,
        path: Path,
        storage_of: StorageOf | None = None,
        is_within_torch: bool = False,
    ) -> None:
        super().__init__(BoundedFile(file), encoding="bytes")
        self._path = path
        self._storage_of, self._is_within_torch = storage_of, is_within_torch

    def persistent_load(self, pid: Any) -> Any:
        if self._storage_of is None:
            raise pickle.UnpicklingError("a persistent id")
        return tensors.storage_of_pid(pid, self._storage_of)

    def find_class(self, module: str, name: str) -> Any:
        # In a file of PyTorch's own there is none: each within another would take twice as long.
        if (module, name) == ("torch.storage", "_load_from_bytes") and not self._is_within_torch:
            return self._storage_from_bytes
        # Looked up whole: a dotted name (protocol 4) reaches no attribute of anything.
        if (module, name) not in _KNOWN:
            raise InputError(
                f"{self._path}: holds {_quote(f'{module}.{name}')}, which could run code when "
                "loaded; only NumPy arrays and plain Python values are read. Nothing was run: "
                "get the file from a source you trust, or save it with plain arrays only"
            )
        return _KNOWN[module, name]

    def _storage_from_bytes(self, content: bytes) -> tensors.Storage:
        """Return the storage that a pickled tensor holds, `torch.storage._load_from_bytes`."""
        require(type(content) is bytes, "a tensor without bytes")
        file, unpickle = io.BytesIO(content), partial(_unpickle_within_torch, self._path)
        require(_is_magic(unpickle(file, None)), "a storage of another kind")
        storage: tensors.Storage = read_legacy(file, unpickle)
        return storage

    def _build(self) -> None:
        """Set an object's state. Pickle's own way may set any attribute of any object."""
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is np.ndarray:
            pickled_arrays.fill(target, state)
        else:
            require(
                type(target) is pickled_arrays.ArrayType, f"a state for a {type(target).__name__}"
            )
            target.set_state(state)

    dispatch: ClassVar[Instructions] = Instructions(
        {
            **pickle._Unpickler.dispatch,
            pickle.BUILD[0]: _build,
            **{
                code[0]: _with_keys_checked(code, keys)
                for code, keys in (
                    (pickle.SETITEM, slice(-2, -1)),
                    (pickle.SETITEMS, slice(None, None, 2)),
                    (pickle.DICT, slice(None, None, 2)),
                    (pickle.ADDITEMS, slice(None)),
                    (pickle.FROZENSET, slice(None)),
                )
            },
            # A bytearray is filled with zeros before it is read, whatever size a file claims.
            pickle.BYTEARRAY8[0]: pickle._Unpickler.dispatch[pickle.BINBYTES8[0]],
        }
    )
