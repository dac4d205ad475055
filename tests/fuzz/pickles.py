"""Hostile processed pickles, from small ones of each kind that circulates."""

from __future__ import annotations

import os
import pickle
import pickletools
import random
import struct
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch

from tests.fuzz.mutate import (
    STRANGE_NUMBERS,
    STRANGE_TEXT,
    damaged,
    each_case,
    nested,
    replaced_somewhere,
    saved,
)

TARGET = "data.pkl"
MARKER = "marker"  # what a payload would write


class Payload:
    """Pickles as a call that leaves a marker where the program runs."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


PAYLOADS = (
    Payload(os.system, f"touch {MARKER}"),
    Payload(os.mkdir, MARKER),
    Payload(eval, f"open('{MARKER}', 'w')"),
    Payload(np.save, MARKER, np.zeros(1)),
)


@cache
def contents() -> tuple[dict, ...]:
    """Return what sound files hold: MMSA's, MAG-BERT's, and one of tensors."""
    rng = np.random.default_rng(0)
    mmsa, words = {}, {}
    for split, n in {"train": 3, "valid": 2, "test": 2}.items():
        mmsa[split] = {
            "id": [f"{split}{k}$_$1" for k in range(n)],
            "raw_text": np.array(["great movie", "really awful", "bad story"][:n]),
            "audio": rng.normal(size=(n, 4, 5)),
            "vision": rng.normal(size=(n, 3, 4)).astype(np.float32),
            "text": rng.normal(size=(n, 4, 6)).astype(np.float32),
            "text_bert": np.ones((n, 3, 4), np.float32),
            "audio_lengths": [4] * n,
            "regression_labels": np.linspace(-3, 3, n),
        }
        words[split.replace("valid", "dev")] = [
            (
                (["good"] * k, rng.normal(size=(k, 4)), rng.normal(size=(k, 5))),
                label,
                f"{split}{k}[1]",
            )
            for k, label in zip(
                range(1, n + 1), np.linspace(-3, 3, n).reshape(n, 1, 1), strict=True
            )
        ]
    tensors = {
        split: {
            key: torch.from_numpy(value)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f"
            else value
            for key, value in entries.items()
        }
        for split, entries in mmsa.items()
    }
    return mmsa, words, tensors


def cases(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield what each case is, the file's name first, and its content."""
    return each_case(seed, count, [_bytes, _values, _values, _instructions, _instructions])


def _dumped(rng: random.Random, content: object) -> bytes:
    kind = rng.randrange(8)
    return pickle.dumps(content, kind) if kind < 6 else saved(content, zipped=kind == 6)


def _bytes(rng: random.Random) -> tuple[str, bytes]:
    content = _dumped(rng, rng.choice(contents()))
    places = [0, 64, 128] if rng.random() < 0.3 else None
    return f"{TARGET} damaged bytes", damaged(rng, content, places)


def _values(rng: random.Random) -> tuple[str, bytes]:
    content, done = rng.choice(contents()), []
    for _ in range(rng.choice((1, 1, 2, 3))):
        new = _strange(rng)
        done.append(f"{type(new).__name__} {getattr(new, 'dtype', '')}")
        content = replaced_somewhere(rng, content, lambda new=new: new)
    try:
        return f"{TARGET} values {', '.join(done)}", _dumped(rng, content)
    except (TypeError, ValueError, RecursionError, AttributeError, pickle.PicklingError):
        return f"{TARGET} values that no pickle has", pickle.dumps(PAYLOADS[0])


def _strange(rng: random.Random) -> object:
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice(STRANGE_NUMBERS)
    if kind == 1:
        return rng.choice(STRANGE_TEXT)
    if kind == 2:
        return rng.choice(PAYLOADS)
    if kind == 3:
        itself: list = []
        itself.append(itself)
        twice: list = [0, 0]
        for _ in range(40):
            twice = [twice, twice]
        others = (nested(300), itself, twice, {}, (), [], set(), {1: 2}, {(1, 2): 3}, b"\xff", 1j)
        return rng.choice((*others, bytearray(9), ["a"] * 100, [1, "a"], [[1], [1, 2]], range(3)))
    if kind == 4:
        return rng.choice(_TENSORS)()
    shape = rng.choice(((), (0,), (3,), (3, 1), (3, 4, 5), (3, 0, 5), (2, 4, 5), (1,) * 20))
    codes = "f2 >f8 i1 u8 ? c8 U3 S3 O V7 M8[s] m8[s] i4,f4"
    dtype = rng.choice(codes.split())
    array = np.zeros(shape, dtype)
    if array.dtype.kind == "f" and array.size:
        array.flat[0] = rng.choice((np.nan, np.inf, -np.inf, 6e4, 3.5))
    if dtype == "O" and array.size and shape:
        array[(0,) * len(shape)] = rng.choice(
            (None, np.zeros(3), "a", nested(5), np.zeros((2, 5)), 10**400)
        )
    return rng.choice((array, np.asfortranarray(array), array[..., :1] if shape else array[()]))


