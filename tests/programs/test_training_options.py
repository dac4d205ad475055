"""Early stopping, schedules, seeds, several processes, costs."""

from __future__ import annotations

import csv
import json
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from data.loading.options import LoaderOptions
from data.loading.split import Split
from models.registry import build
from system.errors import InputError
from tests.forked_programs import Program
from tests.utils.training.test_several_processes import environments
from tests.utils.training.test_trainer import make_trainer
from utils.reports.costs import model_table, training_memory
from utils.tasks.sentiment import score
from utils.training.seeds import print_spread, spread
from utils.training.step import TrainingStep


def test_patience_stops_and_keeps_the_best(small, tmp_path, capsys, monkeypatch):
    trainer = make_trainer(small, tmp_path, epochs=9, patience=2, lr=1e-3)
    step, steps = TrainingStep.__call__, []

    def step_then_stop_learning(self, batch, keys, rows, epochs):
        steps.append(rows)
        if len(steps) == 8:  # after the first epoch the weights no longer change
            for group in self.optimizer.param_groups:
                group["lr"] = 0.0
        return step(self, batch, keys, rows, epochs)

    monkeypatch.setattr(TrainingStep, "__call__", step_then_stop_learning)
    trainer.run()
    assert len(trainer.epochs) == 1 + 2
    assert trainer.best.number == 1
    assert "2 epochs without a better validation MAE" in capsys.readouterr().out


@pytest.mark.parametrize("lr", [1.23456789e-11, 1e-3])
def test_a_small_learning_rate_is_recorded_with_its_digits(small, lr):
    assert make_trainer(small, lr=lr).step.lr == lr


def test_cosine_ends_near_zero_and_is_recorded(small, tmp_path):
    trainer = make_trainer(small, tmp_path, epochs=3, scheduler="cosine", lr=1e-3)
    trainer.run()
    rates = [epoch.lr for epoch in trainer.epochs]
    expected = [1e-3 * (1 + np.cos(np.pi * n / 3)) / 2 for n in range(3)]
    np.testing.assert_allclose(rates, expected)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["split"]) for row in rows] == [
        (str(number), split) for number in (1, 2, 3) for split in ("train", "val", "test")
    ]
    assert float(rows[4]["lr"]) == pytest.approx(expected[1])
    assert float(rows[4]["mae"]) == trainer.epochs[1].scores["val"]["mae"]
    assert float(rows[0]["samples_per_second"]) > 0


def test_weight_decay_and_clipping_change_the_course(small):
    norms = {}
    for name, options in {
        "plain": {},
        "decay": {"weight_decay": 0.5},
        "clip": {"grad_clip": 1e-12},
    }.items():
        trainer = make_trainer(small, epochs=1, **options)
        before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
        trainer.run()
        after = trainer.model.state_dict()
        norms[name] = sum((after[key] - value).norm() for key, value in before.items())
    assert norms["decay"] != norms["plain"]
    assert norms["clip"] < 0.9 * norms["plain"]


def test_a_loss_that_is_no_number_names_the_segments(small, tmp_path):
    trainer = make_trainer(small, tmp_path, epochs=1)
    split = trainer.splits["train"]
    bad = trainer._order(1)[10 * 2 + 2]  # in the third batch, of which three segments are named
    split.labels = split.labels.copy()
    split.labels[bad] = np.inf
    with pytest.raises(InputError, match=r"epoch 1, step 3") as caught:
        trainer.run()
    assert split.ids[bad] in str(caught.value)
    assert not list(tmp_path.glob("*.pth"))


def test_seeds_report_mean_and_deviation(program, small, tmp_path):
    options = ["--train", "--epochs", "1", "--batch_size", "10", "--seeds", "1", "2"]
    done = program("main_msaf.py", "--datadir", small, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "checkpoints" / "seeds.json").read_text())
    maes = []
    for seed in ("1", "2"):
        (path,) = (tmp_path / "result").glob(f"checkpoints-seed{seed}-best-*/test/metrics.json")
        metrics = json.loads(path.read_text())
        assert report["seeds"][seed]["mae"] == metrics["mae"]
        maes.append(metrics["mae"])
        assert (tmp_path / "checkpoints" / f"seed{seed}" / "best.pth").is_file()
    assert report["spread"]["mae"] == pytest.approx(
        {"mean": np.mean(maes), "std": np.std(maes, ddof=1)}
    )
    assert maes[0] != maes[1]
    assert "std" in done.stdout


