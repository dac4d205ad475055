"""Hostile files of a prepared dataset: its arrays, tables and manifest.

`sound` are the files of a small one, by their path in the dataset's folder.
"""

from __future__ import annotations

import io
import json
import pickle
import random
from collections.abc import Iterator

import numpy as np

from data.layout import PIECES_FILE
from tests.fuzz.mutate import (
    NUMBERS,
    STRANGE_NUMBERS,
    STRANGE_TEXT,
    damaged,
    each_case,
    replaced_somewhere,
)
from tests.fuzz.pickles import PAYLOADS

_DTYPES = (
    *("'<f4'", "'>f8'", "'<f2'", "'|O'", "'<i4'", "'|V1500000000'", "'<U0'", "'|S0'", "'<c8'"),
    *("[('a', '<f4')]", "''", "None", "'<f99'", "('<f4', (10**9,))", "'<f4,<i4'"),
)


def cases(seed: int, count: int, sound: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield what each case is, the file's path first, and its content."""

    def one(rng: random.Random) -> tuple[str, bytes]:
        path = rng.choice(list(sound))
        suffix = path.rpartition(".")[2]
        mutators = (_pieces,) * 4 if path.endswith(PIECES_FILE) else _BY_SUFFIX[suffix]
        mutate = rng.choice((_damaged, *mutators))
        return f"{path} {mutate.__name__[1:]}", mutate(rng, sound[path])

    return each_case(seed, count, [one])


def npy(array: np.ndarray) -> bytes:
    """Return what `np.save` writes."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _damaged(rng: random.Random, content: bytes) -> bytes:
    return damaged(rng, content, [0, 32, 64] if rng.random() < 0.5 else None)


def _header(rng: random.Random, content: bytes) -> bytes:
    array = np.load(io.BytesIO(content))
    sizes = (*NUMBERS, -1, 2**64, "True", "1.5", "'a'", *array.shape)
    shape = [str(rng.choice((n, n, rng.choice(sizes)))) for n in array.shape]
    shape = rng.choice((shape, shape, shape[:2], [*shape, "1"], ["(" * 200], ["-" * 9000 + "1"]))
    dtype = rng.choice((f"'{array.dtype.str}'", rng.choice(_DTYPES)))
    order = rng.choice(("False", "False", "True", "0", "None"))
    text = f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': ({', '.join(shape)}), }}"
    text = rng.choice((text, text, text, text[:-1], text + "x", f"{text}{text}", text.upper()))
    header = text.encode()
    length = rng.choice((len(header), len(header), rng.choice(NUMBERS)))
    version = rng.choice((1, 1, 2, 3, 4, 255))
    size = (length % 2**16).to_bytes(2, "little")
    if version in (2, 3):
        size = (length % 2**32).to_bytes(4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + array.tobytes()


def _values(rng: random.Random, content: bytes) -> bytes:
    array = np.load(io.BytesIO(content)).copy()
    kind = rng.randrange(4)
    if kind == 0:
        with np.errstate(all="ignore"):
            number = rng.choice((np.nan, np.inf, -np.inf, 1e38, 1e300, 0, 5e-324, -7))
            array[rng.choice((slice(None), 0)), ..., rng.choice((slice(None), 0))] = number
    elif kind == 1:
        array = np.resize(array, [rng.choice((n, n, 0, 1, n + 1)) for n in array.shape])
    elif kind == 2:
        dtypes = ("f2", ">f4", "f8", "f16", "c8", "i4", "?", "U3", "S3", "O", "V4")
        array = array.astype(rng.choice(dtypes))
    else:
        array = rng.choice((np.asfortranarray(array), array[0], array[None], array[..., 0]))
    return npy(array)


def _pickled(rng: random.Random, content: bytes) -> bytes:
    value, kind = np.array([rng.choice(PAYLOADS)], object), rng.randrange(3)
    if kind == 0:
        return npy(value)
    if kind == 2:
        return pickle.dumps(rng.choice(PAYLOADS))
    file = io.BytesIO()
    np.savez(file, a=np.load(io.BytesIO(content)))
    return file.getvalue()


def _cells(rng: random.Random, content: bytes) -> bytes:
    lines = [line.split(",") for line in content.decode().splitlines()]
    for _ in range(rng.choice((1, 2, 3))):
        line = rng.choice(lines)
        place = rng.randrange(len(line)) if line else 0
        new = rng.choice((*STRANGE_TEXT, *map(str, STRANGE_NUMBERS[:6]), "1", "2"))
        kind = rng.randrange(5)
        if kind < 3:
            line[place : place + 1] = [new]
        elif kind == 3:
            del line[place:]
        else:
            lines.insert(rng.randrange(len(lines) + 1), line)
    return "\n".join(map(",".join, lines)).encode(errors="surrogatepass")


def _json_values(rng: random.Random, content: bytes) -> bytes:
    value = json.loads(content)
    new = (*STRANGE_TEXT, *STRANGE_NUMBERS, [], {}, [1], {"a": 1}, ["train"], {"train": {}})
    for _ in range(rng.choice((1, 1, 2))):
        value = replaced_somewhere(rng, value, lambda: rng.choice(new))
    try:
        return json.dumps(value).encode()
    except ValueError:  # more digits than Python prints
        return b"9" * 10_001


def _json_text(rng: random.Random, content: bytes) -> bytes:
    deep = (b"[" * 200_000, b'{"a":' * 200_000, b"[" * 900 + b"]" * 900, b"9" * 10_001)
    return rng.choice(
        (*deep, b"", b"null", b"NaN", b"\xef\xbb\xbf" + content, content * 2, b"\xff")
    )


def _pieces(rng: random.Random, content: bytes) -> bytes:
    """Change ids, the mask or places of words, or how many of these rows there are."""
    array = np.load(io.BytesIO(content)).astype(rng.choice(("i8", ">i4", "u8", "f8")))
    number = rng.choice((-1, 2, 50, 51, 63, 64, 255, 2**15, -(2**31), 2**24 + 1, 2**62, np.nan))
    with np.errstate(all="ignore"):
        number = np.array(number).astype(array.dtype)
    rows = rng.choice((0, 1, slice(None)))
    array[rng.choice((slice(None), 0, -1)), rows, rng.choice((slice(None), 0, -1))] = number
    odd = array[:, :1], np.repeat(array, 2, axis=1), np.repeat(array, 2, axis=2), array[..., :1]
    by_word = np.concatenate([array, array[:, :1]], axis=1)
    return npy(rng.choice((array, array, by_word, array[:0], *odd)))


_BY_SUFFIX = {
    "npy": (_header, _header, _values, _values, _pickled),
    "csv": (_cells, _cells, _cells),
    "json": (_json_values, _json_values, _json_values, _json_text),
}
