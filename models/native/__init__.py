"""Encoders and LSTMs in C++ on CPUs, encoders in Triton on GPUs: `accelerate` puts them in."""

from models.native.encoder import accelerate

__all__ = ["accelerate"]
