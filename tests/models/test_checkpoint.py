from __future__ import annotations

import errno
import io
import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from models.checkpoint import load_weights, read_checkpoint, write_checkpoint
from models.nhfnet import NHFNet, NHFNetConfig
from models.nhfnet.released_format import RELEASED as FORMAT
from models.registry import restore
from system.errors import InputError
from tests.golden import GOLDEN

RELEASED = GOLDEN / "released_format.pth"
ROOT = Path(__file__).parents[2]
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
WIDTHS = {"visual": 3, "audio": 4, "text": 5}
SMALL = {"layers": 1, "feedforward": 8, "text_hidden": 6}
MOSEI = {"visual": 35, "audio": 74, "text": 768}


def save(path, content, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def refusal(path):
    """Return the message of the InputError for the file."""
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def small_model(seed=0):
    torch.manual_seed(seed)
    return NHFNet(NHFNetConfig(**SMALL), WIDTHS)


def assert_same_weights(found, expected):
    assert list(found) == list(expected)
    for name, weight in expected.items():
        assert found[name].dtype == weight.dtype
        assert torch.equal(found[name], weight), name


# Ours


def test_what_is_written_comes_back_exactly(tmp_path):
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.25)
    sum(weight.square().sum() for weight in model.parameters()).backward()
    optimizer.step()
    details = {
        "epoch": 3,
        "optimizer_state_dict": optimizer.state_dict(),
        "scores": {"val": {"mae": 0.1 + 0.2, "n": 7}},
        "dataset": None,
    }
    path = tmp_path / "new folder" / "best.pth"
    write_checkpoint(path, model, "nhfnet", **details)
    checkpoint = read_checkpoint(path)
    assert checkpoint.path == path
    assert checkpoint.model == "nhfnet"
    assert checkpoint.config == {**vars(NHFNetConfig()), **SMALL}
    assert (checkpoint.widths, checkpoint.outputs) == (WIDTHS, 1)
    assert_same_weights(checkpoint.weights, model.state_dict())
    state = checkpoint.details.pop("optimizer_state_dict")
    assert state["param_groups"] == optimizer.state_dict()["param_groups"]
    for key, values in optimizer.state_dict()["state"].items():
        assert_same_weights(state["state"][key], values)
    assert checkpoint.details == {name: details[name] for name in ("epoch", "scores", "dataset")}


def test_a_model_is_built_with_the_config_in_its_checkpoint(tmp_path):
    model = small_model()
    write_checkpoint(tmp_path / "best.pth", model, "nhfnet")
    loaded = NHFNet.from_checkpoint(str(tmp_path / "best.pth"))
    assert (loaded.config, loaded.widths) == (model.config, model.widths)
    assert not loaded.training
    assert_same_weights(loaded.state_dict(), model.state_dict())


def linear(inputs, outputs):
    """A model with the attributes that a checkpoint needs."""
    model = nn.Linear(inputs, outputs, bias=False)
    model.config, model.widths, model.outputs = NHFNetConfig(), WIDTHS, outputs
    return model


def test_unusual_weights_come_back_to_the_bit(tmp_path):
    model = linear(5, 1)
    unusual = torch.tensor([[-0.0, float("inf"), float("nan"), 1e-45, 3.4e38]])
    model.load_state_dict({"weight": unusual})
    write_checkpoint(tmp_path / "model.pth", model, "linear")
    weight = read_checkpoint(tmp_path / "model.pth").weights["weight"]
    assert weight.numpy().tobytes() == unusual.numpy().tobytes()


# Writing that is cut short

