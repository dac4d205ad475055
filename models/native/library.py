"""The compiled encoder for given sizes: made when first needed, and tested before its use.

In C++ on a CPU, in Triton on a GPU.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from models.layers.encoder import Encoder
from models.native import compiler
from models.native.call import ABI, Library
from models.native.encoding import CompiledEncoder, Request, encode
from models.native.gpu import Form, Kernels, unsuitable_reason
from models.native.weights import plain_weights
from system.console import print_line
from system.errors import described

_SOURCE = Path(__file__).parent / "encoder.cpp"
_CPU = torch.device("cpu")
# Two calls test the C++ code, which is the same for all calls.
_CPU_FORMS = (
    Form(64, None, is_dropped=False, learns=True),
    Form(64, 64, is_dropped=True, learns=True),
)


@cache
def library(width: int, heads: int, feedforward: int) -> Library | str:
    """Return the C++ encoder for these sizes, or, after a line that says it, why there is none."""
    if width % 16 or feedforward % 16 or width // heads % 4:
        sizes_text = f"width {width}, {heads} heads, feedforward {feedforward}"
        print_line(f"No encoder in C++ for {sizes_text}; a step takes up to three times as long")
        return f"{_SOURCE.name} is not for {sizes_text}"

    def make_tested(code: ctypes.CDLL) -> Library:
        compiled = Library(code, width, feedforward)
        self_test(compiled, width, heads, feedforward)
        return compiled

    sizes = {"WIDTH": width, "HEADS": heads, "FEEDFORWARD": feedforward}
    return compiler.load_or_warn(_SOURCE, make_tested, ABI=ABI, **sizes)


def kernels(
    width: int, heads: int, feedforward: int, device: torch.device, form: Form
) -> Kernels | str:
    """Return the GPU's encoder for these sizes, or, after a warning on failure, why there is none.

    The kernels for calls of this `form` are compiled and tested at its first use.
    """
    key = width, heads, feedforward, device, form
    if key not in _tested:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return "kernels cannot be tested while a CUDA graph is captured"
        _tested[key] = _make_kernels(*key)
    return _tested[key]


_tested: dict[tuple[int, int, int, torch.device, Form], Kernels | str] = {}


def _make_kernels(
    width: int, heads: int, feedforward: int, device: torch.device, form: Form
) -> Kernels | str:
    if problem := unsuitable_reason(width, heads, feedforward, device, form):
        return problem
    if not any(tested_form.learns == form.learns for *_, tested_form in _tested):
        part = "gradients" if form.learns else "outputs"
        print_line(f"Making the encoders' kernels ({part}); the first time takes up to a minute")
    try:
        compiled = Kernels(width, heads, feedforward)
        self_test(compiled, width, heads, feedforward, device, [form])
        return compiled
    # A compiler can fail in any way: it is missing, or does not support this device.
    except Exception as error:
        warnings.warn(
            f"no encoder in Triton, running without it ({described(error)})", stacklevel=2
        )
        return str(error)


@torch.inference_mode(False)
def self_test(
    compiled: CompiledEncoder,
    width: int,
    heads: int,
    feedforward: int,
    device: torch.device = _CPU,
    forms: Sequence[Form] = _CPU_FORMS,
) -> None:
    """Compare outputs and gradients of calls with the formula's; in C++ it takes milliseconds.

    Raises Unavailable when they differ.
    """
    with (
        _one_thread(),  # with more, the formula's small operators would be slower
        torch.random.fork_rng(devices=[]),
        torch.autocast(device.type, enabled=False),
        torch.device("cpu"),
    ):
        torch.default_generator.manual_seed(0)  # generators of other devices are not changed
        encoder = Encoder(width, heads, 2, feedforward, attention_dropout=0.4).float().to(device)
        for form in forms:
            x, memory = (
                None if n is None else torch.randn(6, n, width, dtype=torch.float32).to(device)
                for n in form.test_lengths()
            )
            keys = torch.randint(2**32, (6,)).to(device) if form.is_dropped else None
            request = Request(encoder, None if memory is None else 2, keys, threads=2)
            assert x is not None
            with torch.set_grad_enabled(form.learns):
                if isinstance(compiled, Kernels):
                    compiled.compile(request, x, memory, form.learns)
                outcomes = _outcomes(compiled, request, x, memory)
            compiler.require_same("encoder", *outcomes)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _outcomes(
    compiled: CompiledEncoder, request: Request, x: Tensor, memory: Tensor | None
) -> list[list[Tensor]]:
    """Return output and gradients of the compiled code, and those of the formula."""
    weights = plain_weights(request.encoder, compiled.weights, x.device)
    assert weights is not None  # the encoder is new, and of the compiled one's sizes
    learns = torch.is_grad_enabled()
    inputs = [v.requires_grad_(learns) for v in (x, memory) if v is not None]
    outputs = encode(compiled, request, x, memory, weights), request.formula(x, memory)
    if not learns:
        return [[output] for output in outputs]
    sources = [*inputs, *weights]
    return [[output, *torch.autograd.grad(output.sin().sum(), sources)] for output in outputs]
