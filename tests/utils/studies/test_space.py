"""Search spaces: those of the models, and the errors of invalid ones."""

from __future__ import annotations

import json

import optuna
import pytest

from models.registry import MODELS, build, search_space
from system.errors import InputError
from utils.run_config import RunConfig
from utils.studies.space import describe, plain_space, read_space, suggest, with_values

WIDTHS = {"visual": 35, "audio": 74, "text": 16}


def drawn(space, count):
    """Values of a space, drawn at random."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [suggest(study.ask(), space) for _ in range(count)]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_has_a_space_whose_values_can_be_built(model):
    config = RunConfig(model=model)
    space = read_space(search_space(model), config)
    assert {"lr", "weight_decay", "batch_size"} < space.keys()
    configs = [with_values(config, values) for values in drawn(space, 12)]
    for one in configs:
        build(model, one.set, WIDTHS, 1)
    assert len({one.lr for one in configs}) == 12
    assert len({json.dumps(one.set) for one in configs}) > 3
    assert min(one.lr for one in configs) < 1e-3 < max(one.lr for one in configs)


@pytest.fixture
def space_of(tmp_path):
    def read(content, fixed=(), **config):
        path = tmp_path / "space.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_space(path, RunConfig(**{"model": "lf_dnn", **config}), fixed)

    return read


def test_ranges_and_lists_become_distributions(space_of):
    space = space_of(
        {
            "lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "batch_size": {"low": 8, "high": 32, "step": 8},
            "loss": ["mse", "l1"],
            "grad_clip": [None, 0.8],
            "dropout": {"low": 0, "high": 0.5},
            "weight_decay": {"low": 0, "high": 3, "step": 1},
        }
    )
    for values in drawn(space, 20):
        assert 1e-4 <= values["lr"] <= 1e-2
        assert values["batch_size"] in (8, 16, 24, 32)
        assert values["loss"] in ("mse", "l1")
        assert values["grad_clip"] in (None, 0.8)
        config = with_values(RunConfig(set={"rank": 1}), values)
        assert config.set == {"rank": 1, "dropout": values["dropout"]}
        assert config.loss == values["loss"]
    assert describe(space["lr"]) == "0.0001 to 0.01, by its logarithm"
    assert describe(space["batch_size"]) == "8 to 32, by 8"
    assert describe(space["loss"]) == "mse, l1"
    assert describe(space["weight_decay"]) == "0 to 3, by 1"  # of whole numbers it would be all
    assert plain_space(space).keys() == space.keys()


def test_fixed_settings_are_not_searched(space_of):
    content = {"lr": [0.1, 0.2], "dropout": [0.1, 0.2]}
    assert list(space_of(content, {"lr"})) == ["dropout"]
    with pytest.raises(InputError, match="leaves nothing to search"):
        space_of(content, {"lr", "dropout"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "space.json is not JSON"),
        ([1], r"holds \[1\], expected settings"),
        ({}, "leaves nothing to search"),
        ({"lr": 0.1}, r"lr is 0.1, expected a list of values, or \{"),
        ({"lr": []}, r"lr is \[\], expected a list"),
        ({"lr": {"low": 1}}, "expected a list of values"),
        ({"lr": {"low": 1, "high": 2, "stp": 1}}, "expected a list of values"),
        ({"lr": [0.1, "a"]}, "lr: lr is 'a': expected a number above 0"),
        ({"lr": {"low": -1, "high": 1}}, "lr is -1: expected a number above 0"),
        ({"lr": {"low": 1.0, "high": 0.1}}, "space.json: lr: "),
        ({"lr": {"low": 0.1, "high": 1.0, "log": 1}}, "log is 1, expected true or false"),
        ({"lr": {"low": 0.1, "high": 1.0, "log": True, "step": 0.1}}, "space.json: lr: "),
        ({"lr": {"low": 0.1, "high": 1.0, "step": "a"}}, "space.json: lr: "),
        ({"lr": {"low": 0.1, "high": 1.0, "step": float("nan")}}, "step is nan, expected a number"),
        ({"lr": {"low": 0.1, "high": 1.0, "step": None}}, "step is None, expected a number above"),
        ({"lr": {"low": 0.1, "high": 1, "step": 1e-300}}, "step 1e-300 is too small for values"),
        ({"lr": {"low": 0.1, "high": 0.35, "step": 0.1}}, "high 0.35 is not low 0.1 plus"),
        ({"batch_size": {"low": 8, "high": 32, "step": 0.5}}, "step is 0.5, expected a whole"),
        ({"batch_size": {"low": 8, "high": 32, "step": True}}, "step is True, expected a whole"),
        ({"batch_size": {"low": 8, "high": 32, "step": 0}}, "step is 0, expected a whole number"),
        ({"batch_size": {"low": 8, "high": 33, "step": 8}}, "high 33 is not low 8 plus"),
        ({"batch_size": [8.5]}, "batch_size is 8.5"),
        ({"batch_size": [[8]]}, r"batch_size is \[8\], expected one value"),
        ({"loss": {"low": "l1", "high": "mse"}}, "loss is not a number; give a list"),
        ({"compile": [True]}, "compile cannot be searched; these can be: loss, lr"),
        ({"seed": [1, 2]}, "seed cannot be searched; these can be: "),
        ({"set": {"dropout": [0.1]}}, "set cannot be searched"),
        ({"widht": [1]}, "widht cannot be searched; these can be: .*text_hidden"),
        ({"dropout": [1.5]}, "dropout is 1.5: expected a number from 0, below 1"),
        ({"bert_lr": [1e-5]}, "bert_lr is for a fine-tuned text encoder; leave it out"),
    ],
)
def test_invalid_spaces_are_refused_in_one_line(space_of, content, message):
    with pytest.raises(InputError, match=message) as caught:
        space_of(content)
    assert "\n" not in str(caught.value)
    assert "space.json" in str(caught.value)


def test_a_text_encoders_settings_are_not_for_a_model_without_text(space_of):
    along = {"model": "nhfnet", "finetune_bert": "auto"}
    content = {"lr": [0.1], "bert_lr": [1e-5]}
    with pytest.raises(InputError, match="bert_lr is for a text encoder, but the model leaves"):
        space_of(content, **along, set={"modalities": "audio,visual"})
    assert space_of({**content, "modalities": ["audio", "text"]}, **along)


def test_a_text_encoder_that_is_trained_along_has_settings_to_search(space_of):
    content = {"bert_lr": [1e-5, 3e-5], "freeze_layers": [None, 1]}
    assert space_of(content, finetune_bert="auto").keys() == content.keys()


def test_a_space_is_refused_only_when_no_random_draw_of_it_can_be_built(space_of):
    assert space_of({"width": [7, 9, 14], "heads": [7]}, model="nhfnet")
    message = "space.json: no trial of it could be built: width [79] is not divisible by twice 8"
    with pytest.raises(InputError, match=message):
        space_of({"width": [7, 9]}, model="nhfnet")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--space: No file .*gone.json"):
        read_space(tmp_path / "gone.json", RunConfig())
