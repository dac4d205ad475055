"""`--finetune_bert`: training a text encoder, and all commands on its checkpoint."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import huggingface_hub
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
from tests.programs.test_runs import contents
from utils import predict
from utils.reports import perturbation

TRAIN = ("--train", "--epochs", 1, "--set", "layers=1", "--no_native")


@pytest.fixture
def data(demo, tmp_path):
    """A small dataset from a pickle; the BERT of its text is in the folder beside it."""
    shutil.copytree(demo / "demo_bert", tmp_path / "bert")
    written(tmp_path / "clips.pkl", content_of())
    prepared(tmp_path / "clips.pkl", tmp_path / "data", str(tmp_path / "bert"), dataset="mosei")
    return tmp_path / "data"


@pytest.fixture
def trained(main, data, tmp_path):
    """Fine-tune the BERT, and move its folder away; returns the checkpoint."""
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


@pytest.mark.parametrize("named", [[], ["bert"]])
def test_an_interrupted_comparison_goes_on_without_the_berts_folder(main, data, tmp_path, named):
    compare = ["--compare", "lf_dnn", "--datadir", data, "--epochs", 1, "--no_verbose"]
    compare += ["--checkpointdir", "study", "--finetune_bert", *named]
    main(*compare)
    (path,) = (tmp_path / "study").glob("lf_dnn/*/run.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "result": None}))
    shutil.rmtree(tmp_path / "bert")
    main(*compare)
    assert json.loads(path.read_text())["result"] == record["result"]


def test_python_predicts_sentences_and_their_pieces(data, trained):
    split = content_of()["test"]
    visual, audio = (np.load(data / "test" / f"{kind}50.npy") for kind in ("visual", "audio"))
    pieces = np.load(data / "test" / "pieces50.npy").swapaxes(1, 2)
    by_sentence = predict(trained, visual, audio, split["raw_text"])
    assert by_sentence.shape == (4, 1)
    np.testing.assert_allclose(predict(trained, visual, audio, pieces), by_sentence, atol=1e-6)
    np.testing.assert_array_equal(predict(trained, visual, audio, pieces), by_sentence)

    def refused(changed, message):
        with pytest.raises(InputError, match=message):
            predict(trained, visual, audio, changed)

    refused(np.where(pieces == 3, 9999, pieces.astype(int)), "text: word pieces from 0 to 9999")
    refused(np.where(pieces == 3, 2.7, pieces), "text: word pieces must be whole numbers")
    masked = pieces.astype(int)
    masked[-1, 0, 1] = -50
    refused(masked, "text: the mask of word pieces from -50 to 1, expected from 0 to 1")
    refused([*split["raw_text"][:3], pieces[3]], "3 of 4 texts are sentences; give all as")
    refused("fine", "text is one sentence; give a list")


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
        predictions = predict(tmp_path / "out.safetensors", *arrays)
    else:
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession("out.onnx")
        names = ("visual", "audio", "text")
        (predictions,) = session.run(None, dict(zip(names, arrays, strict=True)))
    np.testing.assert_allclose(predictions, expected, atol=1e-4)


def test_it_is_disturbed_and_shown_as_one_of_features(
    main, data, trained, tmp_path, monkeypatch, capsys
):
    main("--datadir", data, *TRAIN, "--checkpointdir", "frozen")
    monkeypatch.setitem(perturbation.LEVELS, "missing_random", (0, 100))
    for kind in ("missing_block", "noise", "shift"):
        monkeypatch.setitem(perturbation.LEVELS, kind, (0,))
    frozen = tmp_path / "frozen" / "best.pth"
    common = ("--datadir", data, "--resultdir", "again")
    main(*common, "--checkpoint", trained, "--robustness", "--beside", frozen)
    (path,) = tmp_path.glob("again/*/robustness/test/robustness.csv")
    rows = [row for row in rows_of(path) if row["checkpoint"] == str(trained)]
    assert len(rows) * 2 == len(rows_of(path))
    shutil.rmtree(tmp_path / "again")
    main(*common, "--checkpoint", trained, "--attention", 1)
    assert "are numbered" not in capsys.readouterr().err  # the checkpoint has the vocabulary
    assert float(rows[0]["mae"]) == pytest.approx(metrics(tmp_path)["mae"], abs=1e-5)
    without_text = next(r for r in rows if (r["modality"], r["level"]) == ("text", "100"))
    assert without_text["mae"] != rows[0]["mae"]
    (path,) = tmp_path.glob("again/*/test/attention/*.npz")
    with np.load(path) as arrays:
        assert arrays["text_over_fused"].shape[1] == 50
        assert arrays["text_over_fused_rows"][0] == "[CLS]"


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

    def trainable(output):
        (line,) = [line for line in output.splitlines() if line.startswith("text_encoder")]
        return int(line.split()[1].replace(",", ""))

    bert = sum(x.numel() for x in _bert(data).values())
    assert trainable(whole) == bert
    assert trainable(frozen) < bert
    assert f"Parameters that stay as they are: {bert - trainable(frozen):,}" in frozen
    assert "Weights, gradients and Adam's moments" in whole
    assert "self_attention_encoder" in whole

    def activations(*options):
        main("--datadir", data, "--finetune_bert", "--dry_run", "--model", "lf_dnn", *options)
        return float(capsys.readouterr().out.strip().split()[-2])

    assert activations("--accumulation_steps", 3) < 0.5 * activations()
    assert activations("--gradient_checkpointing") < 0.8 * activations()  # of two layers


def _bert(data):
    weights = load_file(data.parent / "bert" / "model.safetensors")
    return {name: x for name, x in weights.items() if not name.startswith("pooler")}


def test_a_dry_run_prints_the_size_of_last_and_of_activations(main, data, capsys):
    def sizes(*options):
        main("--datadir", data, "--finetune_bert", "--dry_run", "--model", "lf_dnn", *options)
        output = capsys.readouterr().out
        written = re.search(r"and one of ([0-9.]+) MB to resume from", output)[1]
        return float(written), float(output.strip().split()[-2])

    last, activations = sizes()
    main("--datadir", data, *TRAIN[:3], "--finetune_bert", "--model", "lf_dnn")
    assert last == pytest.approx((Path("checkpoints") / "last.pth").stat().st_size / 2**20, rel=0.1)
    capsys.readouterr()
    elsewhere = ("--checkpointdir", "another")
    assert sizes("--precision", "bfloat16", *elsewhere)[1] != activations
    assert sizes("--freeze_layers", 1, *elsewhere)[0] < last


def test_a_comparison_trains_along_and_goes_on(main, data, tmp_path, capsys):
    options = ("--compare", "text_only", "lf_dnn", "--seeds", 1, "--datadir", data, "--epochs", 1)
    main(*options, "--finetune_bert", "--checkpointdir", "study", "--batch_size", 3)
    capsys.readouterr()
    main(*options, "--finetune_bert", "--checkpointdir", "study", "--batch_size", 3)
    assert capsys.readouterr().out.count("complete") >= 2
    for name in ("text_only", "lf_dnn"):
        checkpoint = read_checkpoint(tmp_path / "study" / name / "seed1" / "best.pth")
        assert checkpoint.text_encoder["hidden_size"] == 64


def test_another_bert_in_the_same_folder_is_noticed_by_studies(main, data, tmp_path):
    options = ("--datadir", data, "--epochs", 1, "--finetune_bert", tmp_path / "bert")
    study = (*options, "--compare", "text_only", "lf_dnn", "--checkpointdir", "study", "--seeds", 1)
    (tmp_path / "space.json").write_text('{"lr": [0.001, 0.002]}')
    search = (*options, "--checkpointdir", "search", "--space", "space.json", "--tune", 1)
    search = (*search, "--model", "lf_dnn", "--no_verbose")
    main(*study)
    main(*search)
    other_weights(data, tmp_path / "bert")
    for command, folder in ((study, "study/text_only/seed1"), (search, "search")):
        before = contents(tmp_path / folder)
        with pytest.raises(InputError, match=f"{folder} holds a .* with BERT .*/bert, [0-9a-f]+, "):
            main(*command)
        assert contents(tmp_path / folder) == before


def test_a_search_says_once_a_trial_what_is_left_out(main, data, tmp_path, capsys):
    (tmp_path / "space.json").write_text('{"lr": [0.001, 0.002]}')
    options = ("--datadir", data, "--epochs", 1, "--finetune_bert", "--set", "modalities=audio")
    main(*options, "--space", "space.json", "--tune", 2, "--no_verbose", "--no_native")
    out = capsys.readouterr().out
    trainings = 2 + 1  # two trials, and the best of them
    assert out.count("nhfnet leaves out: text, visual") == trainings
    assert out.count("No text encoder is fine-tuned") == trainings


def test_a_model_that_leaves_text_out_is_trained_as_it_is(main, data, tmp_path, capsys):
    options = ("--train", "--epochs", 1, "--set", "modalities=audio", "layers=1")
    main("--datadir", data, "--finetune_bert", "--checkpointdir", "run", *options)
    assert "No text encoder is fine-tuned: the model leaves text out" in capsys.readouterr().out
    assert read_checkpoint(tmp_path / "run" / "best.pth").text_encoder is None


def test_training_goes_on_from_checkpoints_of_both_kinds(main, data, trained, tmp_path, demo):
    common = ("--datadir", data, "--train", "--epochs", 1, "--checkpoint")
    main(*common, trained, "--checkpointdir", "more", "--bert_lr", 1e-3)
    before, after = (read_checkpoint(tmp_path / x / "best.pth").weights for x in ("run", "more"))
    name = "text_encoder.bert.encoder.layer.0.output.dense.weight"
    assert not torch.equal(before[name], after[name])
    with pytest.raises(InputError, match="whose model has its text encoder"):
        main(*common, trained, "--finetune_bert", demo / "demo_bert", "--checkpointdir", "c")
    main(*common, trained, "--config", tmp_path / "run" / "run.json", "--checkpointdir", "c")
    assert read_checkpoint(tmp_path / "c" / "best.pth").text_encoder is not None
    main("--datadir", data, *TRAIN, "--checkpointdir", "frozen")
    frozen = tmp_path / "frozen" / "best.pth"
    for option in (["--bert_lr", 5], ["--freeze_layers", 99], ["--gradient_checkpointing"]):
        with pytest.raises(InputError, match=f"{option[0]} is for a text encoder .* has none"):
            main(*common, frozen, *option, "--checkpointdir", "d")
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


def odd_masks(data, bert):
    pieces = np.load(data / "val" / "pieces50.npy")
    pieces[-1, 1, 0] = 7
    np.save(data / "val" / "pieces50.npy", pieces)


def endless_pieces(data, bert):
    """A text longer than any memory, which takes no room on the disk."""
    path = data / "train" / "pieces50.npy"
    shape = (len(np.load(path)), 2, 10**11)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + shape[0] * 2 * 10**11)


def single_rows(data, bert):
    pieces = np.load(data / "val" / "pieces50.npy")
    np.save(data / "val" / "pieces50.npy", pieces[:, :1])


def without_pieces(data, bert):
    (data / "train" / "pieces50.npy").unlink()


def without_bert(data, bert):
    shutil.rmtree(bert)


def other_weights(data, bert):
    weights = load_file(bert / "model.safetensors")
    save_file({name: x + 1 for name, x in weights.items()}, bert / "model.safetensors")


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
        (spoilt_pieces, [], "word pieces from 0 to 200, but the text encoder knows"),
        (odd_masks, [], r"val: the mask of word pieces from 0 to 7, expected from 0 to 1; prepare"),
        (endless_pieces, [], "100000000000 word pieces a text, but the text encoder takes"),
        (single_rows, [], "val: 1 rows of word pieces a text, expected 2; prepare the data again"),
        (without_pieces, [], r"has no pieces50.npy.*dataset_prep.py --datadir"),
        (without_bert, [], "--finetune_bert: .*bert, which .* is not a folder any more; put it"),
        (other_weights, [], "--finetune_bert: .*bert, which .* has other weights now; put it back"),
        (of_another_encoder, [], "--finetune_bert: .* does not say which BERT encoded its text"),
        (with_odd_dropout, [], "hidden_dropout_prob is 1: expected"),
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
    """A new model takes it, in a search too; one of a checkpoint cannot."""
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
    (tmp_path / "space.json").write_text('{"bert_lr": [1e-3], "text_hidden": [8]}')
    of_search = ("--tune", 1, "--model", "lf_dnn", "--space", "space.json", "--batch_size", 3)
    main("--datadir", data, *of_search, *common[3:], "--checkpointdir", "found")
    chosen = tmp_path / "found" / "tuned" / "lf_dnn" / "seed20" / "best.pth"
    assert read_checkpoint(chosen).text_encoder["hidden_size"] == 16
    main("--datadir", data, *TRAIN, "--checkpointdir", "frozen")
    with pytest.raises(InputError, match=r"16 wide from this BERT, but the model of .* takes 64"):
        main(*common, "--checkpoint", "frozen/best.pth", "--checkpointdir", "more")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint", "a.pth", "--finetune_bert"], "--finetune_bert goes with --train"),
        (["--checkpoint", "a.pth", "--bert_lr", "1"], "--bert_lr goes with --train"),
        (["--checkpoint", "a.pth", "--dry_run", "--finetune_bert"], "--finetune_bert goes with"),
        (["--table", "runs", "--finetune_bert"], "--finetune_bert goes with --train"),
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


def test_a_pickle_without_words_is_no_matter_of_an_option(main, trained, tmp_path):
    content = content_of()
    for split in content.values():
        del split["raw_text"]
        split.pop("text_bert", None)
    written(tmp_path / "nosent.pkl", content)
    with pytest.raises(InputError, match=r"neither raw_text nor .* predicts from words alone\.$"):
        main("--checkpoint", trained, "--predict", tmp_path / "nosent.pkl")


def test_empty_sentences_are_told(main, trained, tmp_path, capsys):
    content = content_of()
    content["test"]["raw_text"][:2] = ["", " "]
    written(tmp_path / "silent.pkl", content)
    main("--checkpoint", trained, "--predict", tmp_path / "silent.pkl")
    (warning,) = [x for x in capsys.readouterr().err.splitlines() if "empty" in x]
    assert f"{tmp_path / 'silent.pkl'}: 2 of 4 sentences of test are empty" in warning


def test_a_name_is_taken_at_the_commit_that_encoded_the_text(main, data, tmp_path, monkeypatch):
    manifest = json.loads((data / "dataset.json").read_text())
    commit = "c" * 40
    manifest["text"] |= {"encoder": "somebody/bert", "weights": None, "commit": commit}
    (data / "dataset.json").write_text(json.dumps(manifest))
    (tmp_path / "bert").rename(tmp_path / commit)
    asked = set()

    def download(name, file, revision=None):
        asked.add((name, revision))
        return str(tmp_path / commit / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    main("--datadir", data, *TRAIN, "--finetune_bert")
    assert asked == {("somebody/bert", commit)}
    origin = read_checkpoint(tmp_path / "checkpoints" / "best.pth").text_encoder["origin"]
    assert origin == f"somebody/bert, commit {commit}"


def test_a_training_goes_on_with_the_text_encoder_of_its_file(main, data, tmp_path, demo):
    options = ("--datadir", data, "--train", "--set", "layers=1", "--resume", "auto")
    main(*options, "--epochs", 1, "--finetune_bert")
    last = tmp_path / "checkpoints" / "last.pth"
    begun = read_checkpoint(last)
    name = str(tmp_path / "bert")
    other_weights(data, tmp_path / "bert")
    other_vocabulary(data, tmp_path / "bert")
    main(*options, "--epochs", 2, "--finetune_bert", name)
    shutil.rmtree(tmp_path / "bert")
    main(*options, "--epochs", 3, "--finetune_bert")
    after = read_checkpoint(last)
    assert after.details["training"]["epoch"] == 4
    assert after.text_encoder == begun.text_encoder
    with pytest.raises(InputError, match=f"last.pth began with {name}; leave the name out"):
        main(*options, "--epochs", 4, "--finetune_bert", demo / "demo_bert")
