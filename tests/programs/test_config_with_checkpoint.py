"""A --checkpoint beside --config has its own model; options that say nothing are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from main_msaf import build_parser, parse_config
from models.checkpoint import write_checkpoint
from models.registry import build
from system.errors import InputError
from utils.training.run_folder import find_file_to_resume

WIDTHS = {"visual": 35, "audio": 74, "text": 16}  # of the small dataset


def parse(*options):
    parser = build_parser()
    return parse_config(parser, vars(parser.parse_args(list(map(str, options)))))


def checkpoint_of(folder, name):
    """Write a checkpoint of a model that its file calls `name`, or nothing, and return its path."""
    model, path = build("lf_dnn", {"dropout": 0.3}, WIDTHS, 1), folder / "start.pth"
    if name is None:
        torch.save({"model_state_dict": model.state_dict()}, path)
    else:
        write_checkpoint(path, model, name, task="sentiment")
    return path


@pytest.mark.parametrize("action", [[], ["--train"]])
def test_published_settings_are_those_of_the_checkpoints_model(tmp_path, action):
    checkpoint = checkpoint_of(tmp_path, "lf_dnn")
    config = parse("--config", "published", "--checkpoint", checkpoint, *action)
    assert (config.model, config.lr, config.set) == ("lf_dnn", 0.002, {})


@pytest.mark.parametrize(
    ("stored", "configured", "expected"),
    [
        ("lf_dnn", "nhfnet", "lf_dnn"),
        ("lf_dnn", "mine.py:Mean", "lf_dnn"),
        ("mine.py:Mean", "nhfnet", None),  # never imported: --model has to name it
        ("mine.py:Mean", "mine.py:Mean", "mine.py:Mean"),
        (None, "msaf", "msaf"),  # a file of the model's authors
    ],
)
def test_the_checkpoints_model_replaces_the_configs(tmp_path, stored, configured, expected):
    values = {"model": configured, "set": {"layers": 2}, "lr": 0.5}
    (tmp_path / "run.json").write_text(json.dumps(values))
    given = ("--train", "--config", tmp_path / "run.json")
    config = parse(*given, "--checkpoint", checkpoint_of(tmp_path, stored))
    assert (config.model, config.lr, config.set) == (expected, 0.5, {})


def test_a_dry_run_of_an_evaluation_is_refused_where_the_evaluation_would_be(main, small, tmp_path):
    options = ["--dry_run", "--datadir", small, "--checkpoint", checkpoint_of(tmp_path, "lf_dnn")]
    main(*options)
    with pytest.raises(InputError, match=r"--against: No file nothing.csv"):
        main(*options, "--against", "nothing.csv")


@pytest.mark.parametrize(
    "name",
    [
        *("model", "task", "finetune_bert", "datadir", "checkpointdir", "checkpoint", "resume"),
        *("bert", "storage", "compare", "config"),
    ],
)
def test_an_empty_value_is_refused(capsys, name):
    """An unset variable of a shell gives one; it must not mean the default."""
    with pytest.raises(SystemExit):
        build_parser().parse_args([f"--{name}", ""])
    assert f"--{name}: expected a value, got ''" in capsys.readouterr().err


def test_a_file_to_resume_may_be_in_the_home_directory(tmp_path):
    assert find_file_to_resume("~/last.pth", tmp_path) == Path.home() / "last.pth"