_TENSORS = (
    lambda: torch.zeros(3, 4, 5).to_sparse(),
    lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
    lambda: torch.zeros(3, device="meta"),
    lambda: torch.zeros(1).expand(3, 4, 5),
    lambda: torch.zeros(3, 4, 5, dtype=torch.complex64),
    lambda: torch.zeros(3, 4, 5, dtype=torch.bfloat16),
    lambda: torch.nn.Parameter(torch.zeros(3)),
    lambda: torch.nn.Linear(2, 2),
    lambda: torch.zeros(3).bool(),
)


def _instructions(rng: random.Random) -> tuple[str, bytes]:
    """Drop, repeat, swap or insert whole instructions."""
    content = pickle.dumps(rng.choice(contents()[:2]), rng.randrange(6))
    places = [place for _, _, place in pickletools.genops(content)]
    parts = [
        content[begin:end] for begin, end in zip(places, [*places[1:], len(content)], strict=True)
    ]
    parts = [part for part in parts if part[:1] != pickle.FRAME]
    done = []
    for _ in range(rng.choice((1, 1, 2, 4))):
        place, other = rng.randrange(len(parts)), rng.randrange(len(parts))
        kind = rng.choice(("drop", "repeat", "swap", "insert", "insert", "insert"))
        if kind == "drop":
            del parts[place]
        elif kind == "repeat":
            parts[place] *= rng.choice((2, 2, 1000))
        elif kind == "swap":
            parts[place], parts[other] = parts[other], parts[place]
        else:
            inserted, kind = instruction(rng)
            parts.insert(place, inserted)
        done.append(kind)
    return f"{TARGET} instructions {', '.join(done)}", b"".join(parts)


_NUMBERED = (pickle.BINBYTES8, pickle.BINUNICODE8, pickle.BYTEARRAY8, pickle.FRAME)
_SHORT = (pickle.BINBYTES, pickle.BINUNICODE, pickle.BINSTRING, pickle.LONG4, pickle.LONG_BINPUT)
_NAMES = (
    *("posix system", "builtins eval", "numpy.core.multiarray scalar", "numpy dtype", "torch Size"),
    *("numpy ndarray", "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "os x" * 5000),
    *("torch.storage _load_from_bytes", "torch FloatStorage", "builtins bytearray", "numpy load"),
)
_TYPES = ("V1500000000", "S1500000000", "U0", "S0", "f8", "O", "f4,O", "U999999999999999999999")


def instruction(rng: random.Random) -> tuple[bytes, str]:
    """Return an instruction of pickle's machine, and what it is."""
    kind = rng.randrange(7)
    if kind == 0:
        return rng.choice(pickletools.opcodes).code.encode("latin-1"), "any"
    size = rng.choice((0, 1, 255, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1))
    if kind == 1:
        return rng.choice(_NUMBERED) + struct.pack("<Q", size), "a huge size"
    if kind == 2:
        return rng.choice(_SHORT) + struct.pack("<I", size % 2**32), "a large size"
    module, _, name = rng.choice(_NAMES).partition(" ")
    named = f"c{module}\n{name}\n".encode()
    if kind == 3:
        return named, "a name"
    if kind == 4:
        argument = pickle.dumps(rng.choice(("touch marker", (1,), *_TYPES)), 2)[2:-1]
        return named + b"(" + argument + b"tR", "a call"
    if kind == 5:
        depth = rng.choice((10, 1000, 200_000))
        key = b")" + pickle.TUPLE1 * depth
        around = (b"}%bK\x01s", b"\x8f(%b\x90", b"(%bK\x01d", b"(%b\x91", b"%b")
        return rng.choice(around).replace(b"%b", key), "a deep tuple"
    kind_of = f"cnumpy\ndtype\n(X\x03\0\0\0{rng.choice(_TYPES)[:3]}tR".encode()
    shape = pickle.dumps(rng.choice(((10**9,), (2**62, 4), (-1,), ("a",), (0, 10**12))), 2)[2:-1]
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85C\x01btR"
    return array + b"(K\x01" + shape + kind_of + b"\x89C\0tb", "an array"


def dumped() -> bytes:
    """Return a sound file."""
    return pickle.dumps(contents()[0])
