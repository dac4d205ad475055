"""Captures a function of CUDA tensors as one CUDA graph, and replays it."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from system.errors import first_line

_WARM_UPS = 3  # calls before a capture, in which libraries allocate their memory


class CudaGraph:
    """A function of CUDA tensors as one CUDA graph, for batches of `batch_size`.

    Thousands of kernel launches become one. The function runs without a graph in the first calls,
    on a CPU, and, with a warning, if capturing fails. `fallback` takes inputs of other shapes.
    """

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        fallback: Callable[..., tuple[Tensor, ...]],
        batch_size: int,
    ) -> None:
        self._function, self._fallback = function, fallback
        self._batch_size = batch_size
        self._calls = 0
        self._stream: torch.cuda.Stream | None = None  # of the first calls
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._outputs: tuple[Tensor, ...] = ()
        self._failed = False

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Call the function, or replay its graph."""
        if len(inputs[0]) != self._batch_size:
            return self._fallback(*inputs)
        if inputs[0].device.type != "cuda" or self._failed:
            return self._function(*inputs)
        with torch.cuda.device(inputs[0].device):  # streams and graphs are the current device's
            return self._call_on_cuda(inputs)

    def _call_on_cuda(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self._graph is None:
            self._calls += 1
            if self._calls <= _WARM_UPS:
                return self._warm_up(inputs)
            self._capture(inputs)
        if self._graph is None:  # the capture failed
            return self._function(*inputs)
        if [x.shape for x in inputs] != [x.shape for x in self._inputs]:
            return self._fallback(*inputs)
        for static, x in zip(self._inputs, inputs, strict=True):
            static.copy_(x, non_blocking=True)
        self._graph.replay()
        return tuple(x.clone() for x in self._outputs)  # the next replay overwrites them

    def _warm_up(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Call the function on a separate stream, as a capture does."""
        stream = self._stream
        if stream is None:
            stream = self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            outputs = self._function(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return outputs

    def _capture(self, inputs: tuple[Tensor, ...]) -> None:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        static = tuple(x.clone() for x in inputs)
        try:
            # Other threads, which load batches, may use CUDA during the capture.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                outputs = self._function(*static)
        except RuntimeError as error:
            torch.cuda.set_stream(stream)  # a failed capture may leave its own stream current
            self._failed = True
            reason = first_line(error)
            warnings.warn(f"CUDA graph failed, running without it ({reason})", stacklevel=2)
            return
        self._graph, self._inputs, self._outputs = graph, static, outputs
