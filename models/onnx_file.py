"""Models as ONNX files, for programs without PyTorch: any batch, any lengths.

PyTorch's tracing exporter writes them: the newer one, based on torch.export, supports an LSTM at a
single length only.
"""

from __future__ import annotations

import importlib
import json
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from models.checkpoint import MODALITIES
from models.checkpoint import ONNX as SUFFIX
from models.contract import Model
from models.text_encoder import text_encoder_of
from system.errors import InputError, described
from system.files import write_bytes
from system.safetensors_file import KEY

OUTPUT = "prediction"
TOLERANCE = 1e-4  # absolute and relative
_OPSET = 17  # the first with LayerNormalization
# Batch size and lengths for tracing, and others for checking the file after it.
_TRACE_SHAPE, _CHECK_SHAPES = (2, (11, 13, 17)), ((3, (26, 19, 14)), (1, (8, 50, 31)))


def write_onnx(path: Path, model: Model, value: Any) -> None:
    """Write a model of the contract, in evaluation mode on the CPU, and `value` as JSON beside it.

    Inputs are `visual`, `audio` and `text`, `(B, T, width)` float32, also those that the model
    ignores; the output is `prediction` `(B, outputs)`. If a model takes the three at equal lengths
    only, so does the file. The content is checked in onnxruntime before the file is written.
    Raises InputError when the model cannot be written, or the packages for it are missing.
    """
    _check_packages()
    try:
        content = _trace_and_check(model, value)
    except (OSError, MemoryError):  # of a full disk, for one
        raise
    except Exception as error:  # tracing, or a user's own model, can fail in any way
        raise InputError(
            f"--export {path}: {type(model).__name__} cannot be written as {SUFFIX} "
            f"({described(error)}); export it as .safetensors."
        ) from error
    write_bytes(path, content)


def _check_packages() -> None:
    for name in ("onnx", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise InputError(
                f"--export to {SUFFIX} needs the package {name}: pip install onnx onnxruntime."
            ) from error


@torch.no_grad()
def _trace_and_check(model: Model, value: Any) -> bytes:
    """Return the file's content; raises any exception of the exporter or the model."""
    batch, lengths = _TRACE_SHAPE
    may_differ = False
    with suppress(Exception):  # where the model refuses them, the file has equal lengths
        model(*_inputs(model, batch, lengths))
        may_differ = True
    inputs = _inputs(model, batch, lengths if may_differ else lengths[:1] * 3)
    names = {name: f"{name}_length" if may_differ else "length" for name in MODALITIES}
    content = _add_details(_trace(model, inputs, names), model, names, value)
    for batch, lengths in _CHECK_SHAPES:
        _check(content, model, _inputs(model, batch, lengths if may_differ else lengths[:1] * 3))
    return content


def _trace(model: Model, inputs: list[Tensor], lengths: dict[str, str]) -> bytes:
    """Return the exporter's file; `lengths` are the names of the modalities' lengths."""
    # The exporter prints all of a model that it refuses; there is no option against that.
    quiet = patch.object(torch._C, "_jit_onnx_log", create=True)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), quiet:
        warnings.simplefilter("ignore")  # that tracing may fix sizes: _check tests that
        path = Path(folder) / f"model{SUFFIX}"
        torch.onnx.export(
            model,
            tuple(inputs),
            str(path),
            dynamo=False,
            opset_version=_OPSET,
            input_names=list(MODALITIES),
            output_names=[OUTPUT],
            dynamic_axes={
                **{name: {0: "batch", 1: length} for name, length in lengths.items()},
                OUTPUT: {0: "batch"},
            },
        )
        return path.read_bytes()


def _inputs(model: Model, batch: int, lengths: Sequence[int]) -> list[Tensor]:
    """Return random inputs, with padding in front."""
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(batch, length, model.widths[name], generator=generator)
        for name, length in zip(MODALITIES, lengths, strict=True)
    ]
    for x in inputs:
        x[0, :2] = 0
    encoder = text_encoder_of(model)
    if encoder is not None:
        inputs[2] = encoder.example(batch, lengths[2], generator)
    return inputs


def _add_details(content: bytes, model: Model, lengths: dict[str, str], value: Any) -> bytes:
    """Add `value`, and the inputs that tracing left out because the model ignores them."""
    import onnx

    file = onnx.load_from_string(content)
    inputs = {graph_input.name: graph_input for graph_input in file.graph.input}
    del file.graph.input[:]
    for name, length in lengths.items():
        shape: list[str | int | None] = ["batch", length, model.widths[name]]
        unused = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        file.graph.input.append(inputs.get(name, unused))
    onnx.helper.set_model_props(file, {KEY: json.dumps(value)})
    onnx.checker.check_model(file)
    return bytes(file.SerializeToString())


def _check(content: bytes, model: Model, inputs: list[Tensor]) -> None:
    """Raise ValueError where the file's predictions differ from the model's."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised as well
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    named = {name: x.numpy() for name, x in zip(MODALITIES, inputs, strict=True)}
    (output,), expected = session.run([OUTPUT], named), model(*inputs).numpy()
    if output.shape != expected.shape or not np.allclose(output, expected, TOLERANCE, TOLERANCE):
        lengths = ", ".join(str(x.shape[1]) for x in inputs)
        raise ValueError(f"at lengths {lengths} the file's predictions differ from the model's")