# Writes checkpoints 1, 2, ... over checkpoint 0 in several processes, each killed after a while.
KILLED_WRITERS = """
import os, signal, sys, time
from itertools import count
from pathlib import Path
import torch
from models.checkpoint import write_checkpoint
from tests.models.test_checkpoint import linear

torch.set_num_threads(1)
model = linear(1000, 1000)

def write(path, number):
    torch.nn.init.constant_(model.weight, number)
    write_checkpoint(path, model, "linear", number=number)

for moment in range(int(sys.argv[2])):
    path = Path(sys.argv[1]) / str(moment) / "best.pth"
    write(path, 0)
    reader, writer_end = os.pipe()
    writer = os.fork()
    if not writer:
        for number in count(1):
            write(path, number)
            os.write(writer_end, b".")
    os.read(reader, 1)
    time.sleep(0.0037 * moment)
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_leaves_a_whole_checkpoint(tmp_path):
    moments = 16
    subprocess.run(
        [sys.executable, "-c", KILLED_WRITERS, str(tmp_path), str(moments)],
        check=True,
        cwd=ROOT,
        timeout=120,
    )
    numbers = []
    for moment in range(moments):
        checkpoint = read_checkpoint(tmp_path / str(moment) / "best.pth")
        number = checkpoint.details["number"]
        assert (checkpoint.weights["weight"] == number).all()
        numbers.append(number)
    assert min(numbers) > 0  # the processes did write


def half_written(path, content):
    with path.open("wb") as file:
        file.write(content[: len(content) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def not_flushed(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("target", "name", "failing"),
    [(Path, "write_bytes", half_written), (os, "fsync", not_flushed)],
    ids=["write", "flush"],
)
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, target, name, failing):
    path = tmp_path / "best.pth"
    write_checkpoint(path, small_model(0), "nhfnet")
    old = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(target, name, failing)
        with pytest.raises(OSError, match="No space left") as caught:
            write_checkpoint(path, small_model(1), "nhfnet")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
    write_checkpoint(path, small_model(1), "nhfnet")
    assert path.read_bytes() != old


# The released format


def test_the_released_file_loads():
    checkpoint = read_checkpoint(RELEASED)
    assert checkpoint.details["epoch"] == 3
    assert checkpoint.details["test_score"] == [51.2, 84.3, 84.1, 0.71]
    assert checkpoint.details["test_loss"] == 0.5678
    assert set(checkpoint.details["optimizer_state_dict"]) == {"state", "param_groups"}
    assert NHFNet.from_checkpoint(RELEASED).widths == MOSEI


def test_released_names_are_ours_one_to_one():
    theirs = torch.load(RELEASED, weights_only=False)["model_state_dict"]
    used = {name: weight for name, weight in theirs.items() if len(FORMAT.rename({name: weight}))}
    renamed = FORMAT.rename(theirs)
    ours = NHFNet(NHFNetConfig(), MOSEI).state_dict()
    assert len(renamed) == len(used)  # no two become one
    assert {name: weight.shape for name, weight in renamed.items()} == {
        name: weight.shape for name, weight in ours.items()
    }
    for old, new in zip(used.values(), renamed.values(), strict=True):
        assert torch.equal(old, new)
    unused = {name: weight.numel() for name, weight in theirs.items() if name not in used}
    assert sum(size for name, size in unused.items() if "_proj." in name) == 49_920
    assert all(re.search(r"(mem|att)_proj\.0|version|_float_tensor", name) for name in unused)


def test_each_released_part_goes_where_the_paper_has_it():
    renamed = {
        "audio_visual_model.audio_linear.bias": "audio_linear.bias",
        "audio_visual_model.visual_linear.weight": "visual_linear.weight",
        "audio_visual_model.transformer.layers.0.fc1.weight": (
            "audio_visual_encoder.layers.0.fc1.weight"
        ),
        "cross_transformer.layers.3.self_attn.in_proj_weight": (
            "cross_modal_encoder.layers.3.self_attn.in_proj_weight"
        ),
        "classifcation.layer_norm.bias": "self_attention_encoder.layer_norm.bias",
        "text_model.1.weight_hh_l0": "text_lstms.1.weight_hh_l0",
        "layer_norm.weight": "text_norm.weight",
        "multimodal_classifier.0.bias": "output.bias",
        "a_name_nobody_knows": "a_name_nobody_knows",
    }
    for old, new in renamed.items():
        assert list(FORMAT.rename({old: torch.zeros(1)})) == [new]


def test_our_own_names_stay_as_they_are():
    ours = NHFNet(NHFNetConfig(), MOSEI).state_dict()
    assert list(FORMAT.rename(ours)) == list(ours)


@FORMATS
@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_scores_load_by_the_module_names_of_numpy_1_and_2(tmp_path, zipped, module):
    content = torch.load(RELEASED, weights_only=False)
    path = save(tmp_path / "released.pth", content, zipped)
    rename_numpy(path, module.encode())
    checkpoint = read_checkpoint(path)
    assert checkpoint.details["test_score"] == content["test_score"]
    assert checkpoint.details["test_loss"] == content["test_loss"]


def rename_numpy(path, module):
    def renamed(content):
        new, count = re.subn(rb"(?<=c)numpy\._?core\.multiarray(?=\nscalar\n)", module, content)
        assert count
        return new

    if not zipfile.is_zipfile(path):
        path.write_bytes(renamed(path.read_bytes()))
        return
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, renamed(content) if name.endswith("data.pkl") else content)


# Files that are refused


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("key", ["optimizer_state_dict", "model_state_dict"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_that_would_run_code_is_refused_and_does_not(tmp_path, zipped, protocol, key):
    marker = tmp_path / "was here"
    content = {"model_state_dict": small_model().state_dict(), "config": SMALL}
    content[key] = Call(os.mkdir, str(marker))
    path = tmp_path / "evil.pth"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    assert not marker.exists()
    if protocol == 2:  # torch.save's own; in others, PyTorch's safe loader cannot name the calls
        assert f"refused: it asks to call {os.mkdir.__module__}.mkdir" in message
    torch.load(path, weights_only=False)
    assert marker.exists()  # an unsafe load runs the code


@FORMATS
@pytest.mark.parametrize("function", [eval, exec, getattr, torch.load, io.open, NHFNetConfig])
def test_what_a_file_asks_to_call_is_named(tmp_path, zipped, function):
    path = save(tmp_path / "evil.pth", {"model_state_dict": {}, "x": Call(function)}, zipped)
    assert re.search(rf"it asks to call \S*\b{function.__name__} while loading", refusal(path))


def test_a_bare_pickle_that_would_run_code_does_not(tmp_path):
    marker = tmp_path / "was here"
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Call(os.mkdir, str(marker)), 2))
    assert "it asks to call" in refusal(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["nothing.pth", "."])
def test_a_path_without_a_file_is_refused(tmp_path, name):
    assert "No checkpoint at" in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["best.pth", "model.safetensors"])
def test_a_folder_is_refused_with_the_checkpoint_in_it(tmp_path, name):
    (tmp_path / name).touch()
    assert refusal(tmp_path) == f"{tmp_path} is a folder; give {tmp_path / name}."


CONTENTS = {
    "one byte": b"\x80",
    "garbage": np.random.default_rng(0).bytes(5000),
    "text": b"# Notes\n" * 9,
    "pickled dict": pickle.dumps({"model_state_dict": {}}, 2),
    "pickled nothing": pickle.dumps(None, 0),
}


@pytest.mark.parametrize("content", CONTENTS)
def test_bytes_that_are_no_checkpoint_are_refused(tmp_path, content):
    path = tmp_path / "model.pth"
    path.write_bytes(CONTENTS[content])
    assert f"damaged ({len(CONTENTS[content]):,} bytes; " in refusal(path)


def test_a_zip_of_something_else_is_refused(tmp_path):
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")
    assert "is a zip archive; unpack it first (unzip); expected a checkpoint: give" in refusal(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_web_page_for_a_checkpoint_is_told(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"<!DOCTYPE html><html>404</html>\n" * 9)
    assert f"{path} is a web page (HTML); delete it" in refusal(path)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    """A path to write to, and a small checkpoint's bytes in both formats."""
    path = tmp_path_factory.mktemp("damaged") / "model.pth"
    content = {"config": {}, "model_state_dict": nn.Linear(2, 2).state_dict()}
    return path, [save(path, content, zipped).read_bytes() for zipped in (False, True)]


