"""The size of a model, and what it costs: parameters, FLOPs and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.registry import MODELS, build, describe_config
from models.text_encoder import WithTextEncoder, text_encoder_of
from system.console import format_table
from utils.running.execution import autocast

_VALUES_PER_PARAMETER = 4  # in training: weight, gradient and Adam's two moments
# The widths of CMU-MOSEI's features: FACET, COVAREP and bert-base.
_MOSEI = {"visual": 35, "audio": 74, "text": 768}
# FLOPs by the model's class, whose module may hold much, and by configuration and sizes.
_totals: WeakKeyDictionary[type[nn.Module], dict[tuple[str, ...], int | None]] = WeakKeyDictionary()


def model_table(model: nn.Module, inputs: Sequence[Tensor]) -> str:
    """Return a table of each part's parameters and FLOPs per sample, for a batch of `inputs`.

    FLOPs are those of the forward pass, by PyTorch's own counter, which knows matrix products only.
    """
    batch = len(inputs[0])
    parts = _parts(model)
    model.eval()
    class_name = type(model).__name__
    try:
        counts = count_flops(model, inputs)
    except Exception:  # a user's own model may need float32, or hold what deepcopy cannot copy
        counts = None

    def flops(name: str) -> str:
        if counts is None:
            return "unknown"
        return f"{_flops_of(name, counts) / batch / 1e6:.2f} M"

    rows = [
        [name.rpartition(".")[2], f"{count_parameters(part):,}", flops(f"{class_name}.{name}")]
        for name, part in parts.items()
    ]
    rows.append(["all", f"{count_parameters(model):,}", flops("Global")])
    frozen = _count_frozen(model)
    header = ["part", "parameters that learn" if frozen else "parameters", "FLOPs a sample"]
    table = format_table(header, rows)
    return table + (f"\n\nParameters that stay as they are: {frozen:,}" if frozen else "")


def training_memory(model: nn.Module, inputs: Sequence[Tensor], precision: str) -> str:
    """Return as text the memory that a training step on the batch `inputs` needs at a precision."""
    model.train()
    with autocast(precision, inputs[0].device):
        activations = _activation_bytes(model, inputs)
    states = _VALUES_PER_PARAMETER * count_parameters(model) + _count_frozen(model)
    return (
        f"Weights, gradients and Adam's moments {4 * states / 2**20:.1f} MB\n"
        f"Inputs {_shapes(inputs)}: activations kept for the backward pass "
        f"{activations / 2**20:.1f} MB"
    )


def evaluation_memory(model: nn.Module, inputs: Sequence[Tensor]) -> str:
    """Return as text the memory that an evaluation of the batch `inputs` needs."""
    weights = count_parameters(model) + _count_frozen(model)
    return f"Weights {4 * weights / 2**20:.1f} MB\nInputs at once {_shapes(inputs)}"


def _shapes(inputs: Sequence[Tensor]) -> str:
    return ", ".join(str(tuple(x.shape)) for x in inputs)


def _count_frozen(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters()) - count_parameters(model)


def model_list() -> str:
    """Return as text each model's name, parameters on CMU-MOSEI, and what its settings mean."""
    rows = []
    for name in MODELS:
        model = build(name, {}, _MOSEI, outputs=1)
        rows.append([name, f"{count_parameters(model):,}"])
    lines = [format_table(["model", "parameters"], rows)]
    lines += [f"\n{name}, with --set:\n{describe_config(name)}" for name in MODELS]
    return "\n".join(lines)


def _parts(model: nn.Module) -> dict[str, nn.Module]:
    """Return the parts of a model, by name; behind a text encoder, those of the inner model too."""
    parts = dict(model.named_children())
    if text_encoder_of(model) is not None:
        inner = parts.pop("model").named_children()
        parts |= {f"model.{name}": part for name, part in inner}
    return parts


def count_flops(model: nn.Module, inputs: Sequence[Tensor]) -> dict[str, dict[Any, int]]:
    """Return the FLOPs of a batch's forward pass by module (`Global`: all) and operator."""
    counter = FlopCounterMode(display=False)
    # The counter sees PyTorch's own operators, on which everything runs in float64 on a CPU, with
    # attention as products (MATH). With gradients enabled, BERT does not skip padding.
    with counter, torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        deepcopy(model).cpu().double()(*(x.cpu().double() for x in inputs))
    return counter.get_flop_counts()


def count_total_flops(model: nn.Module, inputs: Sequence[Tensor]) -> int | None:
    """Return the FLOPs of a batch's forward pass, or None if the model cannot be counted.

    They are counted once for all models of the same kind and sizes: it takes as long as a short
    epoch, and a study trains the same model with many seeds.
    """
    # A user's own model has a new class each time its file is run.
    own = model.model if isinstance(model, WithTextEncoder) else model
    totals = _totals.setdefault(type(own), {})
    weights = _shapes(list(model.parameters()))
    key = repr(getattr(model, "config", None)), weights, _shapes(inputs)
    if key not in totals:
        try:
            totals[key] = sum(count_flops(model, inputs)["Global"].values())
        except Exception:  # a user's own model may need float32, or hold what deepcopy cannot copy
            totals[key] = None
    return totals[key]


def _flops_of(name: str, counts: Mapping[str, Mapping[Any, int]]) -> int:
    """Return the FLOPs of a module from the result of `count_flops`.

    A ModuleList is never called itself, so the modules in it are summed, without those that are
    inside another one of them.
    """
    if name in counts:
        return sum(counts[name].values())
    inner = [each for each in counts if each.startswith(f"{name}.")]
    outermost = [each for each in inner if not any(each.startswith(f"{one}.") for one in inner)]
    return sum(sum(counts[each].values()) for each in outermost)


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable parameters of a module."""
    return sum(each.numel() for each in module.parameters() if each.requires_grad)


def _activation_bytes(model: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Run the forward pass; return the bytes of the tensors that it saves for the backward pass.

    With gradient checkpointing, one layer's tensors are added, as they are recomputed in turn.
    """
    saved, encoder = _saved_bytes(model, inputs), text_encoder_of(model)
    if encoder is None or not encoder.bert.checkpoints:
        return saved
    batch, length = inputs[2].shape[:2]  # of the text
    hidden = torch.zeros(batch, length, encoder.config.hidden_size, device=inputs[2].device)
    mask = hidden.new_zeros(batch, 1, 1, length)
    return saved + _saved_bytes(encoder.bert.parts[-1], [hidden, mask])


def _saved_bytes(model: nn.Module, inputs: Sequence[Tensor]) -> int:
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    bytes_by_address: dict[int, int] = {}  # so that a shared storage counts once

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            bytes_by_address[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(*inputs)
    return sum(bytes_by_address.values())
