"""Damaged and hostile checkpoints, of a training to resume and of weights alone."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

TARGET = "run/best.pth"  # the file that is evaluated, and resumed
ENCODER = " with a text encoder"  # what the name of a sound file ends with that has one


def saved(content: Any, zipped: bool = True) -> bytes:
    """Return what `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def flip(content: bytes, rng: random.Random) -> bytes:
    """Change some bytes, often near the ends, where a file's tables are."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        place = rng.randrange(len(changed))
        near = rng.choice((place, place % 600, -1 - place % 2000))
        changed[near] = rng.choice((0, 255, rng.randrange(256), changed[near] ^ 1))
    return bytes(changed)


def cut(content: bytes, rng: random.Random) -> bytes:
    """Cut the file off, take a piece out, or put one in twice."""
    start, end = sorted(rng.randrange(len(content)) for _ in range(2))
    pieces = (content[:start], content[:start] + content[end:], content[:end] + content[start:])
    return rng.choice(pieces)


def rearrange(content: bytes, rng: random.Random) -> bytes:
    """Swap, drop, repeat, rename, empty or compress the records of a zip."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return flip(content, rng)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = [[name, archive.read(name)] for name in archive.namelist()]
    first, second = rng.choice(records), rng.choice(records)
    how = rng.choice(("swap", "drop", "repeat", "rename", "empty", "longer", "compress"))
    if how == "swap":
        first[1], second[1] = second[1], first[1]
    elif how == "drop":
        records.remove(first)
    elif how == "repeat":
        records.append([first[0], second[1]])
    elif how == "rename":
        first[0] = rng.choice(("../../escaped", "/escaped", "archive/data.pkl", "é\x00", "a" * 999))
    elif how == "empty":
        first[1] = b""
    elif how == "longer":
        first[1] += bytes(rng.choice((1, 4, 10**6)))
    kind = zipfile.ZIP_DEFLATED if how == "compress" else zipfile.ZIP_STORED
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, record in records:
            archive.writestr(name, record)
    return buffer.getvalue()


def nested(rng: random.Random) -> Any:
    """Return a list in a list in a list."""
    value: Any = 0
    for _ in range(rng.choice((3, 49, 60, 300))):
        value = [value]
    return value


STRANGE: tuple[Callable[[random.Random], Any], ...] = (
    lambda rng: rng.choice((None, True, -1, 0, 1, 2**31, 2**63, 10**30, 10**400, "", b"\xff")),
    lambda rng: rng.choice((float("nan"), float("inf"), -0.0, 1e308, 0.5)),
    lambda rng: rng.choice(("\ud800", "a\nb", "x" * 10**5, "../x", "mine.py:Mean", "nhfnet")),
    lambda rng: rng.choice(
        ([], {}, (), [[]], {"a": {}}, [1] * 1000, {1: 2}, {(1, 2): 3}, {"items": 1})
    ),
    lambda rng: rng.choice(
        (torch.zeros(0), torch.tensor(1), torch.ones(3, 3), torch.ones(9).half())
    ),
    lambda rng: torch.full(rng.choice(((), (4,), (4, 4), (5056,))), float("nan")),
    lambda rng: rng.choice((torch.eye(3).to_sparse(), torch.ones(1).expand(10**9))),
    lambda rng: rng.choice((torch.ones(2, dtype=torch.complex64), torch.empty(3, device="meta"))),
    lambda rng: torch.randint(0, 256, (5056,), dtype=torch.uint8),
    lambda rng: rng.choice((np.float64(1), np.ones(2), np.dtype("V1500000000"), torch.float32)),
    nested,
)


def places_in(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield every place in a tree of dicts, lists and tuples."""
    yield path
    if isinstance(value, (dict, list, tuple)):
        for name in value if isinstance(value, dict) else range(len(value)):
            yield from places_in(value[name], (*path, name))


def changed(value: Any, path: tuple, change: Callable[[Any], Any]) -> Any:
    """Return a copy of a tree in which one place is changed."""
    if not path:
        return change(value)
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = changed(value[path[0]], path[1:], change)
    return tuple(copied) if isinstance(value, tuple) else copied


def revalue(content: bytes, rng: random.Random) -> bytes:
    """Put strange values into the tree that a file holds, take some out, or rename them."""
    tree = torch.load(io.BytesIO(content), weights_only=True)
    for _ in range(rng.choice((1, 1, 1, 3))):
        path = rng.choice(list(places_in(tree)))
        new = rng.choice(STRANGE)(rng)
        how = rng.choice(("put", "put", "put", "drop", "rename"))
        parent = path[:-1]
        if how == "put" or not path or not isinstance(path[-1], str):
            tree = changed(tree, path, lambda _, new=new: new)
        else:
            name = None if how == "drop" else f"module.{path[-1]}"
            tree = changed(
                tree, parent, lambda old, key=path[-1], name=name: renamed(old, key, name)
            )
    return saved(tree, rng.random() < 0.7)


def redescribe(content: bytes, rng: random.Random) -> bytes:
    """Change what a file says of its text encoder, often its vocabulary."""
    tree = torch.load(io.BytesIO(content), weights_only=True)
    described = tree["text_encoder"]
    lines = described["vocabulary"].split("\n")
    place = rng.randrange(len(lines))
    lines[place : place + rng.choice((0, 1, 2, 99))] = rng.choice(
        ([], [""], ["[CLS]"], ["\ud800"], ["a b"], ["x" * 10**5], [str(n) for n in range(10**5)])
    )
    name = rng.choice(list(described))
    changes = {"vocabulary": "\n".join(lines)}, {name: rng.choice(STRANGE)(rng)}
    number = described[name] if isinstance(described[name], int) else 0
    changes += ({name: rng.choice((number + 1, number * 2, number // 2, -number, float(number)))},)
    return saved({**tree, "text_encoder": {**described, **rng.choice(changes)}})


def renamed(items: dict, key: str, name: str | None) -> dict:
    """Return a dict with another name for a key, or without it."""
    pairs = [(name if one == key else one, value) for one, value in items.items()]
    return {one: value for one, value in pairs if one is not None}


CODES = (
    *(b")", b"]", b"}", b"(", b"t", b"\x85", b"\x86", b"a", b"e", b"s", b"u", b"0", b"2", b"R"),
    *(b"b", b"Q", b"\x81", b"\x8f", b"\x90", b"\x91", b"\x93", b"\x94", b"N", b"\x88", b"q\x00"),
    *(b"h\x00", b"j\xff\xff\xff\x7f", b"r\xff\xff\xff\x7f", b"J\xff\xff\xff\x7f", b"K\x01"),
    b"\x8b\xff\xff\xff\x7f",
    b"\x96" + struct.pack("<Q", 2**40),
    b"\x8e" + struct.pack("<Q", 2**62),
    b"\x95" + struct.pack("<Q", 2**62),
    b"X\x05\x00\x00\x00items",
    b"X\xff\xff\xff\xff",
    b"c" + b"a" * 20_000 + b"\nb\n",
    *(b"cos\nsystem\n", b"cbuiltins\neval\n", b"ccollections\nOrderedDict\n"),
    *(b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nSize\n"),
    *(b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\nscalar\n", b"ctorch\ndevice\n"),
    b"ctorch._utils\n_rebuild_wrapper_subclass\n",
    b")" + b"\x85" * 100_000,
    b"I" + b"9" * 10_000 + b"\n",
)


def recode(content: bytes, rng: random.Random) -> bytes:
    """Put instructions of pickle's machine into the pickle of a zip."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    (main,) = (name for name in records if name.endswith("/data.pkl"))
    code = records[main]
    for _ in range(rng.choice((1, 2, 5))):
        place = rng.choice((2, rng.randrange(2, len(code)), len(code) - 1))
        code = code[:place] + b"".join(rng.choices(CODES, k=rng.choice((1, 3)))) + code[place:]
    records[main] = code
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    return buffer.getvalue()


def cases(seed: int, count: int, sound: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield what each case is, the file's path first, and its content.

    `sound` are checkpoints in PyTorch's present form, by what they are.
    """
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        torch.manual_seed(rng.randrange(2**32))
        name = rng.choice(list(sound))
        of_encoder = (redescribe,) * 3 if name.endswith(ENCODER) else ()
        mutate = rng.choice((flip, cut, rearrange, revalue, revalue, recode, *of_encoder))
        content, form = sound[name], rng.choice(("zip", "zip", "legacy", "bare"))
        if mutate not in (recode, redescribe) and form != "zip":
            tree = torch.load(io.BytesIO(content), weights_only=True)
            tree = tree["model_state_dict"] if form == "bare" else tree
            content = saved(tree, zipped=form != "legacy")
        yield f"{TARGET} {mutate.__name__} {form} {name}", mutate(content, rng)
