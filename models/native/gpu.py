"""The encoder on a GPU, with the kernels of the folder kernels.

Shapes: B batch, T input tokens, Q output tokens, M memory tokens, d width.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import accumulate
from math import gcd
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.layers.positions import sinusoids
from models.native.compiler import Unavailable
from models.native.encoding import Request
from models.native.weights import listed_weights
from system.cpus import usable_cpus

_LONGEST = 64  # tokens: the limit of a program's registers
_WIDTHS = (16, 32, 64)
_CHUNKS = 32, 64  # feed-forward channels at a time, at least and at most
_FIRST_WITH_TF32 = (8, 0)  # compute capability
_MIN_BLOCK = 16  # tokens: the least for a matrix unit
_SEGMENTS_AT_ONCE = 256  # at most, each with its own gradients of the weights in memory
_VALUES_AT_ONCE = 2**26  # the limit of those gradients
# Products and sums are fused in every version of Triton: so are they in the tests of exactness.
_LAUNCH_OPTIONS = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}


class Form(NamedTuple):
    """The properties of a call that kernels are compiled for."""

    tokens: int  # rounded up to a block
    memory: int | None  # the same of memory tokens; None where tokens attend to each other
    is_dropped: bool
    learns: bool  # gradients are needed

    @classmethod
    def of(cls, x: Tensor, memory: Tensor | None, keys: Tensor | None) -> Form:
        """Return the form of a call with these tensors, in the current grad mode."""
        attended = None if memory is None else _block(memory.shape[1])
        return cls(_block(x.shape[1]), attended, keys is not None, torch.is_grad_enabled())

    def test_lengths(self) -> tuple[int, int | None]:
        """Return numbers of tokens and memory tokens for a test call of this form."""
        return 5 * self.tokens // 8, None if self.memory is None else 9 * self.memory // 16


def unsuitable_reason(
    width: int, heads: int, feedforward: int, device: torch.device, form: Form
) -> str | None:
    """Return why the kernels cannot do such calls, or use this device; None where they can."""
    if max(form.tokens, form.memory or 0) > _LONGEST:
        return f"models/native/kernels is for up to {_LONGEST} tokens"
    if width not in _WIDTHS or width % heads or feedforward % _CHUNKS[0]:
        sizes = f"width {width}, {heads} heads, feedforward {feedforward}"
        return f"models/native/kernels is not for {sizes}"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _FIRST_WITH_TF32:
        return f"models/native/kernels is not for {torch.cuda.get_device_name(device)}"
    return None


class Kernels:
    """The kernels for given sizes. Raises Unavailable where there is no Triton."""

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        try:
            from models.native import kernels
        except ImportError as error:
            raise Unavailable(f"it needs Triton: {error}") from error
        self._kernels, self._heads, self._only_compiles = kernels, heads, False
        self.weights = listed_weights(width, feedforward)
        layer_weights = self.weights[0]
        *starts, end = accumulate((weight.size for weight in layer_weights), initial=0)
        offsets = {weight.path: start for weight, start in zip(layer_weights, starts, strict=True)}
        self._sizes = {
            **{"D": width, "HEAD": width // heads},
            **{"F": feedforward, "CHUNK": gcd(feedforward, _CHUNKS[1])},
            "OUT": offsets["self_attn.out_proj.weight"],
            **{"FC1": offsets["fc1.weight"], "FC2": offsets["fc2.weight"]},
            "NORMS": offsets["layer_norms.0.weight"],
            "LAYER": end,
        }

    def compile(self, request: Request, x: Tensor, memory: Tensor | None, learns: bool) -> None:
        """Compile the kernels of such calls side by side, not each when it is first started.

        Those that fail are left to the calls, which then raise the error; so are all with an old
        Triton.
        """
        try:
            from triton import AsyncCompileMode
        except ImportError:
            return
        layers, sizes = len(request.encoder.layers), self._sizes
        packed = x.new_empty(layers * sizes["LAYER"] + 2 * sizes["D"])
        self._only_compiles = True
        try:
            with (
                ThreadPoolExecutor(usable_cpus()) as threads,
                AsyncCompileMode(threads, ignore_errors=True),
            ):
                out, kept = self.forward(request, x, memory, packed, learns)
                if kept is not None:
                    self.backward(request, x, memory, packed, kept, out)
        finally:
            self._only_compiles = False

    def forward(
        self, request: Request, x: Tensor, memory: Tensor | None, packed: Tensor, learns: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Encode as defined by `CompiledEncoder`; kernels says how values are kept."""
        layers, arguments = len(request.encoder.layers), self._arguments(request, x, memory)
        out = x.new_empty(len(x), arguments["Q"], x.shape[2])
        if not learns:  # each layer overwrites the one before
            arguments.update(size=arguments["stride"], stride=0)
        kept = x.new_empty(len(x), arguments["size"])
        arguments.update(x_at=x, weights=packed, kept=kept, out=out)
        with torch.cuda.device(x.get_device()):  # kernels start on the current device
            for layer in range(layers + 1):
                self._launch("forward", arguments, layer, layers)
                if layer < layers:
                    self._launch("attend", arguments, layer, layers)
        return out, kept if learns else None

    def backward(
        self,
        request: Request,
        x: Tensor,
        memory: Tensor | None,
        packed: Tensor,
        kept: Tensor,
        grad_out: Tensor,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return gradients as defined by `CompiledEncoder`."""
        grad_x = torch.empty_like(x)
        grad_memory = None if memory is None else torch.empty_like(memory)
        at_once = min(len(x), _SEGMENTS_AT_ONCE, max(1, _VALUES_AT_ONCE // len(packed)))
        weight_grads = packed.new_empty(at_once, len(packed))
        arguments = self._arguments(request, x, memory)
        grads = x.new_empty(at_once, 3 * (arguments["TB"] + arguments["MB"]) * x.shape[2])
        arguments.update(weights=packed, grads=grads, grad_weights=weight_grads)
        segment_tensors = {
            **{"memory_at": arguments["memory_at"], "keys": arguments["keys"], "kept": kept},
            **{"grad_out": grad_out, "grad_x": grad_x},
            "grad_memory": grad_x if grad_memory is None else grad_memory,
        }
        layers, sums = len(request.encoder.layers), []
        for begin in range(0, len(x), at_once):
            segments = slice(begin, min(begin + at_once, len(x)))
            arguments.update({name: tensor[segments] for name, tensor in segment_tensors.items()})
            with torch.cuda.device(x.get_device()):  # kernels start on the current device
                for layer in reversed(range(layers + 1)):
                    if layer < layers:
                        self._launch("attend_backward", arguments, layer, layers)
                    self._launch("backward", arguments, layer, layers)
            sums.append(weight_grads[: segments.stop - segments.start].sum(0))
        return grad_x, grad_memory, sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)

    def _launch(self, name: str, arguments: dict[str, Any], layer: int, layers: int) -> None:
        """Start a kernel for a layer, with those of the `arguments` that it takes."""
        kernel = getattr(self._kernels, name)
        grid: tuple[int, ...] = (len(arguments["kept"]),)
        arguments = arguments | {"layer": layer, "IS_FIRST": layer == 0, "IS_LAST": layer == layers}
        if name.startswith("attend"):
            grid += (self._heads,)
            arguments["Q"] = arguments["Q"] if layer == layers - 1 else arguments["T"]
        start = partial(kernel.warmup, grid=grid) if self._only_compiles else kernel[grid]
        start(**{name: arguments[name] for name in kernel.arg_names}, **_LAUNCH_OPTIONS)

    def _arguments(self, request: Request, x: Tensor, memory: Tensor | None) -> dict[str, Any]:
        """Return the kernels' arguments that forward and backward pass share."""
        tokens, width = x.shape[1:]
        attended = tokens if memory is None else memory.shape[1]
        keys, layers = request.dropout_keys, len(request.encoder.layers)
        blocks = _block(tokens), _block(attended)
        stride = (3 * blocks[0] + 2 * blocks[1]) * width
        return {
            **self._sizes,
            **{"T": tokens, "M": attended, "Q": request.queries(tokens), "L": layers},
            **{"TB": blocks[0], "MB": blocks[1]},
            **{"size": layers * stride + blocks[0] * width, "stride": stride},
            "below": int((1 - request.encoder.attention_dropout) * 2**32),  # smaller hashes keep
            "positions": sinusoids(max(tokens, attended), width, x.device),
            **{"memory_at": x if memory is None else memory, "HAS_MEMORY": memory is not None},
            **{"keys": x if keys is None else keys.contiguous(), "IS_DROPPED": keys is not None},
        }


def _block(tokens: int) -> int:
    return max(_MIN_BLOCK, 1 << (tokens - 1).bit_length())
