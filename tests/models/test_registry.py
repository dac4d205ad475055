"""Models by name, or by FILE.py:CLASS; and models from checkpoints."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.checkpoint import describe_model, read_checkpoint, write_checkpoint
from models.registry import MODELS, build, config_class, describe_config, find_class, restore
from system.errors import InputError
from tests.golden import GOLDEN
from tests.own_model import OWN_MODEL

WIDTHS = {"visual": 3, "audio": 4, "text": 5}
INPUTS = [torch.ones(2, length, width) for length, width in zip((6, 7, 8), (3, 4, 5), strict=True)]


@pytest.fixture
def own(tmp_path):
    """A model of a user's own, as FILE.py:CLASS."""
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    return f"{tmp_path / 'mine.py'}:Mean"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("outputs", [1, 6])
def test_every_model_keeps_to_the_contract(name, outputs, tmp_path):
    model = build(name, {}, WIDTHS, outputs)
    assert model(*INPUTS).shape == (2, outputs)
    assert type(model.config) is find_class(name).Config
    assert (model.widths, model.outputs) == (WIDTHS, outputs)
    write_checkpoint(tmp_path / "a.pth", model, name)
    stored_name, restored = restore(read_checkpoint(tmp_path / "a.pth"))
    assert (stored_name, restored.config, restored.outputs) == (name, model.config, outputs)
    assert torch.equal(restored(*INPUTS), model.eval()(*INPUTS))


@pytest.mark.parametrize("name", MODELS)
def test_every_setting_of_a_model_is_one_of_its_config(name):
    model = build(name, {}, WIDTHS, 1)
    settings = {"text_hidden": 48, "layers": 1, "dropout": 0.0}
    changed = {key: value for key, value in settings.items() if key in vars(model.config)}
    assert changed
    assert build(name, changed, WIDTHS, 1).config == replace(model.config, **changed)
    assert all(f"{key}=" in describe_config(name) for key in vars(model.config))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 0}, "layers is 0: expected a whole number of at least 1"),
        ({"layers": -1}, "got '-1'"),
        ({"layers": 10**9}, "at most 64"),
        ({"layers": 2.5}, "2.5"),
        ({"layers": True}, "layers is True"),
        ({"layers": "4"}, "layers is '4'"),
        ({"layers": None}, "layers is None"),
        ({"heads": 5}, "width 32 is not divisible by twice 5 heads"),
        ({"cross_modal_dropout": float("nan")}, "from 0, below 1"),
        ({"cross_modal_dropout": 1.0}, "from 0, below 1"),
        ({"colour": 1}, "no setting 'colour', only: width, heads, layers"),
    ],
)
def test_impossible_settings_are_refused_in_a_line(settings, message):
    with pytest.raises(InputError, match="--model nhfnet: ") as caught:
        build("nhfnet", settings, WIDTHS, 1)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_users_own_model_is_built_and_restored_when_it_is_named(own, tmp_path):
    model = build(own, {"hidden": 3}, WIDTHS, 2)
    assert model(*INPUTS).shape == (2, 2)
    assert config_class(own)().hidden == 16
    write_checkpoint(tmp_path / "own.pth", model, own)
    checkpoint = read_checkpoint(tmp_path / "own.pth")
    assert restore(checkpoint, own)[1].config.hidden == 3
    with pytest.raises(InputError, match=r"holds a user's own model.*--model FILE.py:CLASS"):
        restore(checkpoint)
    with pytest.raises(InputError, match=r"holds a user's own model.*--model FILE.py:CLASS"):
        restore(checkpoint, "nhfnet")  # leaving --model out would not help


def test_a_model_of_the_program_is_refused_for_another_that_it_does_not_fit(own, tmp_path):
    write_checkpoint(tmp_path / "lf.pth", build("lf_dnn", {}, WIDTHS, 1), "lf_dnn")
    checkpoint = read_checkpoint(tmp_path / "lf.pth")
    with pytest.raises(InputError, match=r"holds the model 'lf_dnn'.*leave --model out"):
        restore(checkpoint, "mult")
    refused = pytest.raises(InputError, match="no setting 'audio_hidden', only: hidden")
    with pytest.warns(UserWarning, match=r"lf.pth holds 'lf_dnn', this is .*:Mean"), refused:
        restore(checkpoint, own)


