"""The encoder in C++, for CPUs: `accelerate(model)` puts it in place."""

from models.native.encoder import accelerate

__all__ = ["accelerate"]
