"""`--predict`: a dataset or a pickle to predictions.csv."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from data.manifest import write_manifest
from data.text.encoder import TextEncoder
from models.checkpoint import write_checkpoint
from models.registry import build
from system.errors import InputError
from tests.data.loading.test_split import write_split
from tests.data.preparing.test_pickle_source import content_of, written
from tests.programs.test_runs import contents

ARRAYS = {"visual": 35, "audio": 74, "text": 16}  # of write_split
PICKLE = {"visual": 3, "audio": 7, "text": 768}  # of content_of
IDS = [f"a,{row}[0]" for row in range(11)]


@pytest.fixture
def checkpoint(tmp_path):
    """Write an untrained model of some widths; returns its file."""

    def write(widths=ARRAYS, outputs=1, **details):
        torch.manual_seed(0)
        model = build("nhfnet", {"layers": 1}, widths, outputs)
        write_checkpoint(tmp_path / "run" / "best.pth", model, "nhfnet", **details)
        return tmp_path / "run" / "best.pth"

    return write


@pytest.fixture
def data(tmp_path):
    for split in ("train", "test"):
        write_split(tmp_path / "data" / split, ids=IDS)
    return tmp_path / "data"


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def predicted(tmp_path):
    """Return the rows of each predicted split, of all results."""
    return {
        path.parent.name: rows_of(path)
        for path in tmp_path.glob("result/*/predicted/*/predictions.csv")
    }


def values_of(rows):
    return [float(row["prediction"]) for row in rows]


def test_a_dataset_is_predicted_as_it_is_evaluated(main, checkpoint, data, tmp_path, capsys):
    path = checkpoint()
    main("--datadir", data, "--checkpoint", path)
    (evaluated,) = tmp_path.glob("result/*/test/predictions.csv")
    before = contents(tmp_path)
    main("--checkpoint", path, "--predict", data, "--batch_size", 3)
    splits = predicted(tmp_path)
    assert list(splits) in (["train", "test"], ["test", "train"])
    rows = splits["test"]
    assert [row["id"] for row in rows] == IDS
    assert {row["sentence"] for row in rows} == {"0"}
    expected = values_of(rows_of(evaluated))
    np.testing.assert_allclose(values_of(rows), expected, atol=1e-5)
    assert [int(row["class"]) for row in rows] == np.clip(np.round(expected), -3, 3).tolist()
    assert "11 predictions are in result/" in capsys.readouterr().out
    assert before.items() <= contents(tmp_path).items()


@pytest.mark.parametrize("label", ["nan", "none"])
def test_a_split_needs_no_labels_and_no_table(main, checkpoint, data, tmp_path, label):
    (data / "test" / "segments.csv").unlink()
    if label == "nan":
        np.save(data / "test" / "label50.npy", np.full((11, 1, 1), np.nan))
    else:
        (data / "test" / "label50.npy").unlink()
    main("--checkpoint", checkpoint(), "--predict", data / "test", "--num_workers", 1)
    (rows,) = predicted(tmp_path).values()
    assert [(row["id"], row["sentence"]) for row in rows] == [(str(k), "") for k in range(11)]
    with pytest.raises(InputError, match=r"label50.npy|is not labelled"):
        main("--checkpoint", checkpoint(), "--datadir", data)


def test_a_pickle_is_predicted_whatever_its_labels_are(main, checkpoint, tmp_path):
    content = content_of()
    content["test"]["regression_labels"][1:3] = np.nan, 9
    path = written(tmp_path / "in" / "clips.pkl", content)
    main("--checkpoint", checkpoint(PICKLE), "--predict", path)
    found = predicted(tmp_path)
    assert {name: len(rows) for name, rows in found.items()} == {"train": 6, "val": 3, "test": 4}
    assert [row["id"] for row in found["test"]] == ["test0[0]", "test0[1]", "test1[2]", "test1[3]"]
    assert [row["sentence"] for row in found["test"]] == content["test"]["raw_text"]
    assert [file.name for file in path.parent.iterdir()] == ["clips.pkl"]


def test_a_pickle_without_text_features_wants_a_bert(main, checkpoint, demo, tmp_path):
    content = content_of()["test"]
    del content["text"], content["regression_labels"]
    path, widths = written(tmp_path / "clips.pkl", content), {**PICKLE, "text": 64}
    with pytest.raises(InputError, match=r"clips.pkl has words, but no text features; give --bert"):
        main("--checkpoint", checkpoint(widths), "--predict", path)
    assert not predicted(tmp_path)
    main("--checkpoint", checkpoint(widths), "--predict", path, "--bert", demo / "demo_bert")
    assert len(predicted(tmp_path)["test"]) == 4


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({**PICKLE, "text": 768}, r"^--bert .*demo_bert: text is 64 wide, but the model takes 768"),
        ({**PICKLE, "visual": 35, "text": 64}, r"clips.pkl/test: visual is 3 wide, but"),
    ],
)
def test_widths_are_compared_before_a_sentence_is_encoded(
    main, checkpoint, demo, tmp_path, monkeypatch, widths, message
):
    path = written(tmp_path / "clips.pkl", content_of()["test"])
    monkeypatch.setattr(TextEncoder, "start", None)
    with pytest.raises(InputError, match=message):
        main("--checkpoint", checkpoint(widths), "--predict", path, "--bert", demo / "demo_bert")
    assert not predicted(tmp_path)


@pytest.mark.parametrize("scores", ["mosei", "sims", "unknown", ["sims"]])
def test_classes_are_those_of_the_scale_that_was_trained_on(
    main, checkpoint, data, tmp_path, scores
):
    main("--checkpoint", checkpoint(dataset={"scores": scores}), "--predict", data / "test")
    (rows,) = predicted(tmp_path).values()
    words = {row["class"] for row in rows}
    assert words <= (
        {"negative", "weakly -", "neutral", "weakly +", "positive"}
        if scores == "sims"
        else {"-3", "-2", "-1", "0", "+1", "+2", "+3"}
    )


def test_emotions_are_predicted_by_name(main, checkpoint, data, tmp_path):
    main("--checkpoint", checkpoint(outputs=6, task="emotion"), "--predict", data / "test")
    (rows,) = predicted(tmp_path).values()
    assert list(rows[0])[:3] == ["id", "happy_prediction", "happy_class"]
    for row in rows:
        assert row["fear_class"] == ("present" if float(row["fear_prediction"]) > 0 else "absent")


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("nowhere", [], "there is no nowhere"),
        ("run", [], r"run: no train.pkl, dev.pkl or test.pkl"),
        ("data/test", ["--bert", "b"], "--bert goes with a pickle; data/test is prepared"),
        ("clips.pkl", [], r"^clips.pkl/train: visual is 3 wide, but the model takes 35"),
    ],
)
def test_mistakes_are_told(main, checkpoint, data, tmp_path, path, options, message):
    written(tmp_path / "clips.pkl", content_of())
    with pytest.raises(InputError, match=message):
        main("--checkpoint", checkpoint(), "--predict", path, *options)
    assert not predicted(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train"], "--predict and --train exclude"),
        (["--dry_run"], "--predict and --dry_run exclude"),
        (["--no_save"], "leave --no_save out"),
    ],
)
def test_what_does_not_go_with_it_is_told(main, capsys, options, message):
    with pytest.raises(SystemExit):
        main("--checkpoint", "a.pth", "--predict", "b", *options)
    assert message in capsys.readouterr().err


def test_a_split_that_is_the_working_folder_is_looked_at_like_another(
    main, checkpoint, data, monkeypatch
):
    path = checkpoint()
    rows = {"rows": {"test": "another"}}
    write_manifest(data, {"made_from": {}, "splits": {}, "left_out": {}, "text": None, **rows})
    monkeypatch.chdir(data / "test")
    with pytest.raises(InputError, match=r"data/test/segments.csv was changed"):
        main("--checkpoint", path, "--predict", ".")


def test_an_exported_model_predicts_as_the_checkpoint_does(main, checkpoint, data, tmp_path):
    main("--checkpoint", checkpoint(), "--export", "out/a.safetensors")
    for file in ("run/best.pth", "out/a.safetensors"):
        main("--checkpoint", file, "--predict", data / "test")
    first, second = map(rows_of, tmp_path.glob("result/*/predicted/test/predictions.csv"))
    assert first == second


def aligned(folder, alignment):
    """Write a dataset's manifest with this alignment."""
    made_from = {"dataset": "d", "scores": "mosei", "alignment": alignment}
    splits = {name: {"segments": 11, "videos": 11} for name in ("train", "test")}
    write_manifest(folder, {"made_from": made_from, "splits": splits, "left_out": {}, "text": None})


