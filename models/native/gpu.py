"""The encoder on a GPU, by the kernels of kernels.py.

Shapes: B batch, T tokens that come in, Q tokens that come out, M memory tokens, d width.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from math import gcd

import torch
from torch import Tensor

from models.layers.positions import sinusoids
from models.native.compiler import Unavailable
from models.native.encoding import Request
from models.native.weights import Weight, Weights

_LONGEST = 64  # tokens that a program's registers hold
_WIDTHS = (16, 32, 64)
_CHUNKS = 32, 64  # feed-forward channels at a time, at least and at most
_FIRST_WITH_TF32 = (8, 0)  # compute capability
_LEAST_BLOCK = 16  # tokens: what a matrix unit takes
_SEGMENTS_AT_ONCE = 256  # at most, whose gradients of weights lie beside each other
_VALUES_AT_ONCE = 2**26  # in those
_LAUNCH = {"num_warps": 4, "num_stages": 1}


def unsuited(width: int, heads: int, feedforward: int, device: torch.device) -> str | None:
    """Return why the kernels are not for these sizes, or this device; None where they are."""
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
        self.weights = _weights(width, feedforward)
        of_a_layer = self.weights[0]
        *places, end = accumulate((weight.size for weight in of_a_layer), initial=0)
        begins = {weight.path: place for weight, place in zip(of_a_layer, places, strict=True)}
        self._sizes = {
            **{"D": width, "HEAD": width // heads, "CHUNK": gcd(feedforward, _CHUNKS[1])},
            "OUT": begins["self_attn.out_proj.weight"],
            **{"FC1": begins["fc1.weight"], "FC2": begins["fc2.weight"]},
            "NORMS": begins["layer_norms.0.weight"],
            "LAYER": end,
        }
        self._feedforward = feedforward

    def forward(
        self, request: Request, x: Tensor, memory: Tensor | None, packed: Tensor, keeps: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Encode as `CompiledEncoder` says; what is kept, kernels.py says."""
        out = x.new_empty(len(x), request.queries(x.shape[1]), x.shape[2])
        inputs, numbers, sizes = self._arguments(request, x, memory)
        of_a_layer = 3 * sizes["TB"] + 2 * sizes["MB"]
        rows = len(request.encoder.layers) * of_a_layer + sizes["TB"] if keeps else of_a_layer
        kept = x.new_empty(len(x), rows, x.shape[2])
        with _on_device_of(x):
            self._kernels.forward[(len(x),)](
                *(*inputs, packed, kept, out, *numbers), **sizes, IS_KEPT=keeps, **_LAUNCH
            )
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
        grad_x, grad_memory = (
            torch.empty_like(x),
            None if memory is None else torch.empty_like(memory),
        )
        inputs, numbers, sizes = self._arguments(request, x, memory)
        of_memory = grad_x if grad_memory is None else grad_memory
        at_once = min(len(x), _SEGMENTS_AT_ONCE, max(1, _VALUES_AT_ONCE // len(packed)))
        of_weights = packed.new_empty(at_once, len(packed))
        scratch = x.new_empty(at_once, 2 * (sizes["TB"] + sizes["MB"]), x.shape[2])
        sums = []
        for begin in range(0, len(x), at_once):
            some = slice(begin, min(begin + at_once, len(x)))
            segments = some.stop - some.start
            x_part, memory_part, positions, keys = inputs
            with _on_device_of(x):
                self._kernels.backward[(segments,)](
                    *(x_part[some], memory_part[some], positions, keys[some], packed, kept[some]),
                    *(scratch, grad_out[some], grad_x[some], of_memory[some], of_weights),
                    *numbers,
                    **sizes,
                    **_LAUNCH,
                )
            sums.append(of_weights[:segments].sum(0))
        return grad_x, grad_memory, sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)

    def _arguments(
        self, request: Request, x: Tensor, memory: Tensor | None
    ) -> tuple[list[Tensor], list[int], dict[str, int | bool]]:
        """Return the kernels' first tensors, their numbers, and what they are compiled for."""
        tokens = x.shape[1]
        attended = tokens if memory is None else memory.shape[1]
        keys, encoder = request.dropout_keys, request.encoder
        positions = sinusoids(max(tokens, attended), x.shape[2], x.device)
        keys = x if keys is None else keys.contiguous()
        inputs = [x, x if memory is None else memory, positions, keys]
        below = int((1 - encoder.attention_dropout) * 2**32)  # hashes that keep a weight
        numbers = [tokens, attended, request.queries(tokens), len(encoder.layers), self._heads]
        blocks = {"TB": _block(tokens), "MB": _block(attended)}
        is_so = {"HAS_MEMORY": memory is not None, "IS_DROPPED": request.dropout_keys is not None}
        return inputs, [*numbers, self._feedforward, below], {**self._sizes, **blocks, **is_so}


def _on_device_of(x: Tensor) -> AbstractContextManager[None]:
    """Kernels start on the current device."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _weights(width: int, feedforward: int) -> Weights:
    """Return the weights in the order of kernels.py."""
    of_a_layer = (
        Weight.at("self_attn.in_proj_weight", (3 * width, width)),
        Weight.at("self_attn.in_proj_bias", (3 * width,)),
        Weight.at("self_attn.out_proj.weight", (width, width)),
        Weight.at("self_attn.out_proj.bias", (width,)),
        Weight.at("fc1.weight", (feedforward, width)),
        Weight.at("fc1.bias", (feedforward,)),
        Weight.at("fc2.weight", (width, feedforward)),
        Weight.at("fc2.bias", (width,)),
        *_norm("layer_norms.0", width),
        *_norm("layer_norms.1", width),
    )
    return of_a_layer, _norm("layer_norm", width)


def _norm(module: str, width: int) -> tuple[Weight, ...]:
    return tuple(Weight(module, name, (width,)) for name in ("weight", "bias"))


def _block(tokens: int) -> int:
    return max(_LEAST_BLOCK, 1 << (tokens - 1).bit_length())