def test_spread_of_one_seed_has_no_deviation(capsys):
    scores = score(np.array([1.0, -1.0, 2.0]), np.array([0.5, -1.0, 1.0]))
    assert spread({3: scores})["mae"] == {"mean": pytest.approx(0.5), "std": None}
    print_spread({3: scores})
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("mae"))
    assert line.split() == ["mae", "0.5000", "-", "0.5000"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_does_not_stop_the_table_of_all_seeds(value, capsys):
    scores = {1: {"mae": 1.0}, 2: {"mae": value}}
    np.testing.assert_equal(spread(scores)["mae"], {"mean": value, "std": float("nan")})
    print_spread(scores)
    assert capsys.readouterr().out.split()[-5:] == ["mae", str(value), "nan", "1.0000", str(value)]


def test_a_score_that_only_some_seeds_have_is_their_mean():
    statistics = spread({1: {"mae": 1.0}, 2: {"mae": 2.0, "new": 3.0}})
    assert statistics["new"]["mean"] == 3
    assert statistics["mae"]["mean"] == 1.5


def test_dry_run_prints_parts_and_costs(program, small):
    done = program("main_msaf.py", "--datadir", small, "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "audio_visual_encoder" in done.stdout
    assert "50,880" in done.stdout


def test_dry_run_takes_the_parts_that_a_training_takes(main, small, capsys):
    batches = "--batch_size", 4, "--accumulation_steps", 4
    for model, rows in ("nhfnet", 1), ("lf_dnn", 2):  # BatchNorm needs two segments
        main("--datadir", small, "--train", "--model", model, *batches, "--dry_run")
        assert f"Inputs ({rows}, 6, 35)" in capsys.readouterr().out


def nhfnet():
    return build("nhfnet", {}, {"visual": 35, "audio": 74, "text": 768}, 1)


def test_costs_are_the_papers_parameters():
    inputs = [torch.randn(2, 50, width) for width in (35, 74, 768)]
    rows = {
        line.split()[0]: line.split()[1:]
        for line in model_table(nhfnet(), inputs).splitlines()
        if " M" in line
    }
    assert rows["all"][0] == "636,801"
    # Two FLOPs a multiplication with a weight: the gates of 50 steps, and one projection.
    lstms = 2 * 50 * 4 * (128 * (768 + 128) + 32 * (128 + 32))
    assert float(rows["text_lstms"][1]) == pytest.approx(lstms / 1e6, abs=0.01)
    assert float(rows["audio_linear"][1]) == pytest.approx(2 * 50 * 74 * 32 / 1e6, abs=0.01)
    assert all(float(rows[name][1]) > 1 for name in rows if name.endswith("encoder"))


def test_activations_are_those_of_the_batch():
    batches = [[torch.randn(batch, 50, width) for width in (35, 74, 768)] for batch in (2, 4)]
    lines = [training_memory(nhfnet(), inputs, "float32") for inputs in batches]
    small, large = (float(line.rsplit("pass ", 1)[1].split()[0]) for line in lines)
    assert large == pytest.approx(2 * small, rel=0.2)


def test_resume_auto_begins_and_goes_on(program, small, tmp_path):
    options = ["--datadir", small, "--train", "--batch_size", "10", "--resume", "auto"]
    first = program("main_msaf.py", *options, "--epochs", "1", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "starting anew" in first.stdout
    second = program("main_msaf.py", *options, "--epochs", "2", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "Resumed from" in second.stdout
    assert "Epoch 1/2" not in second.stdout
    assert "Epoch 2/2" in second.stdout


@pytest.mark.parametrize("cxx", ["c++", "no-such-compiler"])
def test_two_processes_give_the_scores_of_one(small, tmp_path, cxx):
    options = ["--train", "--datadir", small, "--epochs", "2", "--batch_size", "37"]
    options += ["--weight_decay", "0.1"]  # Adam alone would not show a wrong scale of the loss
    tables = {}
    for name, count in {"one": 1, "two": 2}.items():
        folders = ["--checkpointdir", tmp_path / name, "--resultdir", tmp_path / name]
        with ExitStack() as stack:
            programs = [
                stack.enter_context(
                    Program("main_msaf.py", *options, *folders, env={**environment, "CXX": cxx})
                )
                for environment in environments(count)
            ]
            for each in programs:
                assert each.end() == 0, each.errors
        with (tmp_path / name / "metrics.csv").open(newline="") as file:
            tables[name] = list(csv.DictReader(file))
    assert len(tables["one"]) == len(tables["two"]) > 0
    for one, two in zip(tables["one"], tables["two"], strict=True):
        for column in one.keys() - {"samples_per_second", "split"}:
            assert float(two[column]) == pytest.approx(float(one[column]), abs=1e-4), column


def test_shares_are_disjoint_and_complete(small):
    from system.processes import Processes

    split = Split(small / "val")
    rows = np.arange(len(split))
    shares = []
    for rank in range(3):
        options = LoaderOptions(torch.device("cpu"), 4, 0, False, Processes(3, rank, rank))
        shares.append([options.share(batch) for batch in options.rows(rows)])
    for batch, *parts in zip(options.rows(rows), *shares, strict=True):
        assert sorted(np.concatenate(parts)) == batch.tolist()


@pytest.mark.parametrize("action", ["predict", "export", "robustness"])
@pytest.mark.parametrize("other", ["train", "ablate", "dry_run", "bootstrap"])
def test_an_action_on_a_checkpoint_excludes_other_actions(capsys, action, other):
    from main_msaf import build_parser, parse_config

    parser = build_parser()
    value = [] if action == "robustness" else ["x.safetensors"]
    other_value = ["100"] if other == "bootstrap" else []
    options = ["--checkpoint", "x.pth", f"--{action}", *value, f"--{other}", *other_value]
    arguments = vars(parser.parse_args(options))
    with pytest.raises(SystemExit):
        parse_config(parser, arguments)
    assert f"--{action} and --{other} exclude each other" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint", "x.pth", "--seeds", "1", "2"], "--seeds goes with --train"),
        (["--checkpoint", "x.pth", "--dry_run", "--seeds", "1"], "--seeds goes with --train"),
        (["--checkpoint", "x.pth", "--dry_run", "--overwrite"], "--overwrite goes with --train"),
        (["--train", "--seeds", "2", "1", "2"], "--seeds: 2 is given 2 times; give each once"),
        (["--train", "--split", "val"], "--split and --train exclude each other"),
        (
            ["--checkpoint", "x", "--split", "val", "--predict", "x"],
            "--split and --predict exclude",
        ),
        (["--checkpoint", "x.pth", "--set", "layers=1"], "--set goes without --checkpoint"),
        (["--checkpoint", "x.pth", "--overwrite"], "--overwrite goes with --train"),
        (["--table", "x", "--dry_run"], "--table and --dry_run exclude each other"),
        (["--table", "x", "--no_save"], "--table writes files: leave --no_save out"),
        (["--checkpoint", "x.pth", "--export", "a.onnx", "--no_save"], "--export writes files"),
        (["--train", "--no_save", "--overwrite"], "--overwrite writes files: leave --no_save out"),
        (["--train", "--no_save", "--pdf"], "--pdf writes files: leave --no_save out"),
        (["--train", "--no_save", "--save_every", "3"], "--save_every writes files"),
        (["--table", "x", "--config", "published"], "--table and --config exclude each other"),
        (["--worker", "x", "--no_save"], "--worker takes its settings from x: leave --no_save out"),
        (["--train", "--seed", "1", "--seeds", "2"], "--seed and --seeds exclude each other"),
        (
            ["--worker", "x", "--plateau_factor", "0.1"],
            "settings from x: leave --plateau_f",
        ),
    ],
)
def test_what_would_be_ignored_is_refused(capsys, options, message):
    from main_msaf import build_parser, parse_config

    parser = build_parser()
    with pytest.raises(SystemExit):
        parse_config(parser, vars(parser.parse_args(options)))
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "unused"),
    [
        (["--checkpoint", "x.pth", "--lr", "1", "--patience", "2"], "--lr, --patience"),
        (["--checkpoint", "x.pth", "--dry_run", "--epochs", "1"], "--epochs"),
        (["--checkpoint", "x.pth", "--no_save", "--save_every", "3"], "--save_every"),
        (
            ["--checkpoint", "x.pth", "--predict", "x", "--alignment", "word", "--datadir", "y"],
            "--datadir, --alignment",
        ),
        (["--table", "x", "--loss", "l1"], "--loss"),
        (["--table", "x", "--seed", "1", "--resultdir", "y"], "--seed"),
        (
            ["--checkpoint", "x.pth", "--export", "a.onnx", "--task", "emotion", "--no_native"],
            "--task, --no_native",
        ),
        (["--checkpoint", "x.pth", "--export", "a.onnx", "--model", "mult"], None),
        (["--checkpoint", "x.pth", "--export", "a.onnx", "--pdf"], "--pdf"),
        (["--train", "--plateau_factor", "0.1"], "--plateau_factor"),
        (["--train", "--plateau_factor", "0.1", "--scheduler", "plateau"], None),
        (["--checkpoint", "x.pth", "--datadir", "x", "--batch_size", "2", "--seed", "1"], None),
    ],
)
def test_options_without_effect_bring_a_warning(capsys, options, unused):
    from main_msaf import build_parser, parse_config

    parser = build_parser()
    parse_config(parser, vars(parser.parse_args(options)))
    warning = capsys.readouterr().err
    assert warning.endswith(f"without effect here: {unused}\n") if unused else warning == ""
