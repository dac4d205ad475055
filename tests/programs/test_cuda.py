"""All commands that use a model give the same results on a GPU as on a CPU."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.cuda import needs_cuda
from tests.forked_programs import ROOT


def predictions(path):
    with path.open(newline="", encoding="utf-8") as file:
        return [float(row["prediction"]) for row in csv.DictReader(file)]


@pytest.fixture
def no_warning(recwarn, capsys):
    """The test fails if the project warns of something; PyTorch may."""
    yield
    assert "warning:" not in capsys.readouterr().err
    rooms = [ROOT / name for name in ("system", "data", "models", "utils")]
    ours = [x for x in recwarn if set(Path(x.filename).parents) & set(rooms)]
    assert [str(x.message) for x in ours] == []


@needs_cuda
@pytest.mark.parametrize("model", ["nhfnet", "mult", "lf_dnn", "text_only --finetune_bert"])
def test_what_was_trained_on_a_gpu_is_evaluated_the_same_on_both(main, demo, tmp_path, model):
    options = ["--datadir", demo, "--no_verbose", "--batch_size", 32]
    main(*options, "--train", "--epochs", 1, "--device", "cuda", "--model", *model.split())
    (run,) = tmp_path.glob("checkpoints/run.json")
    assert "cuda" in json.dumps(json.loads(run.read_text())["config"])
    options += ["--checkpoint", tmp_path / "checkpoints" / "best.pth"]
    results = {}
    for device in ("cpu", "cuda"):
        main(*options, "--device", device, "--resultdir", device)
        (path,) = tmp_path.glob(f"{device}/*/test/predictions.csv")
        results[device] = predictions(path)
    assert results["cuda"] == pytest.approx(results["cpu"], abs=1e-4)


@needs_cuda
def test_all_that_is_done_with_a_checkpoint(main, demo, tmp_path, no_warning):
    options = ["--datadir", demo, "--batch_size", 32, "--device", "cuda"]
    main(*options, "--train", "--epochs", 1, "--precision", "bfloat16")
    options += ["--checkpoint", tmp_path / "checkpoints" / "best.pth"]
    main(*options, "--robustness")
    main(*options, "--attention", 2)
    main(*options, "--predict", demo)
    main(*options, "--bootstrap", 100, "--precision", "bfloat16")
    main(*options, "--dry_run")


@needs_cuda
@pytest.mark.parametrize(
    "options",
    [
        ["--model", "lf_dnn"],
        ["--compile"],
        ["--finetune_bert", "--precision", "bfloat16", "--accumulation_steps", 2],
        ["--finetune_bert", "--gradient_checkpointing", "--freeze_layers", 0],
    ],
)
def test_other_ways_to_train(main, demo, tmp_path, no_warning, options):
    main("--datadir", demo, "--train", "--epochs", 1, "--device", "cuda", *options)
    assert (tmp_path / "checkpoints" / "best.pth").is_file()
