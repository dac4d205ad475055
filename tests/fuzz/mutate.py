"""What all mutators share: a generator for each case, and damage to bytes and to plain values."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator

import torch

Mutator = Callable[[random.Random], tuple[str, bytes]]  # what was done, with the target first

NUMBERS = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
STRANGE_TEXT = (
    *("", " ", "\0", "\n\r\n", '"', "a,b", "[", "x[0]", "[0]", "../up", "/", "nan", "1e999"),
    *("\ud800", "\u202e", "9" * 10_001, "a" * 140_000, "don\u2019t", "\x1b[2J", "=1+1", "$_$"),
)
STRANGE_NUMBERS = (
    *(0, -1, 1, 2**31, 2**63, -(2**64), 10**400, 1.5, -0.0, 1e308, 5e-324, True, None),
    *(float("nan"), float("inf"), float("-inf")),
)


def each_case(seed: int, count: int, mutators: list[Mutator]) -> Iterator[tuple[str, bytes]]:
    """Yield cases; one depends on the seed and its number alone."""
    for index in range(count):
        rng = random.Random(f"{seed}/{index}")
        yield rng.choice(mutators)(rng)


def saved(content: object, zipped: bool = True) -> bytes:
    """Return what `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def nested(depth: int) -> list:
    """Return lists within lists."""
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def damaged(rng: random.Random, content: bytes, places: list[int] | None = None) -> bytes:
    """Change, cut, repeat or insert some bytes, near one of the `places` where there are some."""
    result = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if not result:
            break
        near = places and rng.random() < 0.8
        place = rng.choice(places) + rng.randrange(64) if near else rng.randrange(len(result))
        place = min(place, len(result) - 1)
        _damage(rng, result, place)
    return bytes(result)


def _damage(rng: random.Random, result: bytearray, place: int) -> None:
    width = rng.choice((1, 2, 4, 8))
    kind = rng.randrange(10)
    if kind < 3:
        result[place] = rng.randrange(256)
    elif kind < 5:
        result[place] ^= 1 << rng.randrange(8)
    elif kind < 8:
        number = rng.choice((*NUMBERS, len(result), place, rng.randrange(len(result))))
        small = (number % 256**width).to_bytes(width, "little")
        result[place : place + width] = small[: len(result) - place]
    elif kind == 8:
        end = place + rng.choice((1, 8, 64, 512))
        result[place:end] = rng.choice((b"", bytes(end - place), bytes(result[place:end]) * 2))
    else:
        del result[place:]


def replaced_somewhere(rng: random.Random, value: object, new: Callable[[], object]) -> object:
    """Return a copy of nested dicts and lists in which one node is another value, or gone."""
    if not isinstance(value, (dict, list, tuple)) or not value or rng.random() < 0.15:
        return new()
    if isinstance(value, dict):
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if rng.random() < 0.1:
            return {**value, rng.choice(list(value)): value[key]}
        return {**value, key: replaced_somewhere(rng, value[key], new)}
    place = rng.randrange(len(value))
    kind = type(value)
    if rng.random() < 0.2:
        return kind([*value[:place], *rng.choice(([], list(value[place:]) * 2))])
    inner = replaced_somewhere(rng, value[place], new)
    return kind([*value[:place], inner, *value[place + 1 :]])
