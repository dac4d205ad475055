"""`--finetune_bert`: a text encoder trained along, and all that its checkpoint does without it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from data.preparing.pipeline import prepare
from models.checkpoint import read_checkpoint
from system.errors import InputError
from tests.data.preparing.test_pickle_source import content_of, prepared, written
from tests.data.text.test_bert import CONFIG, random_model, write_vocabulary
from tests.preparation import SINGLE_PROCESS, request
from tests.programs.test_predict import predicted, rows_of, values_of
from utils import predict
from utils.reports import perturbation

TRAIN = ("--train", "--epochs", 1, "--set", "layers=1", "--no_native")


@pytest.fixture
def data(demo, tmp_path):
    """A small dataset from a pickle, its text by a BERT that lies beside."""
    shutil.copytree(demo / "demo_bert", tmp_path / "bert")
    written(tmp_path / "clips.pkl", content_of())
    prepared(tmp_path / "clips.pkl", tmp_path / "data", str(tmp_path / "bert"), dataset="mosei")
    return tmp_path / "data"


@pytest.fixture
def trained(main, data, tmp_path):
    """Train along, and take the BERT away; returns the checkpoint."""
    main("--datadir", data, *TRAIN, "--finetune_bert", "--checkpointdir", "run", "--no_verbose")
    shutil.rmtree(tmp_path / "bert")
    return tmp_path / "run" / "best.pth"


def metrics(tmp_path):
    (path,) = tmp_path.glob("again/*/test/metrics.json")
    return json.loads(path.read_text())


def test_a_checkpoint_is_evaluated_and_predicts_without_the_berts_folder(
    main, data, trained, tmp_path, capsys
):
    (during,) = tmp_path.glob("result/*/test/predictions.csv")
    main("--datadir", data, "--checkpoint", trained, "--resultdir", "again")
    (path,) = tmp_path.glob("again/*/test/predictions.csv")
    evaluated = values_of(rows_of(path))
    np.testing.assert_allclose(evaluated, values_of(rows_of(during)), atol=1e-5)
    shutil.rmtree(tmp_path / "result")
    main("--checkpoint", trained, "--predict", data, "--batch_size", 3)
    from_data = {name: values_of(rows) for name, rows in predicted(tmp_path).items()}
    np.testing.assert_allclose(from_data["test"], evaluated, atol=1e-5)
    shutil.rmtree(tmp_path / "result")
    main("--checkpoint", trained, "--predict", tmp_path / "clips.pkl")
    from_pickle = {name: values_of(rows) for name, rows in predicted(tmp_path).items()}
    for name, expected in from_data.items():
        np.testing.assert_allclose(from_pickle[name], expected, atol=1e-5)


def test_python_predicts_sentences_and_their_pieces(data, trained):
    split = content_of()["test"]
    visual, audio = (np.load(data / "test" / f"{kind}50.npy") for kind in ("visual", "audio"))
    pieces = np.load(data / "test" / "pieces50.npy").swapaxes(1, 2)
    by_sentence = predict(trained, visual, audio, split["raw_text"])
    assert by_sentence.shape == (4, 1)
    np.testing.assert_allclose(predict(trained, visual, audio, pieces), by_sentence, atol=1e-6)
    with pytest.raises(InputError, match="predict: text: word pieces from 0 to 9999"):
        predict(trained, visual, audio, np.where(pieces == 3, 9999, pieces.astype(int)))


def test_a_model_of_features_takes_no_sentences(main, data, tmp_path):
    main("--datadir", data, *TRAIN, "--checkpointdir", "frozen")
    visual, audio = (np.load(data / "test" / f"{kind}50.npy") for kind in ("visual", "audio"))
    with pytest.raises(InputError, match="takes features of text, not sentences"):
        predict(tmp_path / "frozen" / "best.pth", visual, audio, ["a"] * 4)


@pytest.mark.parametrize("suffix", ["safetensors", "onnx"])
def test_it_is_exported_without_the_berts_folder(main, data, trained, tmp_path, suffix):
    main("--checkpoint", trained, "--export", f"out.{suffix}")
    arrays = [np.load(data / "test" / f"{kind}50.npy") for kind in ("visual", "audio", "pieces")]
    arrays[2] = arrays[2].swapaxes(1, 2).astype(np.float32)
    expected = predict(trained, *arrays)
    if suffix == "safetensors":
        found = predict(tmp_path / "out.safetensors", *arrays)
    else:
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession("out.onnx")
        names = ("visual", "audio", "text")
        (found,) = session.run(None, dict(zip(names, arrays, strict=True)))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_it_is_disturbed_and_shown_as_one_of_features(main, data, trained, tmp_path, monkeypatch):
    main("--datadir", data, *TRAIN, "--checkpointdir", "frozen")
    monkeypatch.setitem(perturbation.LEVELS, "missing_random", (0, 100))
    for kind in ("missing_block", "noise", "shift"):
        monkeypatch.setitem(perturbation.LEVELS, kind, (0,))
    frozen = tmp_path / "frozen" / "best.pth"
    common = ("--datadir", data, "--resultdir", "again")
    main(*common, "--checkpoint", trained, "--robustness", "--beside", frozen)
    (path,) = tmp_path.glob("again/*/test/robustness.csv")
    rows = [row for row in rows_of(path) if row["checkpoint"] == str(trained)]
    assert len(rows) * 2 == len(rows_of(path))
    shutil.rmtree(tmp_path / "again")
    main(*common, "--checkpoint", trained, "--attention", 1)
    assert float(rows[0]["mae"]) == pytest.approx(metrics(tmp_path)["mae"], abs=1e-5)
    without_text = next(r for r in rows if (r["modality"], r["level"]) == ("text", "100"))
    assert without_text["mae"] != rows[0]["mae"]
    (path,) = tmp_path.glob("again/*/test/attention/*.npz")
    with np.load(path) as arrays:
        assert arrays["text_over_fused"].shape[1] == 50


def test_by_word_too(main, demo, tmp_path):
    shutil.copytree(demo / "csd", tmp_path / "data" / "csd")
    asked = request(tmp_path / "data", str(demo / "demo_bert"), alignment="word")
    prepare(asked, SINGLE_PROCESS)
    common = ("--datadir", tmp_path / "data", "--alignment", "word")
    main(*common, *TRAIN, "--finetune_bert", "--batch_size", 64, "--checkpointdir", "run")
    checkpoint = tmp_path / "run" / "best.pth"
    assert read_checkpoint(checkpoint).text_encoder["words"] == 50
    main(*common, "--checkpoint", checkpoint, "--attention", 1, "--resultdir", "again")
    (path,) = tmp_path.glob("again/*/test/attention/*.npz")
    with np.load(path) as arrays:
        assert arrays["text_over_fused"].shape[1] == 50
    with pytest.raises(InputError, match=r"are those of --alignment segment, but .* of word"):
        main("--datadir", demo, "--checkpoint", checkpoint)
    written(tmp_path / "clips.pkl", content_of())
    with pytest.raises(InputError, match=r"clips.pkl is not aligned by word, but .* that are"):
        main("--checkpoint", checkpoint, "--predict", tmp_path / "clips.pkl")


def test_a_dry_run_tells_what_learns_and_what_it_costs(main, data, capsys):
    main("--datadir", data, "--finetune_bert", "--dry_run")
    whole = capsys.readouterr().out
    main("--datadir", data, "--finetune_bert", "--dry_run", "--freeze_layers", 1)
    frozen = capsys.readouterr().out

    def learnt(output):
        (line,) = [line for line in output.splitlines() if line.startswith("text_encoder")]
        return int(line.split()[1].replace(",", ""))

    bert = sum(x.numel() for x in _bert(data).values())
    assert learnt(whole) == bert
    assert learnt(frozen) < bert
    assert f"Parameters that stay as they are: {bert - learnt(frozen):,}" in frozen
    assert "Weights, gradients and Adam's moments" in whole
    assert "self_attention_encoder" in whole

    def kept(*options):
        main("--datadir", data, "--finetune_bert", "--dry_run", "--model", "lf_dnn", *options)
        return float(capsys.readouterr().out.strip().split()[-2])

    assert kept("--accumulation_steps", 3) < 0.5 * kept()
    assert kept("--gradient_checkpointing") < 0.7 * kept()


def _bert(data):
    weights = load_file(data.parent / "bert" / "model.safetensors")
    return {name: x for name, x in weights.items() if not name.startswith("pooler")}


def test_a_comparison_trains_along_and_goes_on(main, data, tmp_path, capsys):
    options = ("--compare", "text_only", "lf_dnn", "--seeds", 1, "--datadir", data, "--epochs", 1)
    main(*options, "--finetune_bert", "--checkpointdir", "study", "--batch_size", 3)
    capsys.readouterr()
    main(*options, "--finetune_bert", "--checkpointdir", "study", "--batch_size", 3)
    assert capsys.readouterr().out.count("complete") >= 2
    for name in ("text_only", "lf_dnn"):
        checkpoint = read_checkpoint(tmp_path / "study" / name / "seed1" / "best.pth")
        assert checkpoint.text_encoder["hidden_size"] == 64


def test_a_model_that_leaves_text_out_is_trained_as_it_is(main, data, tmp_path, capsys):
    options = ("--train", "--epochs", 1, "--set", "modalities=audio", "layers=1")
    main("--datadir", data, "--finetune_bert", "--checkpointdir", "run", *options)
    assert "No text encoder is trained along: the model leaves text out" in capsys.readouterr().out
    assert read_checkpoint(tmp_path / "run" / "best.pth").text_encoder is None


def test_training_goes_on_from_checkpoints_of_both_kinds(main, data, trained, tmp_path, demo):
    common = ("--datadir", data, "--train", "--epochs", 1, "--checkpoint")
    main(*common, trained, "--checkpointdir", "more", "--bert_lr", 1e-3)
    before, after = (read_checkpoint(tmp_path / x / "best.pth").weights for x in ("run", "more"))
    name = "text_encoder.bert.encoder.layer.0.output.dense.weight"
    assert not torch.equal(before[name], after[name])
    with pytest.raises(InputError, match="whose model has its text encoder"):
        main(*common, trained, "--finetune_bert", demo / "demo_bert", "--checkpointdir", "c")
    main("--datadir", data, *TRAIN, "--checkpointdir", "frozen")
    frozen = tmp_path / "frozen" / "best.pth"
    main(*common, frozen, "--finetune_bert", demo / "demo_bert", "--checkpointdir", "d")
    assert read_checkpoint(tmp_path / "d" / "best.pth").text_encoder["words"] == 0


def other_vocabulary(data, bert):
    lines = (bert / "vocab.txt").read_text().splitlines()
    lines[-1], lines[-2] = lines[-2], lines[-1]
    (bert / "vocab.txt").write_text("\n".join(lines) + "\n")


def spoilt_pieces(data, bert):
    for split in ("train", "val", "test"):
        pieces = np.load(data / split / "pieces50.npy")
        np.save(data / split / "pieces50.npy", np.where(pieces == 3, 200, pieces))


def without_pieces(data, bert):
    (data / "train" / "pieces50.npy").unlink()


def without_bert(data, bert):
    shutil.rmtree(bert)


def of_another_encoder(data, bert):
    manifest = json.loads((data / "dataset.json").read_text())
    manifest["text"] = {"encoder": "as in clips.pkl"}
    (data / "dataset.json").write_text(json.dumps(manifest))


def with_odd_dropout(data, bert):
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 1}))


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (other_vocabulary, [], "of another vocabulary than the text encoder's"),
        (spoilt_pieces, [], "word pieces from 0 to 200, 50 a text, but the text encoder knows"),
        (without_pieces, [], r"has no pieces50.npy.*dataset_prep.py --datadir"),
        (without_bert, [], "--finetune_bert .*bert is not a folder"),
        (of_another_encoder, [], "--finetune_bert: .* does not say which BERT encoded its text"),
        (with_odd_dropout, [], "hidden_dropout_prob is 1, expected"),
        (None, ["--freeze_layers", 3], "--freeze_layers 3: the text encoder has 2 layers"),
    ],
)
def test_mistakes_are_told_in_a_line(main, data, tmp_path, spoil, options, message):
    if spoil is not None:
        spoil(data, tmp_path / "bert")
    with pytest.raises(InputError, match=message) as caught:
        main("--datadir", data, "--train", "--finetune_bert", *options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("checkpoints/*.pth"))


def test_a_bert_of_another_width_than_the_prepared_one(main, data, tmp_path):
    """A new model takes it; one of a checkpoint cannot."""
    vocabulary = (tmp_path / "bert" / "vocab.txt").read_text().splitlines()
    (tmp_path / "narrow").mkdir()
    write_vocabulary(tmp_path / "narrow", vocabulary)
    config = {**CONFIG, "vocab_size": len(vocabulary)}
    (tmp_path / "narrow" / "config.json").write_text(json.dumps(config))
    bert = random_model(vocab_size=len(vocabulary)).bert.state_dict()
    save_file(dict(bert), tmp_path / "narrow" / "model.safetensors")
    common = ("--datadir", data, *TRAIN[:3], "--finetune_bert", "narrow")
    main(*common, "--checkpointdir", "run", "--set", "layers=1")
    assert read_checkpoint(tmp_path / "run" / "best.pth").text_encoder["hidden_size"] == 16
    main("--datadir", data, "--checkpoint", "run/best.pth")
    main("--datadir", data, *TRAIN, "--checkpointdir", "frozen")
    with pytest.raises(InputError, match=r"16 wide from this BERT, but the model of .* takes 64"):
        main(*common, "--checkpoint", "frozen/best.pth", "--checkpointdir", "more")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint", "a.pth", "--finetune_bert"], "--finetune_bert goes with --train"),
        (["--train", "--bert_lr", "1e-5"], "--bert_lr goes with --finetune_bert"),
        (["--train", "--freeze_layers", "0"], "--freeze_layers goes with --finetune_bert"),
        (["--train", "--gradient_checkpointing"], "--gradient_checkpointing goes with"),
        (["--train", "--finetune_bert", "--bert_lr", "0"], "expected a number above 0"),
    ],
)
def test_what_would_be_ignored_is_refused(main, capsys, options, message):
    with pytest.raises(SystemExit):
        main(*options)
    assert message in capsys.readouterr().err


def test_a_bert_beside_a_checkpoints_own_is_refused(main, trained, tmp_path, demo):
    clips = tmp_path / "clips.pkl"
    with pytest.raises(InputError, match="has its own text encoder; leave --bert out"):
        main("--checkpoint", trained, "--predict", clips, "--bert", demo / "demo_bert")
