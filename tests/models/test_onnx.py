"""ONNX files predict as the models do, whatever the batch and the lengths."""

from __future__ import annotations

import errno
import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from models.checkpoint import read_checkpoint, write_checkpoint
from models.export import export
from models.registry import MODELS, build
from system.errors import InputError
from tests.own_model import OWN_MODEL

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

WIDTHS = {"visual": 5, "audio": 6, "text": 7}
PARTS = [
    {"aggregation_tokens": 0},
    {"token_init": "learned", "aggregation_tokens": 3},
    {"fusion_passes": 1},
    {"cross_modal": False},
    {"wiring": "figure"},
    {"wiring": "figure", "modalities": "audio,visual"},
    {"modalities": "text"},
    {"modalities": "audio"},
    {"modalities": "text,visual"},
]
SMALL = {"mult": {"layers": 2}, "text_only": {"layers": 2}}  # for speed
# Batch, and the lengths of visual, audio and text: one row, equal, different, more than traced.
SHAPES = [(1, (1, 1, 1)), (3, (4, 4, 4)), (2, (50, 50, 50)), (5, (3, 9, 6)), (1, (60, 20, 80))]


def build_model(name, settings=None):
    torch.manual_seed(0)
    model = build(name, settings or {}, WIDTHS, 2).eval()
    for parameter in model.parameters():  # biases and norms away from 0 and 1
        nn.init.normal_(parameter, std=0.2)
    return model


def exported(folder, model, name, **details):
    write_checkpoint(folder / "a.pth", model, name, **details)
    export(folder / "a.pth", folder / "a.onnx", name)
    return onnxruntime.InferenceSession(folder / "a.onnx", providers=["CPUExecutionProvider"])


def batch(count, lengths):
    generator = torch.Generator().manual_seed(count)
    inputs = [
        torch.randn(count, t, w, generator=generator)
        for t, w in zip(lengths, WIDTHS.values(), strict=True)
    ]
    for x in inputs:
        x[0, : x.shape[1] // 2] = 0  # padding in front
    return inputs


def difference(session, model, inputs):
    named = {name: x.numpy() for name, x in zip(WIDTHS, inputs, strict=True)}
    (output,) = session.run(["prediction"], named)
    with torch.no_grad():
        expected = model(*inputs).numpy()
    assert output.shape == expected.shape
    return np.abs(output - expected).max()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, SMALL.get(name, {})) for name in MODELS),
        *(("nhfnet", {**part, "layers": 1}) for part in PARTS),
    ],
    ids=str,
)
def test_it_predicts_as_the_model_at_any_lengths(tmp_path, name, settings):
    model = build_model(name, settings)
    session = exported(tmp_path, model, name)
    assert [x.name for x in session.get_inputs()] == ["visual", "audio", "text"]
    assert [x.shape[1:] for x in session.get_inputs()] == [
        [f"{kind}_length", width] for kind, width in WIDTHS.items()
    ]
    for count, lengths in SHAPES:
        assert difference(session, model, batch(count, lengths)) < 1e-4


def test_the_metadata_are_those_of_a_safetensors_file(tmp_path):
    details = {"task": "emotion", "dataset": {"scores": "mosei"}, "epoch": 3}
    model = build_model("nhfnet", {"layers": 1, "wiring": "figure"})
    session = exported(tmp_path, model, "nhfnet", **details, optimizer_state_dict={"state": {}})
    export(tmp_path / "a.pth", tmp_path / "a.safetensors")
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["checkpoint"])
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    assert {name: metadata.pop(name) for name in details} == checkpoint.details == details
    assert metadata.pop("config") == checkpoint.config
    assert metadata == {"model": "nhfnet", "widths": WIDTHS, "outputs": 2}


def own_model(folder, forward):
    text = OWN_MODEL[: OWN_MODEL.index("    def forward")]
    (folder / "mine.py").write_text(text + forward)
    return f"{folder / 'mine.py'}:Mean"


def test_a_model_of_the_users_own_is_exported(tmp_path):
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    name = f"{tmp_path / 'mine.py'}:Mean"
    model = build_model(name)
    session = exported(tmp_path, model, name)
    assert difference(session, model, batch(3, (4, 9, 2))) < 1e-4


ALIGNED = """
    def forward(self, visual, audio, text):
        return self.net(torch.cat([visual, audio, text], dim=2).relu()).mean(dim=1)
"""


def test_a_model_that_wants_equal_lengths_keeps_that(tmp_path):
    name = own_model(tmp_path, ALIGNED)
    model = build_model(name)
    session = exported(tmp_path, model, name)
    assert {x.shape[1] for x in session.get_inputs()} == {"length"}
    assert difference(session, model, batch(3, (4, 4, 4))) < 1e-4


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (
            """
    def forward(self, visual, audio, text):
        means = [x.sum(dim=1) / int(x.shape[1]) for x in (visual, audio, text)]
        return self.net(torch.cat(means, dim=1))
""",
            "at lengths 26, 19, 14 the file's predictions differ from the model's",
        ),
        (
            """
    def forward(self, visual, audio, text):
        return self.net(torch.cat([x[:, 49] for x in (visual, audio, text)], dim=1))
""",
            "IndexError: index 49",
        ),
        (
            """
    def forward(self, visual, audio, text):
        x = torch.cat([x.mean(dim=1) for x in (visual, audio, text)], dim=1)
        return self.net(torch.linalg.matrix_exp(x.T @ x)[: len(x)])
""",
            "UnsupportedOperatorError",
        ),
    ],
    ids=["fixed length", "no such length", "unknown operator"],
)
def test_a_model_that_cannot_be_written_is_told(tmp_path, forward, reason, capfd):
    name = own_model(tmp_path, forward)
    write_checkpoint(tmp_path / "a.pth", build_model(name), name)
    (tmp_path / "a.onnx").write_bytes(b"old")
    with pytest.raises(InputError, match=rf"a.onnx: Mean cannot be written .*{reason}") as caught:
        export(tmp_path / "a.pth", tmp_path / "a.onnx", name)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "a.onnx").read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} >= {"a.pth", "a.onnx", "mine.py"}
    assert not list(tmp_path.glob("*.part*"))


def test_a_full_disk_is_no_fault_of_the_model(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_checkpoint(tmp_path / "a.pth", build_model("lf_dnn"), "lf_dnn")
    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(OSError, match="No space left"):
        export(tmp_path / "a.pth", tmp_path / "a.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_told(tmp_path, monkeypatch, package):
    write_checkpoint(tmp_path / "a.pth", build_model("lf_dnn"), "lf_dnn")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"needs the package {package}: pip install onnx onnxr"):
        export(tmp_path / "a.pth", tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_it_is_no_checkpoint(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(InputError, match=r"a.onnx is a model for onnxruntime, not a checkpoint"):
        read_checkpoint(tmp_path / "a.onnx")
