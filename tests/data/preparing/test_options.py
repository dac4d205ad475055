"""The parser of dataset_prep.py: built without running, explained in full."""

from __future__ import annotations

from pathlib import Path

import pytest

import dataset_prep
import main_msaf


def test_every_option_has_a_help_and_shows_its_default():
    parser = dataset_prep.build_parser()
    titles = [group.title for group in parser._action_groups if group._group_actions]
    assert titles == ["options", "what to do", "data", "text", "running"]
    for action in parser._actions:
        assert action.help, action.option_strings
        if action.default not in (None, False, "==SUPPRESS=="):
            assert "default: " in action.help, action.option_strings


def test_dry_run_excludes_what_does_not_prepare(program, tmp_path):
    for other in ("--check", "--plot"):
        done = program("dataset_prep.py", "--dry_run", other, "--datadir", tmp_path)
        assert done.returncode == 2
        assert done.stderr == f"error: --dry_run and {other} exclude each other (see --help)\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--check --force", "--force and --check exclude each other"),
        ("--demo --dataset mosi", "--demo and --dataset exclude each other"),
        ("--no_bert --bert_precision bfloat16", "--no_bert and --bert_precision exclude"),
    ],
)
def test_what_would_be_ignored_is_refused(capsys, monkeypatch, options, message):
    monkeypatch.setattr("sys.argv", ["dataset_prep.py", *options.split()])
    with pytest.raises(SystemExit):
        dataset_prep.parse_arguments()
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["audio", "visual"])
def test_a_length_that_no_memory_holds_is_refused(capsys, kind):
    parser = dataset_prep.build_parser()
    with pytest.raises(SystemExit):
        parser.parse_args(["--alignment", "unaligned", f"--{kind}_length", "99999999999"])
    assert f"--{kind}_length: expected a whole number of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "option"),
    [
        (dataset_prep, "bert"),
        *((main_msaf, name) for name in ("bert", "finetune_bert", "model", "resume", "compare")),
    ],
)
def test_what_is_named_or_given_by_its_path_may_lie_in_the_home_directory(program, option):
    """The shell expands no ~ after an equals sign."""
    options = program.build_parser().parse_args([f"--{option}=~/folder"])
    expected = str(Path.home() / "folder")
    assert getattr(options, option) in (expected, [expected])
