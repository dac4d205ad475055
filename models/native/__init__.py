"""Encoders and LSTMs in C++ for CPUs, encoders in Triton for GPUs: `accelerate` installs them."""

from models.native.encoder import accelerate

__all__ = ["accelerate"]
