"""The encoder in C++, for CPUs, and in Triton, for GPUs: `accelerate(model)` puts it in place."""

from models.native.encoder import accelerate

__all__ = ["accelerate"]
