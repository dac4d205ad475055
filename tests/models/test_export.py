"""Checkpoints for other programs, and on the hub."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch

from models import NHFNet
from models import export as export_module
from models.checkpoint import read_checkpoint, write_checkpoint
from models.export import export
from models.nhfnet.text_only import TextOnly
from models.registry import build, restore
from system.errors import InputError
from system.safetensors_file import load_safetensors, write_safetensors
from tests.forked_programs import ROOT
from tests.golden import GOLDEN
from tests.models.hub import hub

WIDTHS = {"visual": 3, "audio": 4, "text": 5}


def write_model(path, name="nhfnet", **details):
    torch.manual_seed(0)
    settings = {"layers": 1, "width": 16} if name in ("nhfnet", "text_only") else {}
    model = build(name, settings, WIDTHS, 2).eval()
    write_checkpoint(path, model, name, **details)
    return model


def batch(count, rows):
    rng = np.random.default_rng(count)
    shapes = [(count, t, width) for t, width in zip(rows, WIDTHS.values(), strict=True)]
    return [torch.from_numpy(rng.normal(size=shape).astype(np.float32)) for shape in shapes]


def test_safetensors_load_as_the_checkpoint_does(tmp_path):
    details = {"task": "emotion", "dataset": {"scores": "mosei"}, "epoch": 3}
    model = write_model(tmp_path / "a.pth", **details, optimizer_state_dict={"state": {}})
    export(tmp_path / "a.pth", tmp_path / "out" / "a.safetensors")
    checkpoint = read_checkpoint(tmp_path / "out" / "a.safetensors")
    assert checkpoint.details == details
    name, restored = restore(checkpoint)
    assert (name, restored.config, restored.outputs) == ("nhfnet", model.config, 2)
    inputs = batch(2, (4, 5, 6))
    assert torch.equal(restored(*inputs), model(*inputs))
    assert not restored.training


def test_details_that_are_no_plain_values_are_left_out(tmp_path):
    details = {"epoch": torch.tensor(3), "dataset": {"scores": torch.ones(2)}, "task": "emotion"}
    write_model(tmp_path / "a.pth", **details)
    for suffix in (".safetensors", ".onnx"):
        export(tmp_path / "a.pth", tmp_path / f"a{suffix}")
    assert read_checkpoint(tmp_path / "a.safetensors").details == {"task": "emotion"}


def test_tied_weights_are_written_under_both_names(tmp_path):
    weight = torch.randn(2, 3)
    write_safetensors(tmp_path / "a.safetensors", {"one": weight, "two": weight}, {})
    weights, _ = load_safetensors(tmp_path / "a.safetensors", "")
    assert torch.equal(weights["one"], weight) and torch.equal(weights["two"], weight)


def test_a_path_may_be_of_any_bytes(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has only names in UTF-8")
    path = folder / "a.safetensors"
    write_safetensors(path, {"weight": torch.ones(2)}, {"task": "emotion"})
    weights, value = load_safetensors(path, "")
    assert (weights["weight"].tolist(), value) == ([1, 1], {"task": "emotion"})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="is damaged"):
        load_safetensors(path, "")


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx"])
def test_a_name_that_is_too_long_is_told_before_the_work(tmp_path, monkeypatch, suffix):
    write_model(tmp_path / "a.pth")
    for work in ("restore", "write_onnx", "write_checkpoint"):
        monkeypatch.setattr(export_module, work, None)
    with pytest.raises(OSError, match="name too long"):
        export(tmp_path / "a.pth", tmp_path / ("a" * 255 + suffix))


def test_a_released_checkpoint_becomes_one_of_this_program(tmp_path):
    released = GOLDEN / "released_format.pth"
    export(released, tmp_path / "a.safetensors")
    before, after = (NHFNet.from_checkpoint(p) for p in (released, tmp_path / "a.safetensors"))
    for name, value in before.state_dict().items():
        assert torch.equal(value, after.state_dict()[name])


def with_header(path, header):
    content = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(b"weights"), "or is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "or is damaged"),
        (lambda path: path.write_bytes(struct.pack("<Q", 2**62) + b"{}"), "or is damaged"),
        (lambda path: with_header(path, {"__metadata__": {"checkpoint": "{"}}), "or is damaged"),
        (lambda path: with_header(path, {"__metadata__": {"checkpoint": "3"}}), "is not a check"),
        (lambda path: with_header(path, {}), "is not a checkpoint"),
        (
            lambda path: with_header(
                path,
                {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 2**62]}},
            ),
            "or is damaged",
        ),
    ],
)
def test_a_damaged_safetensors_file_is_told(tmp_path, change, message):
    write_model(tmp_path / "a.safetensors")
    change(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=rf"a.safetensors .*{message}"):
        restore(read_checkpoint(tmp_path / "a.safetensors"))


def test_settings_in_a_safetensors_file_are_checked(tmp_path):
    write_model(tmp_path / "a.safetensors", task=5)
    with pytest.raises(InputError, match="task is int, expected str"):
        read_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("model", [NHFNet, TextOnly])
def test_the_hub_mixin_saves_and_loads_a_folder(tmp_path, model):
    name = {NHFNet: "nhfnet", TextOnly: "text_only"}[model]
    saved = write_model(tmp_path / "a.pth", name)
    assert isinstance(saved, model)
    saved.save_pretrained(tmp_path / "hub")
    assert {path.name for path in (tmp_path / "hub").iterdir()} >= {"model.safetensors"}
    loaded = model.from_pretrained(tmp_path / "hub")
    inputs = batch(2, (4, 5, 6))
    assert torch.equal(loaded(*inputs), saved(*inputs))
    assert restore(read_checkpoint(tmp_path / "hub" / "model.safetensors"))[0] == name


# A program of its own: huggingface_hub reads the hub's address when it is imported.
PUSH_AND_FETCH = """
import sys
from models import NHFNet
model = NHFNet.from_checkpoint(sys.argv[1])
model.push_to_hub("me/model", token="hf_none")
fetched = NHFNet.from_pretrained("me/model")
fetched.save_pretrained(sys.argv[2])
"""


def test_a_model_is_pushed_to_a_hub_and_fetched_from_there(tmp_path):
    saved, files = write_model(tmp_path / "a.pth"), {}
    with hub(files) as url:
        environment = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "cache")}
        done = subprocess.run(
            [sys.executable, "-c", PUSH_AND_FETCH, tmp_path / "a.pth", tmp_path / "fetched"],
            env={**os.environ, **environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert files.keys() >= {"config.json", "model.safetensors", "README.md"}
    _, fetched = restore(read_checkpoint(tmp_path / "fetched" / "model.safetensors"))
    inputs = batch(2, (4, 5, 6))
    assert torch.equal(fetched(*inputs), saved(*inputs))


def test_another_suffix_is_told(tmp_path):
    with pytest.raises(
        InputError, match=r"a.pt: expected a name that ends in .safetensors or .onnx"
    ):
        export(tmp_path / "a.pth", tmp_path / "a.pt")
