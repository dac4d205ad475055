"""The tests, in the rooms of what they test."""

import os

import torch

if not torch.cuda.is_available():  # for models/native/kernels.py, before anything imports Triton
    os.environ["TRITON_INTERPRET"] = "1"
