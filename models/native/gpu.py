"""The encoder on a GPU, by the kernels of kernels.py, as a function that PyTorch can differentiate.

Shapes: B batch, T tokens that come in, Q tokens that come out, M memory tokens, d width.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.layers.encoder import Encoder
from models.layers.positions import sinusoids
from models.native.compiler import Unavailable
from models.native.request import Request, differentiable_grads
from models.native.weights import Weight

_LONGEST = 64  # tokens that a program's registers hold
_WIDTHS = (16, 32, 64)
_CHUNK = 32  # of the feed-forward width, as in kernels.py
_FIRST_WITH_TF32 = (8, 0)  # compute capability
_LEAST_BLOCK = 16  # tokens: what a matrix unit takes
_SEGMENTS_AT_ONCE = 256  # whose gradients of weights lie beside each other
_LAUNCH = {"num_warps": 4, "num_stages": 1}


def unsuited(width: int, heads: int, feedforward: int, device: torch.device) -> str | None:
    """Return why the kernels are not for these sizes, or this device; None where they are."""
    if width not in _WIDTHS or width % heads or feedforward % _CHUNK:
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
        shapes: dict[str, tuple[int, ...]] = {
            "self_attn.in_proj_weight": (3 * width, width),
            "self_attn.in_proj_bias": (3 * width,),
            "self_attn.out_proj.weight": (width, width),
            "self_attn.out_proj.bias": (width,),
            "fc1.weight": (feedforward, width),
            "fc1.bias": (feedforward,),
            "fc2.weight": (width, feedforward),
            "fc2.bias": (width,),
            **{f"layer_norms.{n}.{name}": (width,) for n in (0, 1) for name in ("weight", "bias")},
        }
        norm: dict[str, tuple[int, ...]] = {
            f"layer_norm.{name}": (width,) for name in ("weight", "bias")
        }
        self.weights = _weights(shapes), _weights(norm)
        *places, end = accumulate(map(_size, shapes.values()), initial=0)
        begins = dict(zip(shapes, places, strict=True))
        self._sizes = {
            **{"D": width, "HEAD": width // heads},
            "OUT": begins["self_attn.out_proj.weight"],
            **{"FC1": begins["fc1.weight"], "FC2": begins["fc2.weight"]},
            "NORMS": begins["layer_norms.0.weight"],
            "LAYER": end,
        }
        self._feedforward = feedforward

    def encode(
        self, request: Request, x: Tensor, memory: Tensor | None, weights: list[Tensor]
    ) -> Tensor:
        """Encode as `CompiledEncoder` says."""
        x, memory = x.float().contiguous(), None if memory is None else memory.float().contiguous()
        with _on_device_of(x):
            out: Tensor = _Encode.apply(  # type: ignore[no-untyped-call]  # torch has no type
                self, request, torch.is_grad_enabled(), x, memory, _packed(request, weights)
            )
        return out

    def forward(
        self,
        request: Request,
        x: Tensor,
        memory: Tensor | None,
        packed: Tensor,
        kept: Tensor | None,
    ) -> Tensor:
        """Encode, and put into `kept` `(B, 2 layers + 1, T, d)` what `backward` needs."""
        queries = request.queries(x.shape[1])
        out = x.new_empty(len(x), queries, x.shape[2])
        inputs, numbers, sizes = self._arguments(request, x, memory)
        rest = (packed, x if kept is None else kept, out)
        is_kept = kept is not None
        self._kernels.forward[(len(x),)](
            *inputs, *rest, *numbers, **sizes, IS_KEPT=is_kept, **_LAUNCH
        )
        return out

    def backward(
        self,
        request: Request,
        x: Tensor,
        memory: Tensor | None,
        packed: Tensor,
        kept: Tensor,
        grad_out: Tensor,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the gradients of `x`, `memory` and the packed weights."""
        grad_x, grad_memory = (
            torch.empty_like(x),
            None if memory is None else torch.empty_like(memory),
        )
        inputs, numbers, sizes = self._arguments(request, x, memory)
        of_memory = grad_x if grad_memory is None else grad_memory
        of_weights = packed.new_empty(min(len(x), _SEGMENTS_AT_ONCE), len(packed))
        sums = []
        for begin in range(0, len(x), _SEGMENTS_AT_ONCE):
            some = slice(begin, min(begin + _SEGMENTS_AT_ONCE, len(x)))
            segments = some.stop - some.start
            x_part, memory_part, positions, keys = inputs
            self._kernels.backward[(segments,)](
                *(x_part[some], memory_part[some], positions, keys[some], packed, kept[some]),
                *(grad_out[some], grad_x[some], of_memory[some], of_weights),
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


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        request: Request,
        is_grad_enabled: bool,
        x: Tensor,
        memory: Tensor | None,
        packed: Tensor,
    ) -> Tensor:
        kept = None
        if is_grad_enabled and any(ctx.needs_input_grad):
            layers = len(request.encoder.layers)
            kept = x.new_empty(len(x), 2 * layers + 1, *x.shape[1:])
            ctx.save_for_backward(x, memory, packed, kept)
            ctx.rest = (
                kernels,
                request,
                packed,
            )  # which the encoder's next call finds while it lives
        return kernels.forward(request, x, memory, packed, kept)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, memory, packed, kept = ctx.saved_tensors
        kernels, request, _ = ctx.rest
        if torch.is_grad_enabled():  # the gradients are to be differentiated themselves
            out = functional_call(
                _Formula(request), _unpacked(request, kernels, packed), (x, memory)
            )
            grads = differentiable_grads(
                out, (x, memory, packed), ctx.needs_input_grad[3:], grad_out
            )
            return None, None, None, *grads
        with _on_device_of(x):
            found = kernels.backward(request, x, memory, packed, kept, grad_out.contiguous())
        return None, None, None, *found


