"""What the model is made of, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.registry import MODELS, build, describe_config
from models.text_encoder import text_encoder_of
from system.console import format_table
from utils.running.execution import autocast

_VALUES_A_PARAMETER = 4  # in training: itself, its gradient and Adam's two moments
# The widths of CMU-MOSEI's features: FACET, COVAREP and bert-base.
_MOSEI = {"visual": 35, "audio": 74, "text": 768}


def model_table(model: nn.Module, inputs: Sequence[Tensor]) -> str:
    """Lay out each part's parameters and FLOPs a sample of `inputs`, a batch as the model takes it.

    FLOPs are those of the forward pass, by PyTorch's own counter, which knows matrix products only.
    """
    batch = len(inputs[0])
    parts = _parts(model)
    model.eval()
    name_of_model = type(model).__name__
    try:
        counts = count_flops(model, inputs)
    except Exception:  # a user's own model may know float32 only, or keep what has no copy
        counts = None

    def flops(name: str) -> str:
        if counts is None:
            return "unknown"
        # A list of modules is never called itself; those in it are.
        names = [name] if name in counts else [n for n in counts if n.startswith(f"{name}.")]
        return f"{sum(sum(counts[n].values()) for n in names) / batch / 1e6:.2f} M"

    rows = [
        [name.rpartition(".")[2], f"{count_parameters(part):,}", flops(f"{name_of_model}.{name}")]
        for name, part in parts.items()
    ]
    rows.append(["all", f"{count_parameters(model):,}", flops("Global")])
    frozen = _count_frozen(model)
    header = ["part", "parameters that learn" if frozen else "parameters", "FLOPs a sample"]
    table = format_table(header, rows)
    return table + (f"\n\nParameters that stay as they are: {frozen:,}" if frozen else "")


def training_memory(model: nn.Module, inputs: Sequence[Tensor], precision: str) -> str:
    """Say what a step on the batch `inputs` keeps in memory, when it is run in this precision."""
    model.train()
    with autocast(precision, inputs[0].device):
        activations = _activation_bytes(model, inputs)
    states = _VALUES_A_PARAMETER * count_parameters(model) + _count_frozen(model)
    return (
        f"Weights, gradients and Adam's moments {4 * states / 2**20:.1f} MB\n"
        f"Inputs {_shapes(inputs)}: activations kept for the backward pass "
        f"{activations / 2**20:.1f} MB"
    )


def evaluation_memory(model: nn.Module, inputs: Sequence[Tensor]) -> str:
    """Say what an evaluation of `inputs`, as many as are evaluated at once, keeps in memory."""
    weights = count_parameters(model) + _count_frozen(model)
    return f"Weights {4 * weights / 2**20:.1f} MB\nInputs at once {_shapes(inputs)}"


def _shapes(inputs: Sequence[Tensor]) -> str:
    return ", ".join(str(tuple(x.shape)) for x in inputs)


def _count_frozen(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters()) - count_parameters(model)


def model_list() -> str:
    """Lay out each model's name, parameters on CMU-MOSEI, and what its settings mean."""
    rows = []
    for name in MODELS:
        model = build(name, {}, _MOSEI, outputs=1)
        rows.append([name, f"{count_parameters(model):,}"])
    lines = [format_table(["model", "parameters"], rows)]
    lines += [f"\n{name}, with --set:\n{describe_config(name)}" for name in MODELS]
    return "\n".join(lines)


def _parts(model: nn.Module) -> dict[str, nn.Module]:
    """Return the parts of a model, by name; behind a text encoder, those of the model there."""
    if text_encoder_of(model) is None:
        return dict(model.named_children())
    own = dict(model.named_children())
    inner = {f"model.{name}": part for name, part in own.pop("model").named_children()}
    return {**own, **inner}


def count_flops(model: nn.Module, inputs: Sequence[Tensor]) -> dict[str, dict[Any, int]]:
    """Return the FLOPs of a batch's forward pass by module (`Global`: of all) and operator."""
    counter = FlopCounterMode(display=False)
    # In float64 on a CPU all runs on PyTorch's own operators, which its counter sees; of attention,
    # it sees the products alone. Where gradients are wanted, a BERT spares itself no padding.
    with counter, torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        deepcopy(model).cpu().double()(*(x.cpu().double() for x in inputs))
    return counter.get_flop_counts()


def count_parameters(module: nn.Module) -> int:
    """Return how many numbers a module learns."""
    return sum(one.numel() for one in module.parameters() if one.requires_grad)


def _activation_bytes(model: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Run the forward pass and add up the memory that the backward pass would need of it.

    What is computed again counts too: one layer's, as the backward pass has one at a time.
    """
    kept, encoder = _kept_bytes(model, inputs), text_encoder_of(model)
    if encoder is None or not encoder.bert.checkpoints:
        return kept
    batch, length = inputs[2].shape[:2]  # of the text
    hidden = torch.zeros(batch, length, encoder.config.hidden_size, device=inputs[2].device)
    mask = hidden.new_zeros(batch, 1, 1, length)
    return kept + _kept_bytes(encoder.bert.parts[-1], [hidden, mask])


def _kept_bytes(model: nn.Module, inputs: Sequence[Tensor]) -> int:
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(*inputs)
    return sum(kept.values())