positions = st.floats(0, 1, exclude_max=True)  # as a share of the file


@given(cut=positions, zipped=st.booleans())
def test_a_truncated_file_is_refused(small_file, cut, zipped):
    path, contents = small_file
    content = contents[zipped]
    path.write_bytes(content[: int(cut * len(content))])
    refusal(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@given(changes=st.lists(st.tuples(positions, st.integers(0, 255))), zipped=st.booleans())
def test_a_damaged_file_loads_or_is_refused(small_file, changes, zipped):
    path, contents = small_file
    content = bytearray(contents[zipped])
    for position, byte in changes:
        content[int(position * len(content))] = byte
    path.write_bytes(content)
    try:
        checkpoint = read_checkpoint(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert all(isinstance(weight, torch.Tensor) for weight in checkpoint.weights.values())


@pytest.mark.parametrize(
    "content",
    [
        None,
        [1, 2],
        torch.zeros(2),
        {},
        {"state_dict": {}},
        {"model_state_dict": [torch.zeros(2)]},
        {"model_state_dict": {"output.bias": 1.0}},
        {"model_state_dict": {1: torch.zeros(2)}},
    ],
    ids=repr,
)
def test_a_file_of_something_else_is_refused(tmp_path, content):
    path = save(tmp_path / "model.pth", content)
    assert "is not a checkpoint: expected a dict with a model_state_dict" in refusal(path)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("config", None),
        ("config", [35]),
        ("config", {"layers": 0}),
        ("config", {"layers": 10**9}),
        ("config", {"layers": True}),
        ("config", {"layers": "1"}),
        ("config", {"cross_modal_dropout": float("nan")}),
        ("config", {"cross_modal_dropout": 1.0}),
        ("config", {"colour": 3}),
        ("config", {"width": 30}),
        ("config", {1: 2}),
        ("widths", {"visual": 0, "audio": 4, "text": 5}),
        ("widths", {"visual": "35", "audio": 4, "text": 5}),
        ("widths", {"visual": 10**9, "audio": 4, "text": 5}),
        ("widths", {}),
        ("widths", None),
        ("outputs", 2.0),
        ("outputs", 0),
        ("outputs", 10**12),
        ("model", 3),
    ],
    ids=repr,
)
def test_what_builds_no_model_is_refused_in_a_line(tmp_path, part, value):
    path = tmp_path / "model.pth"
    good = {"model": "nhfnet", "config": SMALL, "widths": WIDTHS, "outputs": 1}
    save(path, good | {part: value} | {"model_state_dict": small_model().state_dict()})
    with pytest.raises(InputError, match=r"model\.pth") as caught:
        NHFNet.from_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_checkpoints_from_before_there_were_other_models_load(tmp_path):
    model = small_model()
    sizes = WIDTHS | SMALL
    save(tmp_path / "old.pth", {"sizes": sizes, "model_state_dict": model.state_dict()})
    assert NHFNet.from_checkpoint(tmp_path / "old.pth").config == model.config