class _Formula(nn.Module):
    """A request as a module, whose weights can be others."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self.encoder = request.encoder
        self._request = request

    def forward(self, x: Tensor, memory: Tensor | None) -> Tensor:
        return self._request.formula(x, memory)


# An encoder that is called again before its first call's gradients are there uses the same array:
# adding to one gradient takes one kernel. When the calls' graphs are gone, so is the array.
_alive: WeakKeyDictionary[Encoder, tuple[ReferenceType[Tensor], list[int]]] = WeakKeyDictionary()


def _packed(request: Request, weights: list[Tensor]) -> Tensor:
    """Return the weights as one array, which knows where it comes from."""
    if not torch.is_grad_enabled():
        return torch.cat([weight.flatten() for weight in weights])
    state = [number for weight in weights for number in (id(weight), weight._version)]
    reference, made_from = _alive.get(request.encoder, (None, []))
    packed = None if reference is None or made_from != state else reference()
    if packed is None:
        packed = torch.cat([weight.flatten() for weight in weights])
        _alive[request.encoder] = ref(packed), state
    return packed


def _unpacked(request: Request, kernels: Kernels, packed: Tensor) -> dict[str, Tensor]:
    """Return views of the packed weights by their names within `_Formula`."""
    of_a_layer, of_the_norm = kernels.weights
    listed = [
        (f"encoder.layers.{n}.{weight.path}", weight.shape)
        for n in range(len(request.encoder.layers))
        for weight in of_a_layer
    ]
    listed += [(f"encoder.{weight.path}", weight.shape) for weight in of_the_norm]
    parts = torch.split(packed, [_size(shape) for _, shape in listed])
    return {name: part.view(shape) for (name, shape), part in zip(listed, parts, strict=True)}


def _on_device_of(x: Tensor) -> AbstractContextManager[None]:
    """Kernels start on the current device."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _weights(shapes: dict[str, tuple[int, ...]]) -> tuple[Weight, ...]:
    return tuple(Weight.at(path, shape) for path, shape in shapes.items())


def _size(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _block(tokens: int) -> int:
    return max(_LEAST_BLOCK, 1 << (tokens - 1).bit_length())
