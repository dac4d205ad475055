"""`Encoder` in compiled code: the same numbers, faster."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from models.layers.encoder import Encoder, Extras
from models.layers.lstm import LSTM
from models.native.encoding import CompiledEncoder, Request, encode
from models.native.gpu import Form
from models.native.library import kernels, library
from models.native.lstm import NativeLSTM, is_compiled
from models.native.packing import share_weights
from models.native.plain_call import Native, is_plain_call, may_be_saved
from models.native.weights import plain_weights

_TYPICAL_FORM = Form(64, 64, is_dropped=False, learns=False)  # that of a call on aligned data
_TOKENS_PER_THREAD = 128  # at least: starting a thread takes as long as about 30 tokens


def accelerate(
    model: nn.Module, threads: int | None = None, device: torch.device | None = None
) -> nn.Module:
    """Replace every `Encoder` and `LSTM` in `model` by its native form, and return the model.

    Parameters and their names stay, so that an optimizer stays valid. A module without compiled
    code for the `device` that the model will run on, by default a CPU, is not replaced, nor is an
    encoder with extras; where compiling failed, one warning says why. On a CPU the native forms use
    `threads`, by default as many as PyTorch. NHFNET_NATIVE=0 in the environment replaces nothing.
    Raises ValueError for less than one thread.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"accelerate: threads is {threads}, expected at least 1, or None.")
    if os.environ.get("NHFNET_NATIVE") == "0":
        return model
    device = device or torch.device("cpu")
    natives: dict[nn.Module, nn.Module] = {}
    for module in list(model.modules()):
        if type(module) is Encoder and module.extras == Extras():
            if _compiled_encoder(module, device, _TYPICAL_FORM) is not None:
                natives[module] = NativeEncoder.of(module, threads)
        elif type(module) is LSTM and device.type == "cpu" and is_compiled(module):
            natives[module] = NativeLSTM.of(module, threads)
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if child in natives:
                module._modules[name] = natives[child]
    if natives and model not in natives:
        share_weights(model)
    return natives.get(model, model)


class NativeEncoder(Native, Encoder):
    """An `Encoder` that uses the compiled code where it can, else the formula."""

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        last_tokens_only: int | None = None,
        dropout_keys: Tensor | None = None,
    ) -> Tensor:
        """Encode as `Encoder.forward` does."""
        keys = self.active_keys(x, dropout_keys)
        if is_plain_call() and _can_take(self, x, memory, keys):
            compiled = _compiled_encoder(self, x.device, Form.of(x, memory, keys))
            if compiled is not None:
                weights = plain_weights(self, compiled.weights, x.device)
                if weights is not None:
                    request = Request(self, last_tokens_only, keys, self._threads(x, memory))
                    return encode(compiled, request, x, memory, weights)
        return self.formula(x, memory, last_tokens_only, keys)

    def _threads(self, x: Tensor, memory: Tensor | None) -> int:
        tokens = x.shape[1] + (0 if memory is None else memory.shape[1])
        return max(1, min(self.max_threads, len(x) * tokens // _TOKENS_PER_THREAD))


def _compiled_encoder(encoder: Encoder, device: torch.device, form: Form) -> CompiledEncoder | None:
    layer = encoder.layers[0]
    sizes = layer.fc1.in_features, layer.self_attn.heads, layer.fc1.out_features
    compiled: CompiledEncoder | str
    if device.type == "cpu":
        compiled = library(*sizes)
    elif device.type != "cuda":
        return None
    else:
        index = torch.cuda.current_device() if device.index is None else device.index
        compiled = kernels(*sizes, torch.device("cuda", index), form)
    return None if isinstance(compiled, str) else compiled


def _can_take(encoder: Encoder, x: Tensor, memory: Tensor | None, keys: Tensor | None) -> bool:
    """Return whether the compiled code can take these tensors.

    Tensors of wrong shapes are left to the formula, which raises.
    """
    width = encoder.layers[0].fc1.in_features
    return (
        all(
            type(value) in (Tensor, nn.Parameter)
            and value.device == x.device
            and value.layout is torch.strided
            and value.dtype in (torch.float32, torch.bfloat16)  # the latter from under autocast
            and value.dim() == 3
            and value.numel() > 0
            and (value.shape[0], value.shape[2]) == (x.shape[0], width)
            for value in ([x] if memory is None else [x, memory])
        )
        and (keys is None or (keys.device == x.device and keys.shape == x.shape[:1]))
        and may_be_saved(*(value for value in (x, memory, keys) if value is not None))
    )
