"""`--config published`: what a model was trained with by those who published it."""

from __future__ import annotations

import pytest

import main_msaf
from models.registry import published_settings
from system.errors import InputError
from system.files import read_json
from tests.own_model import OWN_MODEL
from utils.run_config import RunConfig

PUBLISHED = {
    "nhfnet": {"loss": "mse", "lr": 1e-3, "batch_size": 16, "epochs": 10, "seed": 20},
    "msaf": {"loss": "mse", "lr": 1e-3, "batch_size": 16, "epochs": 10, "seed": 20},
    "mult": {
        **{"loss": "l1", "lr": 1e-3, "batch_size": 24, "epochs": 40, "grad_clip": 0.8},
        **{"scheduler": "plateau", "plateau_factor": 0.1, "plateau_patience": 20},
    },
    "lf_dnn": {"loss": "l1", "lr": 2e-3, "weight_decay": 1e-3, "batch_size": 64, "patience": 8},
    "lmf": {"loss": "l1", "lr": 1e-3, "weight_decay": 1e-3, "batch_size": 32, "patience": 8},
    "tfn": {"loss": "l1", "lr": 5e-3, "weight_decay": 0.0, "batch_size": 128, "patience": 8},
}


def config_of(*arguments):
    parser = main_msaf.build_parser()
    return main_msaf.parse_config(parser, vars(parser.parse_args(["--train", *arguments])))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_settings_of_a_model_make_a_configuration(name):
    config = config_of("--model", name, "--config", "published")
    assert {key: getattr(config, key) for key in PUBLISHED[name]} == PUBLISHED[name]
    assert config.model == name
    assert config_of("--config", str(published_settings(name))) == config


def test_without_a_model_they_are_the_default_ones_and_options_come_first():
    assert config_of("--config", "published") == RunConfig(model="nhfnet", loss="mse")
    assert config_of("--config", "published", "--lr", "0.5").lr == 0.5


def test_what_is_not_known_or_not_taken_is_said_beside_the_settings():
    files = {name: read_json(published_settings(name)) for name in PUBLISHED}
    assert [name for name, file in files.items() if "epochs" in file.get("not_known", {})] == [
        *("lf_dnn", "lmf", "tfn")
    ]
    seeds = {name: file["not_taken"]["seed"] for name, file in files.items() if name != "nhfnet"}
    assert "1111" in seeds["mult"]
    assert "1234" in seeds["msaf"]


def test_a_model_of_ones_own_has_them_beside_it_or_none(tmp_path):
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    name = f"{tmp_path / 'mine.py'}:Mean"
    with pytest.raises(InputError, match=r"not known how .*Mean was trained"):
        config_of("--model", name, "--config", "published")
    (tmp_path / "mine.json").write_text('{"config": {"lr": 0.25}}')
    assert config_of("--model", name, "--config", "published").lr == 0.25