def test_another_class_that_fits_a_users_own_checkpoint_is_warned_of(own, tmp_path):
    write_checkpoint(tmp_path / "own.pth", build(own, {}, WIDTHS, 1), own)
    checkpoint = read_checkpoint(tmp_path / "own.pth")
    file = Path(own.rpartition(":")[0])
    moved = file.rename(file.with_name("moved.py"))
    restore(checkpoint, f"{moved}:Mean")  # only its file has another name
    moved.write_text(f"{moved.read_text()}\n\nclass Other(Mean):\n    pass\n")
    with pytest.warns(UserWarning, match=r"own.pth holds '.*:Mean', this is .*:Other"):
        restore(checkpoint, f"{moved}:Other")


@pytest.fixture
def changed(tmp_path):
    """The name of a user's own model that has NHFNet's weights."""
    code = "from models.nhfnet import NHFNet\n\nclass Changed(NHFNet):\n    pass\n"
    (tmp_path / "changed.py").write_text(code)
    return f"{tmp_path / 'changed.py'}:Changed"


def test_a_users_change_of_a_model_takes_the_weights_of_that_model(changed, tmp_path):
    model = build("nhfnet", {"layers": 1}, WIDTHS, 1).eval()
    write_checkpoint(tmp_path / "nhfnet.pth", model, "nhfnet")
    with pytest.warns(UserWarning, match=r"nhfnet.pth holds 'nhfnet', this is .*:Changed"):
        name, restored = restore(read_checkpoint(tmp_path / "nhfnet.pth"), changed)
    assert name == changed
    assert torch.equal(restored(*INPUTS), model(*INPUTS))


def test_the_weights_of_an_unnamed_file_decide_whether_a_users_own_model_has_them(own, changed):
    name = changed
    released = read_checkpoint(GOLDEN / "released_format.pth")
    assert restore(released, name)[0] == name
    inputs = [torch.ones(2, 3, width) for width in (35, 74, 768)]
    expected, found = (restore(released, each)[1](*inputs) for each in (None, name))
    assert torch.equal(found, expected)
    with pytest.raises(InputError, match=r"does not say which model .* and Mean does not know"):
        restore(released, own)


@pytest.mark.parametrize("part", ["module", "Model", "_orig_mod"])
def test_a_part_of_a_users_own_model_may_be_called_as_a_wrapper_is(own, tmp_path, part):
    (tmp_path / "mine.py").write_text(OWN_MODEL.replace("self.net", f"self.{part}"))
    model = build(own, {}, WIDTHS, 1)
    write_checkpoint(tmp_path / "own.pth", model, own)
    restored = restore(read_checkpoint(tmp_path / "own.pth"), own)[1]
    assert torch.equal(restored(*INPUTS), model(*INPUTS))


@pytest.mark.parametrize("part", ["net", "module"])
@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.module."])
def test_a_users_own_model_is_read_from_a_wrapper(own, tmp_path, part, wrapper):
    (tmp_path / "mine.py").write_text(OWN_MODEL.replace("self.net", f"self.{part}"))
    model = build(own, {}, WIDTHS, 1)
    weights = {wrapper + name: value for name, value in model.state_dict().items()}
    torch.save({**describe_model(model, own), "model_state_dict": weights}, tmp_path / "own.pth")
    restored = restore(read_checkpoint(tmp_path / "own.pth"), own)[1]
    assert torch.equal(restored(*INPUTS), model(*INPUTS))


INIT = "self.net = nn.Sequential(hidden, nn.ReLU(), nn.Linear(config.hidden, outputs))"
CACHED = "if not hasattr(Mean, 'table'):\n            Mean.table = torch.ones(outputs)\n        "
LEFT_OUT = """self.frozen = nn.Linear(1, 1).requires_grad_(False)

    def state_dict(self, *args, **kwargs):
        weights = super().state_dict(*args, **kwargs)
        return {name: weights[name] for name in weights if not name.startswith("frozen.")}

    def load_state_dict(self, weights, strict=True):
        return super().load_state_dict(weights, strict=False)
"""