# Weights that do not fit


def misfit(weights):
    """Return the message of the InputError for these weights; the model must not change."""
    model = small_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_weights(model, weights, Path("some.pth"))
    assert_same_weights(model.state_dict(), before)
    message = str(caught.value)
    assert message.startswith("some.pth does not fit NHFNet: ")
    assert "\n" not in message
    return message.removeprefix("some.pth does not fit NHFNet: ")


def test_what_does_not_fit_is_told_name_by_name():
    weights = small_model(1).state_dict()
    del weights["output.bias"]
    weights["extra.weight"] = torch.zeros(2)
    weights["text_norm.weight"] = torch.zeros(31)
    assert misfit(weights) == (
        "missing: output.bias; unexpected: extra.weight; "
        "of another shape: text_norm.weight (31,) instead of (32,)."
    )


def test_only_what_is_wrong_is_told():
    weights = small_model(1).state_dict()
    del weights["output.bias"]
    assert misfit(weights) == "missing: output.bias."


def test_many_names_are_counted():
    count = len(small_model().state_dict())
    assert (
        misfit({"a": torch.ones(1)})
        .split("; ")[0]
        .endswith(f"visual_linear.weight and {count - 3} more")
    )


def test_a_released_file_that_lacks_a_part_tells_our_name_for_it(tmp_path):
    content = torch.load(RELEASED, weights_only=False)
    del content["model_state_dict"]["classifcation.layer_norm.bias"]
    path = save(tmp_path / "released.pth", content)
    with pytest.raises(InputError, match=r"missing: self_attention_encoder\.layer_norm\.bias\."):
        NHFNet.from_checkpoint(path)


