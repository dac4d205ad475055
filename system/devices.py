"""Choosing the device to compute on. PyTorch, slow to import, is imported when one is picked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from system.errors import InputError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("float32", "bfloat16")


def pick_device(name: str) -> torch.device:
    """Return the device `auto`, `cpu`, `cuda` or `cuda:N` means here.

    `auto` is CUDA where there is a device, else the CPU. Raises InputError when a CUDA device
    is asked for that this machine, or this PyTorch, does not have. A CUDA device becomes the
    current one, and computes float32 in full: cuDNN would cut an LSTM's products to TF32.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError(
                f"--device {name}: PyTorch {torch.__version__} sees no CUDA device here; use "
                "--device cpu, or install a CUDA build and its driver."
            )
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise InputError(
                f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices, "
                "numbered from 0."
            )
        torch.backends.cudnn.allow_tf32 = False
        if device.index is not None:
            torch.cuda.set_device(device)
    return device