@pytest.mark.parametrize(
    "addition", [f"{CACHED}self.register_forward_hook(lambda *x: x[2] * Mean.table)", LEFT_OUT]
)
def test_a_users_own_constructor_and_state_dict_are_taken_as_they_are(own, tmp_path, addition):
    """A table that is made once for all models, and a frozen part that is not saved."""
    (tmp_path / "mine.py").write_text(OWN_MODEL.replace(INIT, f"{INIT}\n        {addition}"))
    model = build(own, {}, WIDTHS, 1)
    write_checkpoint(tmp_path / "own.pth", model, own)
    restored = restore(read_checkpoint(tmp_path / "own.pth"), own)[1]
    assert torch.equal(restored(*INPUTS), model(*INPUTS))


def test_nothing_that_a_checkpoint_names_is_imported(tmp_path):
    marker = tmp_path / "was here"
    (tmp_path / "evil.py").write_text(f"{OWN_MODEL}\nopen({str(marker)!r}, 'w')\n")
    name = f"{tmp_path / 'evil.py'}:Mean"
    write_checkpoint(tmp_path / "a.pth", build("lf_dnn", {}, WIDTHS, 1), name)
    with pytest.raises(InputError):
        restore(read_checkpoint(tmp_path / "a.pth"))
    assert not marker.exists()
    find_class(name)
    assert marker.exists()  # the user named it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("", ""), None),
        (("class Mean", "class Median"), "expected a class of torch.nn.Module"),
        (("class Config", "class Settings"), "Mean.Config is missing"),
        (("    @dataclass(frozen=True)\n", ""), "Mean.Config is missing"),
        (("import torch", "import torch, no_such_module"), "cannot be imported (ModuleNotFound"),
        (("import torch", "impart torch"), "cannot be imported (SyntaxError"),
        (("import torch", "raise SystemExit(3)"), "cannot be imported (SystemExit"),
        (("self.outputs = config", "_ = config"), "self.outputs"),
        (("= config, widths, outputs", "= config, widths, 2"), "self.outputs to 2, but is asked"),
        (("= config, widths", "= vars(config), widths"), "sets self.config to {'hidden': 16}"),
        (("super().__init__()", "super().__init__(); widths.pop('text')"), "sets self.widths to {"),
        (("config, widths, outputs\n", "config, [*widths], outputs\n"), "self.widths to ['vis"),
        (("config.hidden", "config.size"), "cannot be built (AttributeError"),
    ],
)
def test_mistakes_in_a_users_own_model_are_told_in_a_line(tmp_path, change, message):
    (tmp_path / "mine.py").write_text(OWN_MODEL.replace(*change))
    if message is None:
        build(f"{tmp_path / 'mine.py'}:Mean", {}, WIDTHS, 1)
        return
    with pytest.raises(InputError) as caught:
        build(f"{tmp_path / 'mine.py'}:Mean", {}, WIDTHS, 1)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_seeds_pytorch_leaves_the_initial_weights_to_the_seed(tmp_path):
    (tmp_path / "mine.py").write_text(f"{OWN_MODEL}\ntorch.manual_seed(0)\n")
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(build(f"{tmp_path / 'mine.py'}:Mean", {}, WIDTHS, 1).net[0].weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


def test_a_users_own_model_imports_the_modules_beside_it(tmp_path, monkeypatch):
    text = OWN_MODEL.replace("import torch", "import torch\nfrom sizes_of_it import SIZE", 1)
    text = text.replace("= 16", "= SIZE")
    for folder, size in (("first", 5), ("second", 7)):
        package = tmp_path / folder / "sizes_of_it"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("from sizes_of_it.parts import SIZE\n")
        (package / "parts.py").write_text(f"SIZE = {size}\n")
        (tmp_path / folder / "mine.py").write_text(text)
    path = list(sys.path)
    for folder, size in (("first", 5), ("second", 7), ("first", 5)):
        monkeypatch.chdir(tmp_path / folder)
        assert build("mine.py:Mean", {}, WIDTHS, 1).config.hidden == size
        assert sys.path == path


@pytest.mark.parametrize("name", ["nhf", "mine.py", "mine.py:", "nothing.py:Mean", ":", ""])
def test_a_model_that_does_not_exist_is_refused(name):
    with pytest.raises(InputError, match="--model"):
        find_class(name)