# Other people's ways of saving


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_a_bare_state_dict_loads_whatever_was_around_the_model(tmp_path, prefix):
    torch.manual_seed(0)
    model = NHFNet(NHFNetConfig(), WIDTHS)
    weights = {prefix + name: weight for name, weight in model.state_dict().items()}
    for content in (
        weights,
        {"model_state_dict": weights},
        {"epoch": 3, "state_dict": weights, "optimizer": {"param_groups": []}},
    ):
        loaded = NHFNet.from_checkpoint(save(tmp_path / "bare.pth", content))
        assert loaded.widths == WIDTHS
        assert_same_weights(loaded.state_dict(), model.state_dict())


def test_a_released_file_of_several_devices_loads(tmp_path):
    theirs = torch.load(RELEASED, weights_only=False)["model_state_dict"]
    weights = {f"module.{name}": weight for name, weight in theirs.items()}
    assert NHFNet.from_checkpoint(save(tmp_path / "a.pth", weights)).widths == MOSEI


def test_a_prefix_of_some_names_only_stays():
    model = small_model()
    weights = model.state_dict()
    weights["module.output.bias"] = weights.pop("output.bias")
    assert "missing: output.bias; unexpected: module.output.bias" in misfit(weights)


# Weights that no model can have


def test_sizes_are_compared_with_the_weights_before_memory_is_asked_for(tmp_path):
    path = tmp_path / "model.pth"
    huge = {"layers": 64, "width": 4096, "feedforward": 16384}  # 150 GB
    content = {"model": "nhfnet", "config": huge, "widths": WIDTHS, "outputs": 1}
    save(path, content | {"model_state_dict": small_model().state_dict()})
    with pytest.raises(InputError, match="does not fit NHFNet: missing"):
        NHFNet.from_checkpoint(path)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (float("nan"), torch.float32),
        (float("inf"), torch.float32),
        (1e39, torch.float64),
        (float("nan"), torch.float8_e4m3fn),
    ],
)
def test_weights_that_are_no_numbers_are_refused(tmp_path, value, dtype):
    weights = small_model().state_dict()
    bias = torch.full_like(weights["output.bias"], value, dtype=torch.float64)
    weights["output.bias"] = bias.to(dtype)
    with pytest.raises(InputError, match=r"some.pth: output.bias holds NaN, infinity or"):
        load_weights(small_model(), weights, Path("some.pth"))


def test_weights_of_another_type_are_refused_but_other_precisions_load():
    weights = small_model().state_dict()
    for dtype in (torch.float16, torch.float64, torch.float8_e4m3fn):
        loaded = {name: weight.to(dtype) for name, weight in weights.items()}
        load_weights(small_model(), loaded, "a.pth")
    weights["output.bias"] = weights["output.bias"].long()
    assert "of another type: output.bias torch.int64 instead of torch.float32" in misfit(weights)
    if not hasattr(torch, "float4_e2m1fn_x2"):
        return
    weights["output.bias"] = weights["output.bias"].byte().view(torch.float4_e2m1fn_x2)
    assert "of another type: output.bias torch.float4_e2m1fn_x2 instead" in misfit(weights)


@pytest.mark.parametrize(
    ("model", "weight"), [(None, "weight"), ("mult", "projections.weight"), ("mult", "proj_l.w")]
)
def test_weights_alone_of_no_released_model_are_told(tmp_path, model, weight):
    save(tmp_path / "a.pth", {weight: torch.ones(2, 2)})
    with pytest.raises(
        InputError, match=rf"a.pth does not say which .*'{weight}'.*, or give a .pth file"
    ):
        restore(read_checkpoint(tmp_path / "a.pth"), model)


@pytest.mark.parametrize("value", [torch.ones(3), [1] * 1000, {"a": torch.ones(2)}, "x" * 10_000])
@pytest.mark.parametrize("part", ["layers", "visual", "outputs", "model", "task"])
def test_a_strange_value_in_any_place_is_one_short_line(tmp_path, part, value):
    content = {"model": "nhfnet", "config": dict(SMALL), "widths": dict(WIDTHS), "outputs": 1}
    values = {"layers": content["config"], "visual": content["widths"]}.get(part, content)
    values[part] = value
    save(tmp_path / "a.pth", content | {"model_state_dict": small_model().state_dict()})
    with pytest.raises(InputError) as caught:
        restore(read_checkpoint(tmp_path / "a.pth"))
        raise InputError("a.pth is fine")  # a task of any name is, until it is looked up
    assert "a.pth" in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)
