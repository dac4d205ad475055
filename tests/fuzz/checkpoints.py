"""Damaged and hostile checkpoints, of a training to resume and of weights alone."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from tests.fuzz.mutate import damaged, each_case, nested, replaced_somewhere, saved
from tests.fuzz.pickles import instruction

TARGET = "run/best.pth"  # the file that is evaluated, and resumed
ENCODER = " with a text encoder"  # what the name of a sound file ends with that has one


def damage(content: bytes, rng: random.Random) -> bytes:
    """Damage bytes, mostly near the ends, where a file's tables are."""
    places = [*range(0, 600, 64), *range(max(len(content) - 2000, 0), len(content), 64)]
    return damaged(rng, content, places)


def records_of(content: bytes) -> list[list]:
    """Return name and content of each record of a zip."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [[name, archive.read(name)] for name in archive.namelist()]


def archive_of(records: list[list], kind: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip of records."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, record in records:
            archive.writestr(name, record)
    return buffer.getvalue()


def rearrange(content: bytes, rng: random.Random) -> bytes:
    """Swap, drop, repeat, rename, empty or compress the records of a zip."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return damage(content, rng)
    records = records_of(content)
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
    return archive_of(records, zipfile.ZIP_DEFLATED if how == "compress" else zipfile.ZIP_STORED)


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
    lambda rng: nested(rng.choice((3, 49, 60, 300))),
)


def revalue(content: bytes, rng: random.Random) -> bytes:
    """Put strange values into the tree that a file holds, or take some out."""
    tree = torch.load(io.BytesIO(content), weights_only=True)
    for _ in range(rng.choice((1, 1, 1, 3))):
        tree = replaced_somewhere(rng, tree, lambda: rng.choice(STRANGE)(rng))
    return saved(tree, rng.random() < 0.7)


def redescribe(content: bytes, rng: random.Random) -> bytes:
    """Change what a file says of its text encoder, often its vocabulary."""
    tree = torch.load(io.BytesIO(content), weights_only=True)
    described = tree["text_encoder"]
    name, value = rng.choice(list(described.items()))
    new = rng.choice(STRANGE)(rng)
    if rng.random() < 0.4:
        lines = described["vocabulary"].split("\n")
        place = rng.randrange(len(lines))
        lines[place : place + rng.choice((0, 1, 2, 99))] = rng.choice(
            (
                [],
                [""],
                ["[CLS]"],
                ["\ud800"],
                ["a b"],
                ["x" * 10**5],
                [str(n) for n in range(10**5)],
            )
        )
        name, new = "vocabulary", "\n".join(lines)
    elif type(value) is int:
        new = rng.choice((new, value + 1, value * 2, value // 2, -value, float(value)))
    return saved({**tree, "text_encoder": {**described, name: new}})


def recode(content: bytes, rng: random.Random) -> bytes:
    """Put instructions of pickle's machine into the pickle of a zip."""
    records = records_of(content)
    (main,) = (record for record in records if record[0].endswith("/data.pkl"))
    code = main[1]
    for _ in range(rng.choice((1, 2, 5, 15))):
        place = rng.choice((2, rng.randrange(2, len(code)), len(code) - 1))
        code = code[:place] + instruction(rng)[0] + code[place:]
    main[1] = code
    return archive_of(records)


def cases(seed: int, count: int, sound: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield what each case is, the file's path first, and its content.

    `sound` are checkpoints in PyTorch's present form, by what they are.
    """

    def one(rng: random.Random) -> tuple[str, bytes]:
        torch.manual_seed(rng.randrange(2**32))
        name = rng.choice(list(sound))
        of_encoder = (redescribe,) * 3 if name.endswith(ENCODER) else ()
        mutate = rng.choice((damage, damage, rearrange, revalue, revalue, recode, *of_encoder))
        content, form = sound[name], rng.choice(("zip", "zip", "legacy", "bare"))
        if mutate not in (recode, redescribe) and form != "zip":
            tree = torch.load(io.BytesIO(content), weights_only=True)
            tree = tree["model_state_dict"] if form == "bare" else tree
            content = saved(tree, zipped=form != "legacy")
        return f"{TARGET} {mutate.__name__} {form} {name}", mutate(content, rng)

    return each_case(seed, count, [one])
