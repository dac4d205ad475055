"""Reading pickles from strangers: nothing in the file can run.

A pickle is a program for a small machine that can call whatever it names. This reader knows
only the few names that arrays, tensors and plain Python values need, and replaces each with its
own narrow stand-in, so that a file never reaches a real class, function or attribute. Source: the
standard library's `pickle` page, "Restricting Globals". PyTorch's own `weights_only` reader also
builds sparse, quantised and nested tensors, and does not check sizes.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, BinaryIO, ClassVar

import numpy as np

from system import pickled_arrays
from system.pickle_bounds import MAX_EXPANSION, check_key, most_bytes
from system.torch_layout import BoundedFile, Instructions, StorageOf, require

_LONGEST_QUOTE = 120


class RefusedName(ValueError):
    """A pickle asks for a name that is not allowed; the message is that name."""


def quote(text: str) -> str:
    """Return a stranger's text as one short line without control characters."""
    return text[:_LONGEST_QUOTE].encode("unicode_escape").decode("ascii")


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """Return the bytes that protocols 0 to 2 hold as text: the one use of `_codecs.encode`."""
    require(type(text) is str and encoding in ("latin1", "latin-1"), "an unusual encoding")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    """Return b"", which protocols 0 to 2 write as a call of `bytes` without arguments."""
    return b""


def _set_of(kind: Callable[[list[Any]], Any], members: list[Any]) -> Any:
    """Return a set, which protocols 0 to 3 write as a call of its type with a list."""
    require(type(members) is list, "a set that is not made from a list")
    for member in members:
        check_key(member)
    return kind(members)


# The names that a file may use, and their stand-ins.
KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): pickled_arrays.ArrayType,
    ("_codecs", "encode"): _latin1_bytes,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
    **{
        (module, kind.__name__): partial(_set_of, kind)
        for module in ("__builtin__", "builtins")
        for kind in (set, frozenset)
    },
    ("torch._utils", "_rebuild_parameter"): lambda values, *_: values,
    **{("torch", name): kind for name, kind in pickled_arrays.VALUE_TYPES.items()},
}


def _checking_keys(
    code: bytes, keys: slice, target: Callable[[Any], Any] = lambda _: {}
) -> Callable[[Any], None]:
    """Return pickle's own instruction, preceded by a check of the `keys` on the stack.

    `target` returns, from an unpickler, the object that gets the items; it must be a dict.
    """
    instruction = pickle._Unpickler.dispatch[code[0]]

    def checked(unpickler: Any) -> None:
        require(type(target(unpickler)) is dict, "an item of something that is not a dict")
        for key in unpickler.stack[keys]:
            unpickler.check_key(key)
        instruction(unpickler)

    return checked


# The instructions that call what is named, or make something far larger than themselves.
_MAKERS = (
    *(pickle.REDUCE, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.INST, pickle.OBJ),
    *(pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.EMPTY_SET),
)


def _counting(code: bytes) -> Callable[[Any], None]:
    """Return pickle's own instruction, followed by a count of the bytes of what it made."""
    instruction = pickle._Unpickler.dispatch[code[0]]

    def counted(unpickler: Any) -> None:
        instruction(unpickler)
        unpickler.count_made()

    return counted


# The standard library's unpickler in Python, not the one in C, because here an instruction
# can be replaced, and because the C one allocates (up to Python 3.13) as many memo entries as
# a short file claims. It is fast enough: an array is a single read.
class SafeUnpickler(pickle._Unpickler):
    """Reads one pickle; `storage_of` returns the storages of a PyTorch file.

    `load` raises RefusedName for a name that is not among the `known` ones, and any exception for
    a damaged pickle.
    """

    known: ClassVar[Mapping[tuple[str, str], Any]]
    text_encoding: ClassVar[str]
    stack: list[Any]

    def __init__(
        self, file: BinaryIO, storage_of: StorageOf | None = None, max_bytes: int = sys.maxsize
    ) -> None:
        bounded = BoundedFile(file, max_bytes)
        super().__init__(bounded, encoding=self.text_encoding)
        self._storage_of, self._storages = storage_of, set[str]()
        self._bytes_left = most_bytes(bounded.size)

    def count_made(self) -> None:
        """Raise UnpicklingError if what was made is far larger than the file.

        A call takes six bytes there, and may copy a megabyte each time.
        """
        self._bytes_left -= sys.getsizeof(self.stack[-1])  # without what an array is a view of
        require(self._bytes_left >= 0, "values far larger than the file")

    def check_key(self, key: Any) -> None:
        """Raise UnpicklingError for a key that a dict or a set may not have."""
        check_key(key)

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage that the pickle names."""
        if self._storage_of is None:
            raise pickle.UnpicklingError("a tensor outside a file of torch.save")
        storage = pickled_arrays.storage_of_pid(pid, self._storage_of)
        if pid[2] not in self._storages:  # its bytes are not in the pickle
            self._storages.add(pid[2])
            self._bytes_left += MAX_EXPANSION * storage.values.nbytes
        return storage

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name."""
        # The whole name is looked up: a dotted one (protocol 4) reaches no attribute.
        if (module, name) not in self.known:
            raise RefusedName(quote(f"{module}.{name}"))
        return self.known[module, name]

    def _build(self) -> None:
        """Set an object's state. Pickle's own version may set any attribute of any object."""
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is np.ndarray:
            pickled_arrays.set_array_state(target, state)
        else:
            is_type = type(target) is pickled_arrays.ArrayType
            require(is_type, f"a state for a {type(target).__name__}")
            target.set_state(state)
        self.count_made()

    dispatch: ClassVar[Instructions] = Instructions(
        {
            **pickle._Unpickler.dispatch,
            pickle.BUILD[0]: _build,
            **{code[0]: _counting(code) for code in _MAKERS},
            **{
                code[0]: _checking_keys(code, keys, *target)
                for code, keys, *target in (
                    (pickle.SETITEM, slice(-2, -1), lambda u: u.stack[-3]),
                    # Items behind a mark have their own stack.
                    (pickle.SETITEMS, slice(None, None, 2), lambda u: u.metastack[-1][-1]),
                    (pickle.DICT, slice(None, None, 2)),
                    (pickle.ADDITEMS, slice(None)),
                    (pickle.FROZENSET, slice(None)),
                )
            },
            # A bytearray is filled with zeros before it is read, whatever size a file claims.
            pickle.BYTEARRAY8[0]: pickle._Unpickler.dispatch[pickle.BINBYTES8[0]],
        }
    )
