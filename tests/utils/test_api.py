"""The programs' work from Python."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from models.checkpoint import write_checkpoint
from models.registry import build
from system.errors import InputError
from tests.forked_programs import ROOT
from tests.own_model import OWN_MODEL
from tests.programs.test_runs import contents
from utils import RunConfig, evaluate, predict, run

WIDTHS = {"visual": 3, "audio": 4, "text": 5}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build("nhfnet", {"layers": 1, "text_hidden": 8}, WIDTHS, 2)


def segments(lengths, seed=0):
    """Random segments: for each modality a list of arrays, as long as `lengths` says."""
    rng = np.random.default_rng(seed)
    columns = zip(*lengths, strict=True)
    return [
        [rng.normal(size=(length, width)).astype(np.float32) for length in column]
        for column, width in zip(columns, WIDTHS.values(), strict=True)
    ]


LENGTHS = [(6, 7, 5), (1, 1, 1), (6, 7, 5), (2, 30, 5), (6, 7, 5)]


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_segments_of_any_lengths_are_predicted_each_as_if_alone(model, batch_size):
    inputs = segments(LENGTHS)
    predictions = predict(model.train(), *inputs, batch_size=batch_size)
    assert model.training
    assert predictions.dtype == np.float32
    with torch.no_grad():
        model.eval()
        expected = [
            model(*(torch.from_numpy(x)[None] for x in segment))[0].tolist()
            for segment in zip(*inputs, strict=True)
        ]
    np.testing.assert_allclose(predictions, expected, atol=1e-5)


def test_arrays_and_tensors_of_any_type_are_taken_and_files_of_weights(model, tmp_path):
    visual, audio, text = (np.stack(kind) for kind in segments([(4, 5, 6)] * 3))
    expected = predict(model, visual, audio, text)
    mixed = predict(model, torch.from_numpy(visual), audio.astype(np.float64), list(text))
    np.testing.assert_array_equal(mixed, expected)
    write_checkpoint(tmp_path / "a.pth", model, "nhfnet")
    from_file = predict(tmp_path / "a.pth", visual, audio, text)
    np.testing.assert_allclose(from_file, expected, atol=1e-6)
    assert predict(str(tmp_path / "a.pth"), visual[:0], audio[:0], text[:0]).shape == (0, 2)


def test_a_file_of_a_users_own_model_is_predicted_when_it_is_named(tmp_path):
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    name, inputs = f"{tmp_path / 'mine.py'}:Mean", segments(LENGTHS)
    own = build(name, {}, WIDTHS, 2)
    write_checkpoint(tmp_path / "own.pth", own, name)
    found = predict(tmp_path / "own.pth", *inputs, model_name=name)
    np.testing.assert_array_equal(found, predict(own, *inputs))
    with pytest.raises(InputError, match=r"give its class: .*\(utils.predict: model_name\)"):
        predict(tmp_path / "own.pth", *inputs)


def test_a_model_may_have_no_parameters():
    class LastText(nn.Module):
        widths, outputs = WIDTHS, 5

        def forward(self, visual, audio, text):
            return text[:, -1]

    inputs = segments(LENGTHS)
    expected = [text[-1] for text in inputs[2]]
    np.testing.assert_array_equal(predict(LastText(), *inputs), expected)


def test_what_is_not_finite_is_read_as_0(model):
    inputs = [np.stack(kind) for kind in segments([(4, 5, 6)] * 2)]
    spoilt = [kind.copy() for kind in inputs]
    for zeros, kind, value in zip(inputs, spoilt, (np.nan, np.inf, -np.inf), strict=True):
        zeros[1, 2, 1], kind[1, 2, 1] = 0, value
    np.testing.assert_array_equal(predict(model, *spoilt), predict(model, *inputs))


def test_predictions_that_are_no_numbers_are_refused_as_by_the_program(model):
    inputs = segments([(4, 5, 6)] * 2)
    inputs[0][1] = inputs[0][1] * np.float32(1e38)
    with pytest.raises(InputError, match=r"predicts nan for segment 1 \(2 such predictions\)"):
        predict(model, *inputs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, a, t: (v, a[:2], t), "numbers of segments differ.*'audio': 2"),
        (lambda v, a, t: (v, a, [x[:, :4] for x in t]), r"text of segment 0 .* \(6, 4\), .* 5\)"),
        (lambda v, a, t: (v, a, [x.T for x in t]), r"text .* \(5, 6\), .* one row; transpose it"),
        (lambda v, a, t: (v[0], a, t), r"visual of segment 0 has shape \(3,\)"),
        (lambda v, a, t: (v, [a[0], a[1], a[2][:0]], t), r"audio of segment 2 .* \(0, 4\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(model, change, message):
    with pytest.raises(InputError, match=message):
        predict(model, *change(*segments([(4, 5, 6)] * 3)))
    for batch_size in (0, True):
        with pytest.raises(InputError, match=f"batch_size is {batch_size}"):
            predict(model, *segments([(4, 5, 6)]), batch_size=batch_size)


def test_a_batch_size_may_be_numpys(model):
    inputs = segments([(4, 5, 6)] * 3)
    predictions = predict(model, *inputs, batch_size=np.int64(2))
    np.testing.assert_array_equal(predictions, predict(model, *inputs, batch_size=2))


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({}, {"resume": "auto", "overwrite": True}, "resume and overwrite exclude each other"),
        ({"save": False}, {"overwrite": True}, "overwrite writes files, but save is False"),
    ],
)
def test_a_run_refuses_what_the_command_line_refuses(small, tmp_path, settings, options, message):
    config = RunConfig(datadir=small, checkpointdir=tmp_path / "run", **settings)
    with pytest.raises(InputError, match=message):
        run(config, **options)
    assert not (tmp_path / "run").exists()


def test_settings_that_save_within_epochs_may_train_without_saving(small, tmp_path):
    """As with --config of such a run and --no_save."""
    settings = {"model": "lf_dnn", "epochs": 1, "save_every": 1, "save": False}
    assert run(RunConfig(datadir=small, checkpointdir=tmp_path / "run", **settings)).scores
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"set": {"layers": 2}}, "set is for training; leave it out: a.pth has its model"),
        ({"finetune_bert": "bert"}, "finetune_bert is for training"),
        ({"bert_lr": 1e-3}, "bert_lr is for training"),
        ({"split": "validation"}, "split is 'validation', expected one of train, val, test"),
    ],
)
def test_an_evaluation_ignores_no_setting(small, settings, message):
    with pytest.raises(InputError, match=message):
        evaluate("a.pth", small, **settings)


def test_a_run_from_python_equals_one_of_the_command_line(main, small, tmp_path):
    options = {"datadir": small, "model": "lf_dnn", "epochs": 1, "batch_size": 25}
    main("--train", *(f"--{name}={value}" for name, value in options.items()))
    config = RunConfig(checkpointdir="second", resultdir="results", **options)
    scores, predictions, folder = run(config)
    assert (folder / "best.pth").read_bytes() == (tmp_path / "checkpoints/best.pth").read_bytes()
    assert contents(folder).keys() >= {"run.json", "metrics.csv", "last.pth"}
    (written,) = tmp_path.glob("results/second-best-*/test/metrics.json")
    assert '"mae"' in written.read_text()
    before = contents(tmp_path)
    evaluation = evaluate(folder / "best.pth", small, save=False)
    assert contents(tmp_path) == before
    assert evaluation.scores == pytest.approx(scores)
    np.testing.assert_allclose(evaluation.predictions, predictions, atol=1e-6)
    with pytest.raises(InputError, match="holds a run"):
        run(config)


def test_names_cost_nothing_until_they_are_used():
    code = "import sys, utils; assert 'torch' not in sys.modules; utils.predict; "
    code += "assert 'torch' in sys.modules; assert not hasattr(utils, 'other')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_scikit_learn_which_is_slow_to_import_is_not_needed_to_train_and_score():
    code = "import sys, utils.training.run; assert not {'sklearn', 'scipy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
