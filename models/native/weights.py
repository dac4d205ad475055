"""An encoder's parameters, in the order of weights.h and kernels.py, which take them so."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from models.layers.encoder import Encoder, EncoderLayer, MultiHeadAttention

_PLAIN = {EncoderLayer, MultiHeadAttention, nn.Linear, nn.LayerNorm, nn.ModuleList, nn.Softmax}
_EPSILON = 1e-5  # of the layer norms in sizes.h and kernels.py


class Weight(NamedTuple):
    """A parameter that the compiled code takes."""

    path: str  # its name within the layer, or the encoder
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)


Weights = tuple[tuple[Weight, ...], tuple[Weight, ...]]  # of a layer, of the last norm


@cache
def listed_weights(width: int, feedforward: int) -> Weights:
    """Return the parameters of encoders of these sizes."""
    of_a_layer = (
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
    return of_a_layer, _norm("layer_norm", width)


def _norm(module: str, width: int) -> tuple[Weight, ...]:
    return tuple(Weight(f"{module}.{name}", (width,)) for name in ("weight", "bias"))


class WeightPlaces:
    """Where an encoder's parameters are: to walk through its modules takes longer than to look."""

    def __init__(self, encoder: Encoder, weights: Weights) -> None:
        """Find the places of each layer's parameters, then of those of the last norm."""
        self._listed = weights
        of_a_layer, of_the_norm = weights
        modules = [*encoder.get_submodule("layers").modules(), encoder.layer_norm]
        self._modules = [(module, module.__dict__) for module in modules]
        parents = [encoder, *(module for module in modules if module._modules)]
        self._children = [(parent.__dict__, dict(parent._modules)) for parent in parents]
        attentions = [layer._modules.get("self_attn") for layer in encoder.layers]
        self._attentions = [one.__dict__ for one in attentions if one is not None]
        named = [(dict(layer.named_modules()), of_a_layer) for layer in encoder.layers]
        named.append(({"layer_norm": encoder.layer_norm}, of_the_norm))
        self._weights = []
        for found, of_them in named:
            for weight in of_them:
                module, _, name = weight.path.rpartition(".")
                if module in found:
                    self._weights.append((found[module].__dict__, name, weight.shape))
        self._is_whole = len(self._weights) == sum(len(weights) for _, weights in named)

    def are_current(self, listed: Weights) -> bool:
        """Tell whether these are the places of those weights, in the modules of today."""
        return self._listed is listed and all(
            state["_modules"] == children for state, children in self._children
        )

    def weights(self, device: torch.device) -> list[Tensor] | None:
        """Return the parameters, which lie on `device`.

        None where a module does other than its formula (hooks, a parametrisation, a class or a
        `forward` of its own, another epsilon), or a parameter is not as the compiled code takes
        it: missing, of another shape, not float32, elsewhere, not contiguous.
        """
        if not self._is_whole:
            return None
        for module, state in self._modules:
            if (
                type(module) not in _PLAIN
                or "forward" in state
                or state["_forward_hooks"]
                or state["_forward_pre_hooks"]
                or state["_backward_hooks"]
                or state["_backward_pre_hooks"]
                or state.get("eps", _EPSILON) != _EPSILON
            ):
                return None
        first = self._attentions[0]
        if any(
            (state["heads"], state["dropout"]) != (first["heads"], first["dropout"])
            for state in self._attentions
        ):
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


_places: WeakKeyDictionary[Encoder, WeightPlaces] = WeakKeyDictionary()


def plain_weights(encoder: Encoder, weights: Weights, device: torch.device) -> list[Tensor] | None:
    """Return the parameters of each layer, then those of the last norm; see WeightPlaces."""
    places = _places.get(encoder)
    if places is None or not places.are_current(weights):
        places = _places[encoder] = WeightPlaces(encoder, weights)
    return places.weights(device)
