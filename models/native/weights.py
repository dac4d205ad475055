"""An encoder's parameters, in the order of weights.h and kernels."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from models.layers.encoder import Encoder, EncoderLayer, MultiHeadAttention

_TYPES = {EncoderLayer, MultiHeadAttention, nn.Linear, nn.LayerNorm, nn.ModuleList, nn.Softmax}
_EPSILON = 1e-5  # of the layer norms in sizes.h and kernels/parts.py


class Weight(NamedTuple):
    """A parameter that the compiled code takes."""

    path: str  # its name within the layer or the encoder
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of its values."""
        return math.prod(self.shape)


Weights = tuple[tuple[Weight, ...], tuple[Weight, ...]]  # of a layer, of the last norm


@cache
def listed_weights(width: int, feedforward: int) -> Weights:
    """Return the parameters of encoders of these sizes."""
    layer_weights = (
        Weight("self_attn.in_proj_weight", (3 * width, width)),
        Weight("self_attn.in_proj_bias", (3 * width,)),
        Weight("self_attn.out_proj.weight", (width, width)),
        Weight("self_attn.out_proj.bias", (width,)),
        Weight("fc1.weight", (feedforward, width)),
        Weight("fc1.bias", (feedforward,)),
        Weight("fc2.weight", (width, feedforward)),
        Weight("fc2.bias", (width,)),
        *_norm("layer_norms.0", width),
        *_norm("layer_norms.1", width),
    )
    return layer_weights, _norm("layer_norm", width)


def named_weights(encoder: Encoder, listed: Weights) -> list[tuple[str, Weight]]:
    """Return an encoder's parameters, of each layer and of the last norm, by their names in it."""
    layer_weights, norm_weights = listed
    layers = range(len(encoder.layers))
    of_layers = [(f"layers.{n}.{weight.path}", weight) for n in layers for weight in layer_weights]
    return of_layers + [(weight.path, weight) for weight in norm_weights]


def _norm(module: str, width: int) -> tuple[Weight, ...]:
    return tuple(Weight(f"{module}.{name}", (width,)) for name in ("weight", "bias"))


class WeightFinder:
    """Finds an encoder's parameters without walking through its modules again, which is slow."""

    def __init__(self, encoder: Encoder, listed: Weights) -> None:
        """Remember the modules, their children, and which of them has which parameter."""
        self._listed = listed
        _, *modules = encoder.modules()
        self._modules = [(module, vars(module)) for module in modules]
        self._attentions = [vars(part) for part in modules if isinstance(part, MultiHeadAttention)]
        parents = [module for module in encoder.modules() if module._modules]
        self._children = [(vars(parent), dict(parent._modules)) for parent in parents]
        absent = nn.Module()
        by_name: dict[str, nn.Module] = dict(encoder.named_modules(remove_duplicate=False))
        self._weights = []
        for path, weight in named_weights(encoder, listed):
            parent_name, _, name = path.rpartition(".")
            self._weights.append((vars(by_name.get(parent_name, absent)), name, weight.shape))

    def is_current(self, listed: Weights) -> bool:
        """Return whether this is for the `listed` weights, and the modules are still the same."""
        return self._listed is listed and all(
            state["_modules"] == children for state, children in self._children
        )

    def weights(self, device: torch.device) -> list[Tensor] | None:
        """Return the parameters, which are on `device`.

        None where a module does not compute its formula (hooks, a parametrisation, a class or a
        `forward` of its own, another epsilon), or the compiled code cannot take a parameter:
        missing, of another shape, not float32, on another device, not contiguous.
        """
        for module, state in self._modules:
            if (
                type(module) not in _TYPES
                or "forward" in state
                or state["_forward_hooks"]
                or state["_forward_pre_hooks"]
                or state["_backward_hooks"]
                or state["_backward_pre_hooks"]
                or state.get("eps", _EPSILON) != _EPSILON
            ):
                return None
        if len({(state["heads"], state["dropout"]) for state in self._attentions}) > 1:
            return None
        weights = []
        for state, name, shape in self._weights:
            value = state["_parameters"].get(name)
            if not (
                type(value) in (nn.Parameter, Tensor)
                and value.shape == shape
                and value.dtype is torch.float32
                and value.device == device
                and value.is_contiguous()
            ):
                return None
            weights.append(value)
        return weights


_finders: WeakKeyDictionary[Encoder, WeightFinder] = WeakKeyDictionary()


def plain_weights(encoder: Encoder, weights: Weights, device: torch.device) -> list[Tensor] | None:
    """Return the parameters of each layer, then those of the last norm; see WeightFinder."""
    finder = _finders.get(encoder)
    if finder is None or not finder.is_current(weights):
        finder = _finders[encoder] = WeightFinder(encoder, weights)
    return finder.weights(device)
