"""The compiled encoder for given sizes: made when first needed, and tested before it is used."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from models.layers.encoder import Encoder
from models.native import compiler
from models.native.call import ABI, Library, Options
from models.native.weights import plain_weights

_SOURCE = Path(__file__).parent / "encoder.cpp"
_TOLERANCE = 1e-4  # of a tensor's largest value: rounding gives a tenth of that


@cache
def library(width: int, heads: int, feedforward: int) -> Library | str:
    """Return the encoder for these sizes, or why there is none; a failure brings one warning."""
    if width % 16 or feedforward % 16 or width // heads % 4:
        return f"{_SOURCE.name} is not for width {width}, {heads} heads, feedforward {feedforward}"

    def tested(code: ctypes.CDLL) -> Library:
        made = Library(code)
        self_test(made, width, heads, feedforward)
        return made

    sizes = {"WIDTH": width, "HEADS": heads, "FEEDFORWARD": feedforward}
    try:
        return compiler.load(_SOURCE, tested, ABI=ABI, **sizes)
    except compiler.Unavailable as problem:
        warnings.warn(f"{problem}; a step takes about three times as long", stacklevel=2)
        return str(problem)


@torch.inference_mode(False)
@torch.enable_grad()
def self_test(library: Library, width: int, heads: int, feedforward: int) -> None:
    """Compare a few tokens' outputs and gradients with the formula's; it takes milliseconds.

    Raises Unavailable when they differ.
    """
    with (
        _one_thread(),  # the formula's operators would wait for each other
        torch.random.fork_rng(devices=[]),
        torch.autocast("cpu", enabled=False),
        torch.device("cpu"),
    ):
        torch.manual_seed(0)
        encoder = Encoder(width, heads, 2, feedforward, attention_dropout=0.4).float()
        x, memory = (torch.randn(6, n, width, dtype=torch.float32) for n in (19, 5))
        keys = torch.randint(2**32, (6,))
        for case in ((None, None, None), (memory, 2, keys)):
            found, expected = _outcomes(library, encoder, x, *case)
            for ours, theirs in zip(found, expected, strict=True):
                if not (ours - theirs).abs().max() <= _TOLERANCE * theirs.abs().max():
                    raise compiler.Unavailable(f"{_SOURCE.name}, compiled, computes wrong numbers")


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _outcomes(
    library: Library,
    encoder: Encoder,
    x: Tensor,
    memory: Tensor | None,
    last_tokens_only: int | None,
    keys: Tensor | None,
) -> list[list[Tensor]]:
    """Return output and gradients as compiled, and by the formula."""
    weights = plain_weights(encoder, *library.weights)
    if weights is None:
        raise compiler.Unavailable(f"{_SOURCE.name}, compiled, wants weights of other shapes")
    x = x.clone().requires_grad_()
    memory = None if memory is None else memory.clone().requires_grad_()
    options = Options(library, encoder, last_tokens_only, keys, threads=2)
    wanted = [v for v in (x, memory, *weights) if v is not None]
    return [
        [output, *torch.autograd.grad(output.sin().sum(), wanted)]
        for output in (options.encode(x, memory, weights), options.formula(x, memory))
    ]
