"""The encoder on a GPU, by the kernels of kernels.py.

Shapes: B batch, T tokens that come in, Q tokens that come out, M memory tokens, d width.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from math import gcd
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.layers.positions import sinusoids
from models.native.compiler import Unavailable
from models.native.encoding import Request
from models.native.weights import listed_weights

_LONGEST = 64  # tokens that a program's registers hold
_WIDTHS = (16, 32, 64)
_CHUNKS = 32, 64  # feed-forward channels at a time, at least and at most
_FIRST_WITH_TF32 = (8, 0)  # compute capability
_LEAST_BLOCK = 16  # tokens: what a matrix unit takes
_SEGMENTS_AT_ONCE = 256  # at most, whose gradients of weights lie beside each other
_VALUES_AT_ONCE = 2**26  # in those
_LAUNCH = {"num_warps": 4, "num_stages": 1}


class Form(NamedTuple):
    """What of a call kernels are compiled for."""

    tokens: int  # a block of so many
    memory: int | None  # a block too; None where tokens attend to each other
    is_dropped: bool
    learns: bool  # gradients are wanted

    @classmethod
    def of(cls, x: Tensor, memory: Tensor | None, keys: Tensor | None) -> Form:
        """Return the form of a call that is made now."""
        attended = None if memory is None else _block(memory.shape[1])
        return cls(_block(x.shape[1]), attended, keys is not None, torch.is_grad_enabled())

    def some_tokens(self) -> tuple[int, int | None]:
        """Return how many tokens, and of memory, a call of this form may have."""
        return 5 * self.tokens // 8, None if self.memory is None else 9 * self.memory // 16


def unsuited(
    width: int, heads: int, feedforward: int, device: torch.device, form: Form
) -> str | None:
    """Return why the kernels are not for such calls, or this device; None where they are."""
    if max(form.tokens, form.memory or 0) > _LONGEST:
        return f"kernels.py is for up to {_LONGEST} tokens"
    if width not in _WIDTHS or width % heads or feedforward % _CHUNKS[0]:
        return f"kernels.py is not for width {width}, {heads} heads, feedforward {feedforward}"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _FIRST_WITH_TF32:
        return f"kernels.py is not for {torch.cuda.get_device_name(device)}"
    return None


class Kernels:
    """The kernels for some sizes. Raises Unavailable where there is no Triton."""

    longest: float = _LONGEST

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        try:
            from models.native import kernels
        except ImportError as error:
            raise Unavailable(f"it needs Triton: {error}") from error
        self._kernels, self._heads = kernels, heads
        self.weights = listed_weights(width, feedforward)
        of_a_layer = self.weights[0]
        *places, end = accumulate((weight.size for weight in of_a_layer), initial=0)
        begins = {weight.path: place for weight, place in zip(of_a_layer, places, strict=True)}
        self._sizes = {
            **{"D": width, "HEAD": width // heads},
            **{"F": feedforward, "CHUNK": gcd(feedforward, _CHUNKS[1])},
            "OUT": begins["self_attn.out_proj.weight"],
            **{"FC1": begins["fc1.weight"], "FC2": begins["fc2.weight"]},
            "NORMS": begins["layer_norms.0.weight"],
            "LAYER": end,
        }

    def forward(
        self, request: Request, x: Tensor, memory: Tensor | None, packed: Tensor, keeps: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Encode as `CompiledEncoder` says; what is kept, kernels.py says."""
        layers, given = len(request.encoder.layers), self._arguments(request, x, memory)
        out = x.new_empty(len(x), given["Q"], x.shape[2])
        if not keeps:  # each layer takes the place of the one before
            given.update(size=given["stride"], stride=0)
        kept = x.new_empty(len(x), given["size"])
        given.update(x_at=x, weights=packed, kept=kept, out=out)
        with _on_device_of(x):
            for layer in range(layers + 1):
                self._start("forward", given, layer, layers)
                if layer < layers:
                    self._start("attend", given, layer, layers)
        return out, kept if keeps else None

    def backward(
        self,
        request: Request,
        x: Tensor,
        memory: Tensor | None,
        packed: Tensor,
        kept: Tensor,
        grad_out: Tensor,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return gradients as `CompiledEncoder` says."""
        grad_x = torch.empty_like(x)
        grad_memory = None if memory is None else torch.empty_like(memory)
        at_once = min(len(x), _SEGMENTS_AT_ONCE, max(1, _VALUES_AT_ONCE // len(packed)))
        of_weights = packed.new_empty(at_once, len(packed))
        given = self._arguments(request, x, memory)
        grads = x.new_empty(at_once, 3 * (given["TB"] + given["MB"]) * x.shape[2])
        given.update(weights=packed, grads=grads, grad_weights=of_weights)
        of_segments = {
            **{"memory_at": given["memory_at"], "keys": given["keys"], "kept": kept},
            **{"grad_out": grad_out, "grad_x": grad_x},
            "grad_memory": grad_x if grad_memory is None else grad_memory,
        }
        layers, sums = len(request.encoder.layers), []
        for begin in range(0, len(x), at_once):
            some = slice(begin, min(begin + at_once, len(x)))
            given.update({name: tensor[some] for name, tensor in of_segments.items()})
            with _on_device_of(x):
                for layer in reversed(range(layers + 1)):
                    if layer < layers:
                        self._start("attend_backward", given, layer, layers)
                    self._start("backward", given, layer, layers)
            sums.append(of_weights[: some.stop - some.start].sum(0))
        return grad_x, grad_memory, sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)

    def _start(self, name: str, given: dict[str, Any], layer: int, layers: int) -> None:
        """Start a kernel for a layer, with those of the arguments that it names."""
        kernel = getattr(self._kernels, name)
        grid: tuple[int, ...] = (len(given["kept"]),)
        given = {**given, "layer": layer, "IS_FIRST": layer == 0, "IS_LAST": layer == layers}
        if name.startswith("attend"):
            grid += (self._heads,)
            given["Q"] = given["Q"] if layer == layers - 1 else given["T"]
        kernel[grid](**{name: given[name] for name in kernel.arg_names}, **_LAUNCH)

    def _arguments(self, request: Request, x: Tensor, memory: Tensor | None) -> dict[str, Any]:
        """Return the kernels' arguments that forward and backward pass have in common."""
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
            "below": int((1 - request.encoder.attention_dropout) * 2**32),  # hashes that keep
            "positions": sinusoids(max(tokens, attended), width, x.device),
            **{"memory_at": x if memory is None else memory, "HAS_MEMORY": memory is not None},
            **{"keys": x if keys is None else keys.contiguous(), "IS_DROPPED": keys is not None},
        }


def _on_device_of(x: Tensor) -> AbstractContextManager[None]:
    """Kernels start on the current device."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _block(tokens: int) -> int:
    return max(_LEAST_BLOCK, 1 << (tokens - 1).bit_length())
