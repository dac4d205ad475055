"""A model as it predicts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from utils.running.cuda_graph import CudaGraph
from utils.running.execution import Execution


class Predictor(nn.Module):
    """A model for evaluation: `(B, outputs)` float32 from its inputs, without gradients."""

    def __init__(self, model: nn.Module, execution: Execution, batch_size: int) -> None:
        super().__init__()
        self.model = model
        self._execution = execution
        prepared = execution.prepared(model)
        self._predict = CudaGraph(
            lambda *inputs: (self._run(prepared, inputs),),
            lambda *inputs: (self._run(model, inputs),),
            batch_size,
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        """Predict."""
        (prediction,) = self._predict(*inputs)
        return prediction

    @torch.no_grad()
    def _run(self, forward: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
        with self._execution.autocast(inputs[0].device):
            return forward(*inputs).float()
