"""The tests, in folders named like those of the code that they test."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch: tests fork, and a fork has only one thread

# To ask whether there is a GPU must not start CUDA, which a fork could not use then.
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"

import torch

if not torch.cuda.is_available():  # for models/native/kernels, before anything imports Triton
    os.environ["TRITON_INTERPRET"] = "1"