@pytest.mark.parametrize("what", ["", "--predict", "--robustness"])
def test_data_of_another_alignment_are_told(main, checkpoint, data, what, capsys):
    path = checkpoint(dataset={"alignment": "segment", "scores": "mosei"})
    aligned(data, "word")
    asked = {"": (), "--predict": (what, data), "--robustness": (what,)}[what]
    with pytest.warns(UserWarning, match="was trained on segment data, this is word"):
        main("--datadir", data, "--checkpoint", path, *asked)
    if what == "--predict":
        with pytest.warns(UserWarning, match="was trained on segment data, this is word"):
            main("--checkpoint", path, what, data / "test")


@pytest.mark.parametrize("alignment", ["segment", "as in clips.pkl"])
def test_data_that_may_be_of_the_same_alignment_are_predicted_in_silence(
    main, checkpoint, data, alignment, recwarn
):
    aligned(data, alignment)
    path = checkpoint(dataset={"alignment": "segment", "scores": "mosei"})
    main("--checkpoint", path, "--predict", data)
    assert not [one for one in recwarn if "trained on" in str(one.message)]


def test_values_beyond_every_network_are_told_not_the_weights(main, checkpoint, data):
    """numpy.nan_to_num makes such values from COVAREP's -inf."""
    path = data / "test/audio50.npy"
    values = np.load(path)
    values[3, -1, 5] = np.finfo(np.float32).min
    np.save(path, values)
    with pytest.raises(InputError, match=r"audio50.npy has values up to 3.403e\+38 there; numpy"):
        main("--checkpoint", checkpoint(), "--predict", data / "test")


@pytest.mark.parametrize("what", ["", "--predict", "--robustness"])
@pytest.mark.parametrize("value", [torch.zeros(2), ["segment"], {"a": 1}, 3])
def test_what_a_damaged_checkpoint_says_of_its_data_is_passed_over(
    main, checkpoint, data, what, value, recwarn
):
    path = checkpoint(dataset={"alignment": value, "scores": value})
    aligned(data, "word")
    asked = {"": (), "--predict": (what, data), "--robustness": (what,)}[what]
    main("--datadir", data, "--checkpoint", path, *asked)
    assert not [one for one in recwarn if "trained on" in str(one.message)]
