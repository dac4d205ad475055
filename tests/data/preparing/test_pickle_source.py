"""Processed pickles of every kind that circulates, prepared."""

from __future__ import annotations

import json
import pickle
import warnings

import numpy as np
import pytest
import torch

from data.checking.check import check_dataset
from data.fetching.server import DATASET_NAMES
from data.labels import SCALES
from data.layout import SPLITS, read_segments
from data.loading.split import Split
from data.preparing.pickle_source import PickleSource
from data.preparing.pipeline import prepare
from data.preparing.plan import decide
from data.preparing.printing import plan_rows
from data.preparing.request import Request, TextRequest
from system.errors import InputError
from tests.preparation import SINGLE_PROCESS

SIZES = {"train": 6, "valid": 3, "test": 4}
OURS = {"train": "train", "valid": "val", "test": "test"}


def split_of(name, n, **changes):
    rng = np.random.default_rng(n)
    return {
        "raw_text": [" ".join(row) for row in rng.choice(["great", "bad", "movie"], (n, 4))],
        "audio": rng.normal(size=(n, 5, 7)).astype(np.float32),
        "vision": rng.normal(size=(n, 4, 3)).astype(np.float32),
        "text": rng.normal(size=(n, 6, 768)).astype(np.float32),
        "regression_labels": np.float32([-3, 3, *rng.uniform(-3, 3, n)][:n]),
        "id": [f"{name}{k // 2}$_${k}" for k in range(n)],
        **changes,
    }


def content_of():
    return {name: split_of(name, n) for name, n in SIZES.items()}


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return path


def prepared(path, datadir, bert=None, **options):
    source = PickleSource(path, **{"uses_own_text": bert is None, **options})
    text = None if bert is None else TextRequest(bert, "float32", "cpu")
    return prepare(Request(datadir, "segment", source, text), SINGLE_PROCESS)


@pytest.fixture(scope="module")
def bert(demo):
    return str(demo / "demo_bert")


def segments(folder):
    return Split(folder)[range(len(Split(folder)))]


# ---------------------------------------------------------------- another dataset of the same name


def test_another_dataset_of_the_same_name_replaces_none_unless_forced(tmp_path):
    """MMSA calls the file of each of its datasets aligned_50.pkl."""
    first = written(tmp_path / "MOSEI/aligned_50.pkl", content_of())
    content = {name: split_of(f"other-{name}", n) for name, n in SIZES.items()}
    second = written(tmp_path / "MOSI/aligned_50.pkl", content)
    datadir = tmp_path / "data"
    prepared(first, datadir)
    before = {path: path.read_bytes() for path in datadir.rglob("*.*") if path.is_file()}
    with pytest.raises(InputError, match=r"data holds other videos \(such as test0\) than"):
        prepared(second, datadir)
    after = {path: path.read_bytes() for path in datadir.rglob("*.*") if path.is_file()}
    assert after == before
    source = PickleSource(second, uses_own_text=True)
    prepare(Request(datadir, "segment", source, None, is_forced=True), SINGLE_PROCESS)
    assert Split(datadir / "train").videos[0] == "other-train0"


def test_a_file_with_some_videos_more_replaces_what_is_there(tmp_path):
    path, content = tmp_path / "aligned_50.pkl", content_of()
    prepared(written(path, content), tmp_path / "data")
    content["test"] = split_of("new", SIZES["test"])
    prepared(written(path, content), tmp_path / "data")
    assert set(Split(tmp_path / "data/test").videos) == {"new0", "new1"}


# ---------------------------------------------------------------- an array a segment


def test_splits_whose_longest_segments_differ_are_of_one_length(tmp_path):
    """As --check expects; else it called wrong what had just been prepared."""
    content = content_of()
    for longest, split in enumerate(content.values(), start=3):
        for key in ("vision", "audio"):
            split[key] = [rows[: min(1 + k, longest)] for k, rows in enumerate(split[key])]
    prepared(written(tmp_path / "ragged.pkl", content), tmp_path / "data")
    report = check_dataset(tmp_path / "data")
    assert report.problems == []
    for theirs, ours in OURS.items():
        batch = segments(tmp_path / "data" / ours)
        for key, features in (("vision", batch.visual), ("audio", batch.audio)):
            assert features.shape[1] == 4
            for values, rows in zip(features.numpy(), content[theirs][key], strict=True):
                np.testing.assert_array_equal(values[-len(rows) :], rows)
                assert not values[: -len(rows)].any()


def test_text_of_another_length_in_each_split_is_of_one_length(tmp_path):
    content = content_of()
    for longest, split in enumerate(content.values(), start=3):
        split["text"] = [rows[: min(1 + k, longest)] for k, rows in enumerate(split["text"])]
    prepared(written(tmp_path / "ragged.pkl", content), tmp_path / "data")
    assert check_dataset(tmp_path / "data").problems == []
    for theirs, ours in OURS.items():
        text = segments(tmp_path / "data" / ours).text.numpy()
        assert text.shape[1] == 4
        for values, rows in zip(text, content[theirs]["text"], strict=True):
            np.testing.assert_array_equal(values[-len(rows) :], rows)
            assert not values[: -len(rows)].any()


@pytest.mark.parametrize("empty", [slice(0, 0), slice(-1, None), slice(0, 1)])
def test_padded_text_of_another_length_in_each_split_is_padded_where_it_is(tmp_path, empty):
    """[CLS] is the first row in each split, unless the file's padding is in front."""
    content = content_of()
    for length, split in zip((6, 5, 4), content.values(), strict=True):
        split["text"] = split["text"][:, :length].copy()
        split["text"][1:, empty] = 0
    prepared(written(tmp_path / "file.pkl", content), tmp_path / "data")
    for theirs, ours in OURS.items():
        expected, missing = content[theirs]["text"], 6 - content[theirs]["text"].shape[1]
        padding = (missing, 0) if empty == slice(0, 1) else (0, missing)
        expected = np.pad(expected, ((0, 0), padding, (0, 0)))
        np.testing.assert_array_equal(segments(tmp_path / "data" / ours).text, expected)


def test_word_pieces_of_another_length_in_each_split_are_of_one_length(tmp_path, bert):
    content = content_of()
    for length, split in enumerate(content.values(), start=4):
        ids = np.tile(np.arange(2, 2 + length), (len(split["id"]), 1))
        split["text_bert"] = np.stack([ids, np.ones_like(ids), np.zeros_like(ids)], axis=1)
        del split["raw_text"], split["text"]
    prepared(written(tmp_path / "pieces.pkl", content), tmp_path / "data", bert)
    assert [x for x in check_dataset(tmp_path / "data").problems if "rows" in x.line] == []
    for (theirs, ours), length in zip(OURS.items(), (4, 5, 6), strict=True):
        pieces = np.load(tmp_path / "data" / ours / "pieces50.npy")
        assert pieces.shape == (SIZES[theirs], 2, 6)
        np.testing.assert_array_equal(pieces[:, :, :length], content[theirs]["text_bert"][:, :2])
        assert not pieces[:, :, length:].any()


def test_one_long_segment_does_not_take_memory_for_all_other_splits(tmp_path, monkeypatch):
    monkeypatch.setattr("data.formats.pickles.ALWAYS_FITS", 10_000)
    content = content_of()
    content["valid"]["audio"] = np.ones((3, 1000, 7), np.float32)
    prepared(written(tmp_path / "long.pkl", content), tmp_path / "data")  # of a size alike
    for split in ("train", "test"):
        content[split] |= {"audio": np.ones((SIZES[split], 1, 7), np.float32)}
    content["valid"] = split_of("valid", 1, audio=np.ones((1, 10_000, 7), np.float32))
    content["train"] = split_of("train", 200, audio=np.ones((200, 1, 7), np.float32))
    with pytest.raises(InputError, match="audio has from 1 to 10,000 rows a segment"):
        prepared(written(tmp_path / "long.pkl", content), tmp_path / "other")


# ---------------------------------------------------------------- whose labels they are


def sims(tmp_path, missing=()):
    content = content_of()
    for split in content.values():
        split["regression_labels"] = np.clip(split["regression_labels"] / 3, -1, 1)
    content["train"]["regression_labels"][list(missing)] = np.nan
    return written(tmp_path / "unaligned_39.pkl", content)


def test_labels_like_those_of_sims_are_refused_until_it_is_said(program, tmp_path):
    command = ["dataset_prep.py", "--from", sims(tmp_path), "--datadir", tmp_path / "d"]
    done = program(*command)
    assert done.returncode == 2
    assert "all labels lie in [-1, 1], as SIMS's do" in done.stderr
    assert "--dataset sims" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list((tmp_path / "d").glob("*/*.npy"))
    for dataset in ("sims", "mosi"):
        done = program(*command, "--dataset", dataset)
        assert done.returncode == 0, done.stderr
        manifest = json.loads((tmp_path / "d" / "dataset.json").read_text())
        assert manifest["made_from"]["scores"] == dataset
        assert Split(tmp_path / "d" / "val").scores == dataset
    assert "weakly" not in program("dataset_prep.py", "--datadir", tmp_path / "d", "--check").stdout


def test_a_label_that_is_missing_does_not_hide_whose_the_others_are(tmp_path):
    with pytest.raises(InputError, match="as SIMS's do"):
        prepared(sims(tmp_path, missing=[0]), tmp_path / "d")


def test_sims_has_scores_of_its_own_from_training_to_evaluation(program, tmp_path):
    prepared(sims(tmp_path), tmp_path, dataset="sims")
    folders = ["--checkpointdir", tmp_path / "c", "--resultdir", tmp_path / "r"]
    options = ["--datadir", tmp_path, "--device", "cpu", "--no_native", *folders]
    done = program("main_msaf.py", "--train", "--epochs", "1", *options)
    assert done.returncode == 0, done.stderr
    for score in ("Acc-3", "Acc-5"):
        assert score in done.stdout
    assert "Acc-7" not in done.stdout
    checkpoint = torch.load(tmp_path / "c" / "best.pth", weights_only=True)
    assert checkpoint["dataset"]["scores"] == "sims"
    (metrics,) = (tmp_path / "r").glob("*/test/metrics.json")
    assert {"acc3", "acc5"} < json.loads(metrics.read_text()).keys()
    prepared(written(tmp_path / "cmu.pkl", content_of()), tmp_path / "cmu")
    done = program(
        *["main_msaf.py", "--checkpoint", tmp_path / "c" / "best.pth", *options],
        *["--datadir", tmp_path / "cmu"],
    )
    assert done.returncode == 0, done.stderr
    assert "was trained on sims data, this is mosei" in done.stderr


def test_every_dataset_has_a_scale():
    assert set(DATASET_NAMES) == set(SCALES)


def test_sims_has_no_csd_files(program, tmp_path):
    done = program("dataset_prep.py", "--dataset", "sims", "--datadir", tmp_path)
    assert done.returncode == 2
    assert "--dataset sims has no .csd files" in done.stderr


def test_labels_and_splits_by_other_names_are_not_passed_over_in_silence(tmp_path):
    content = content_of()
    for split in content.values():
        split["label"] = split.pop("regression_labels")
    with pytest.warns(UserWarning, match="no number among them, in train, val, test"):
        prepared(written(tmp_path / "x.pkl", content), tmp_path / "x")
    content = content_of()
    content["val"] = content.pop("valid")
    content["val"]["regression_labels"][:] = np.nan
    with pytest.warns(UserWarning, match="no number among them, in val"):
        prepared(written(tmp_path / "z.pkl", content), tmp_path / "z")
    content = content_of()
    content = {"train": content["train"], "validation": content["valid"], "Test": content["test"]}
    with (
        pytest.warns(UserWarning, match="'Test' in it is not used: names of splits are"),
        pytest.raises(InputError, match="holds 'train', 'validation', expected"),
    ):
        prepared(written(tmp_path / "y.pkl", content), tmp_path / "y")
    content["test"] = content.pop("Test")
    prepared(written(tmp_path / "y.pkl", content), tmp_path / "y")
    assert len(Split(tmp_path / "y" / "val")) == SIZES["valid"]


def test_labels_that_cannot_be_are_left_out_by_reason(tmp_path):
    content = content_of()
    content["train"]["regression_labels"][[1, 2, 4]] = [np.nan, 3.5, -np.inf]
    manifest = prepared(written(tmp_path / "file.pkl", content), tmp_path)
    assert manifest["left_out"] == {"label is no number": 2, "label is outside [-3, 3]": 1}
    assert check_dataset(tmp_path).problems == []
    valid_rows = [0, 3, 5]
    batch = segments(tmp_path / "train")
    np.testing.assert_array_equal(batch.audio, content["train"]["audio"][valid_rows])
    np.testing.assert_array_equal(batch.text, content["train"]["text"][valid_rows])
    assert Split(tmp_path / "train").ids == ["train0[0]", "train1[3]", "train2[5]"]


def test_a_split_of_which_nothing_is_left_is_refused(tmp_path):
    content = content_of()
    content["valid"]["regression_labels"][:] = 4
    with pytest.raises(
        InputError, match=r"No segment is left in val \(3 because the label is outside"
    ):
        prepared(written(tmp_path / "file.pkl", content), tmp_path)
    assert not (tmp_path / "val").exists()


# ---------------------------------------------------------------- other forms of the same


def ragged(array, rng):
    return [row[: rng.integers(1, len(row) + 1)] for row in array]


@pytest.mark.parametrize("as_objects", [False, True])
def test_arrays_that_are_not_padded_get_zeros_in_front(tmp_path, as_objects):
    content, rng = content_of(), np.random.default_rng(1)
    rows_of = {}
    for name, split in content.items():
        rows = ragged(split["audio"], rng)
        rows[0], rows[1] = split["audio"][0], split["audio"][1, :2]
        # The last row of its own is zero.
        rows[2] = np.concatenate([rows[2], np.zeros((1, 7), np.float32)])[:5]
        rows_of[name] = rows
        split["audio"] = rows
        if as_objects:
            split["audio"] = np.empty(len(rows), dtype=object)
            split["audio"][:] = rows
    prepared(written(tmp_path / "file.pkl", content), tmp_path)
    for name, rows in rows_of.items():
        audio = segments(tmp_path / OURS[name]).audio.numpy()
        for segment, expected in zip(audio, rows, strict=True):
            np.testing.assert_array_equal(segment[5 - len(expected) :], expected)
            assert not segment[: 5 - len(expected)].any()


@pytest.mark.parametrize(
    "form",
    [
        lambda labels: [np.array([label]) for label in labels],
        lambda labels: [[float(label)] for label in labels],
        lambda labels: [np.array([[label]]) for label in labels],
        lambda labels: [np.array(label) for label in labels],
        lambda labels: torch.tensor(labels),
    ],
)
def test_labels_in_any_form(tmp_path, form):
    content = content_of()
    labels = {name: split["regression_labels"] for name, split in content.items()}
    for split in content.values():
        split["regression_labels"] = form(split["regression_labels"])
    prepared(written(tmp_path / "file.pkl", content), tmp_path)
    for name, expected in labels.items():
        np.testing.assert_array_equal(Split(tmp_path / OURS[name]).labels[:, 0], expected)


def test_tensors_from_torch_save(tmp_path):
    content = content_of()
    for split in content.values():
        for key in ("audio", "vision", "text", "regression_labels"):
            split[key] = torch.from_numpy(split[key])
    torch.save(content, tmp_path / "file.pt")
    prepared(tmp_path / "file.pt", tmp_path)
    np.testing.assert_array_equal(segments(tmp_path / "val").audio, content["valid"]["audio"])


def test_names_of_mmsas_feature_extraction(tmp_path):
    content = content_of()
    for split in content.values():
        for theirs, ours in (("T", "text"), ("A", "audio"), ("V", "vision")):
            split[f"feature_{theirs}"] = split.pop(ours)
    prepared(written(tmp_path / "file.pkl", content), tmp_path)
    np.testing.assert_array_equal(segments(tmp_path / "val").text, content["valid"]["feature_T"])
    np.testing.assert_array_equal(segments(tmp_path / "val").visual, content["valid"]["feature_V"])


def test_a_file_without_ids(program, tmp_path):
    content = content_of()
    for split in content.values():
        del split["id"]
    prepared(written(tmp_path / "file.pkl", content), tmp_path)
    assert Split(tmp_path / "val").ids == ["val[0]", "val[1]", "val[2]"]
    assert program("dataset_prep.py", "--datadir", tmp_path, "--check").returncode == 0


@pytest.mark.parametrize("name", ["dev", "val"])
def test_validation_by_another_name(tmp_path, name):
    content = content_of()
    content[name] = content.pop("valid")
    prepared(written(tmp_path / "file.pkl", content), tmp_path)
    np.testing.assert_array_equal(segments(tmp_path / "val").audio, content[name]["audio"])


# ---------------------------------------------------------------- word by word

WORDS = "good bad movie film it".split()


def mag_items(name, lengths, width=1):
    rng = np.random.default_rng(len(lengths))
    items = []
    for k, length in enumerate(lengths):
        words = rng.choice(WORDS, length).tolist()
        rows = rng.normal(size=(length, 3)).astype(np.float32), rng.normal(size=(length, 7))
        rows[0][-1:] = 0  # a word without a face is a word
        label = rng.uniform(-3, 3, (1, width)).astype(np.float32)
        items.append(((words, *rows), label, f"{name}{k // 2}[{k}]"))
    return items


LENGTHS = {"train": [3, 1, 60, 12], "dev": [2, 5], "test": [50, 4, 51]}


def write_mag(tmp_path, width=1):
    items = {name: mag_items(name, lengths, width) for name, lengths in LENGTHS.items()}
    return written(tmp_path / "mosi.pkl", items), items


def write_misa(tmp_path, width=7):
    items = {name: mag_items(name, lengths, width) for name, lengths in LENGTHS.items()}
    for name, split in items.items():
        with_numbers = [
            ((np.arange(len(words)), visual, audio, words), label, segment)
            for (words, visual, audio), label, segment in split
        ]
        written(tmp_path / "MOSI" / f"{name}.pkl", with_numbers)
    return tmp_path / "MOSI", items


@pytest.mark.parametrize("write", [write_mag, write_misa])
@pytest.mark.parametrize("width", [1, 7])
def test_segments_word_by_word_stay_aligned(program, tmp_path, bert, write, width):
    path, items = write(tmp_path, width)
    datadir = tmp_path / "data"
    manifest = prepared(path, datadir, bert, uses_own_text=True)
    assert manifest["made_from"]["alignment"] == "word"
    assert manifest["text"]["per"] == "word"
    for theirs, ours in (("train", "train"), ("dev", "val"), ("test", "test")):
        split, batch = Split(datadir / ours), segments(datadir / ours)
        assert split.ids == [segment for _, _, segment in items[theirs]]
        assert split.labels.shape[1] == width
        tables = read_segments(datadir / ours)
        for row, ((words, visual, audio), label, _) in enumerate(items[theirs]):
            length = min(len(words), 50)
            assert tables[row]["sentence"].split(" ") == words
            np.testing.assert_array_equal(split.labels[row], label[0])
            for features, expected in ((batch.visual, visual), (batch.audio, audio)):
                assert features.shape[1] == 50
                np.testing.assert_allclose(features[row, -length:], expected[-length:], rtol=1e-6)
                assert not features[row, : 50 - length].any()
            assert batch.text[row, -length:].any(dim=1).all()
            assert not batch.text[row, : 50 - length].any()
    done = program("dataset_prep.py", "--datadir", datadir, "--check")
    assert done.returncode == 0, done.stderr


def test_a_segment_without_words_is_left_out(tmp_path):
    path, items = write_mag(tmp_path)
    items["dev"].append((([], np.zeros((0, 3)), np.zeros((0, 7))), np.ones((1, 1)), "x[0]"))
    manifest = prepared(written(path, items), tmp_path)
    assert manifest["left_out"] == {"segment has no words": 1}
    assert manifest["splits"]["val"]["segments"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda item: ((item[0][0], item[0][1][:-1], item[0][2]), *item[1:]),
            "vision is (4, 3), ",
        ),
        (lambda item: ((item[0][0], item[0][1], 5), *item[1:]), "audio is int, expected 5 rows"),
        (
            lambda item: (([1] * 5, *item[0][1:]), *item[1:]),
            "a word is of type int, exp",
        ),
        (lambda item: ((5, *item[0][1:]), *item[1:]), "words are of type int, expected a list"),
        (lambda item: item[:2], "is no segment"),
        (lambda item: (None, *item[1:]), "is no segment"),
    ],
)
def test_segments_that_are_none_are_refused_by_number(tmp_path, change, message):
    path, items = write_mag(tmp_path)
    items["dev"][1] = change(items["dev"][1])
    with pytest.raises(InputError) as caught:
        prepared(written(path, items), tmp_path)
    assert f"{path}: split 'dev', item 1" in str(caught.value)
    assert message in str(caught.value)


def test_a_folder_without_pickles_is_refused(program, tmp_path):
    done = program("dataset_prep.py", "--from", tmp_path, "--datadir", tmp_path / "d")
    assert done.returncode == 2
    assert "no train.pkl, dev.pkl or test.pkl in this folder" in done.stderr


@pytest.mark.parametrize("protocol", range(6))
def test_words_are_known_by_the_files_first_bytes(tmp_path, protocol):
    path, items = write_mag(tmp_path)
    for content, expected in ((items, True), (content_of(), False)):
        path.write_bytes(pickle.dumps(content, protocol))
        assert PickleSource(path, uses_own_text=True).is_by_word == expected


def test_words_behind_something_else_are_refused(tmp_path):
    path, items = write_mag(tmp_path)
    written(path, {"about": list(range(100)), **items})
    with pytest.raises(InputError, match="has segments word by word, but does not begin with"):
        prepared(path, tmp_path)


@pytest.mark.parametrize("names", [["train", "dev", "test"], ["test"]])
def test_a_folder_of_arrays_is_told_as_such(tmp_path, names):
    for number, name in enumerate(names):
        written(tmp_path / "misa" / f"{name}.pkl", split_of(name, 3 + number))
    with pytest.raises(InputError, match="splits that are dicts of arrays, expected lists of seg"):
        prepared(tmp_path / "misa", tmp_path / "data")


# ---------------------------------------------------------------- one modality from elsewhere


def test_one_modality_from_another_file(program, tmp_path):
    main, audio, visual = content_of(), content_of(), content_of()
    rng = np.random.default_rng(0)
    for name, split in audio.items():
        n = SIZES[name]
        split["audio"] = rng.normal(size=(n, 9, 25)).astype(np.float32)
        del split["vision"], split["text"], split["raw_text"], split["regression_labels"]
        order = rng.permutation(n)
        split["audio"], split["id"] = split["audio"][order], [split["id"][k] for k in order]
    for name, split in visual.items():
        split["vision"] = rng.normal(size=(SIZES[name], 2, 709)).astype(np.float32)
    audio["train"]["id"][2] = "nobody$_$1"
    visual["test"]["id"][:2] = ["nobody$_$1", "nobody$_$2"]
    for name, content in (("main", main), ("audio", audio), ("visual", visual)):
        written(tmp_path / f"{name}.pkl", content)
    done = program(
        *["dataset_prep.py", "--from", tmp_path / "main.pkl", "--datadir", tmp_path],
        *["--audio", tmp_path / "audio.pkl", "--visual", tmp_path / "visual.pkl"],
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "dataset.json").read_text())
    assert manifest["left_out"] == {
        "segment has no audio in audio.pkl": 1,
        "segment is in audio.pkl only": 1,
        "segment has no visual in visual.pkl": 2,
        "segment is in visual.pkl only": 2,  # not the one that audio.pkl lacks
    }
    assert set(manifest["made_from"]["files"]) == {"pickle", "audio", "visual"}
    for name in SIZES:
        split, batch = Split(tmp_path / OURS[name]), segments(tmp_path / OURS[name])
        numbers = [int(segment.split("[")[1][:-1]) for segment in split.ids]
        names = [f"{name}{k // 2}$_${k}" for k in numbers]
        audio_rows = [audio[name]["id"].index(id_) for id_ in names]
        np.testing.assert_array_equal(batch.audio, audio[name]["audio"][audio_rows])
        np.testing.assert_array_equal(batch.visual, visual[name]["vision"][numbers])
        np.testing.assert_array_equal(batch.text, main[name]["text"][numbers])
    assert len(Split(tmp_path / "train")) == SIZES["train"] - 1
    assert len(Split(tmp_path / "test")) == SIZES["test"] - 2


def test_a_segment_that_is_only_in_the_file_of_both_modalities_counts_once(tmp_path):
    other = content_of()
    other["train"]["id"][2] = "nobody$_$1"
    path = written(tmp_path / "other.pkl", other)
    main = written(tmp_path / "main.pkl", content_of())
    assert prepared(main, tmp_path, audio=path, visual=path)["left_out"] == {
        "segment has no audio in other.pkl": 1,
        "segment is in other.pkl only": 1,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda split: split.pop("id"), "has no 'id', by which"),
        (lambda split: split.update(id=["a$_$1"] * len(split["id"])), r"has the id 'a\[1\]' twice"),
        (lambda split: split.update(id=range_ids(split)), "No segment is left"),
        (lambda split: split.pop("audio"), "has no 'audio'"),
        (lambda split: split.update(audio=wider(split)), "audio is of different widths"),
    ],
)
def test_files_that_cannot_be_joined_are_refused(tmp_path, change, message):
    other = content_of()
    for split in other.values():
        change(split)
    audio = written(tmp_path / "audio.pkl", other)
    with pytest.raises(InputError, match=message):
        prepared(written(tmp_path / "main.pkl", content_of()), tmp_path, audio=audio)


def test_a_file_by_word_takes_no_other_by_time(tmp_path, bert):
    path, _ = write_mag(tmp_path)
    audio = written(tmp_path / "audio.pkl", content_of())
    with pytest.raises(InputError, match=r"audio.pkl: is not aligned by word, as .* is"):
        prepared(path, tmp_path / "data", bert, uses_own_text=True, audio=audio)


def wider(split):
    n = len(split["id"])
    return np.zeros((n, 5, n), np.float32)


def range_ids(split):
    return [f"{len(split['id'])} {k}" for k in range(len(split["id"]))]


def test_numbers_in_the_order_of_a_file_are_no_ids_to_join_by(tmp_path):
    """A video's third segment of one file is not for sure the third of another."""
    main, other = content_of(), content_of()
    for name, split in other.items():
        n = SIZES[name]
        split["id"] = [[f"{name}0", k, k + 1.0] for k in range(n)]
    for name, split in main.items():
        split["id"] = [f"{name}0[{k}]" for k in range(SIZES[name])]
    audio = written(tmp_path / "audio.pkl", other)
    with pytest.raises(InputError, match="No segment is left"):
        prepared(written(tmp_path / "main.pkl", main), tmp_path, audio=audio)


@pytest.mark.parametrize("option", ["--audio", "--visual"])
def test_another_file_goes_with_a_first_one(program, tmp_path, option):
    done = program("dataset_prep.py", option, "x.pkl", "--datadir", tmp_path)
    assert done.returncode == 2
    assert f"{option} goes with --from" in done.stderr


# ---------------------------------------------------------------- nothing to score


def unlabelled(name, n):
    split = split_of(name, n)
    del split["regression_labels"]
    return split


@pytest.mark.parametrize("is_flat", [False, True])
def test_one_split_without_labels_is_a_dataset(program, tmp_path, bert, is_flat):
    content = unlabelled("new", 3)
    path = written(tmp_path / "new.pkl", content if is_flat else {"test": content})
    with pytest.warns(UserWarning, match="768 wide, are not used"):
        manifest = prepared(path, tmp_path, bert)
    assert list(manifest["splits"]) == ["test"]
    split = Split(tmp_path / "test")
    assert np.isnan(split.labels).all()
    np.testing.assert_array_equal(segments(tmp_path / "test").audio, content["audio"])
    assert [row["sentiment"] for row in read_segments(tmp_path / "test")] == [""] * 3
    assert not (tmp_path / "train").exists()
    source = PickleSource(path, uses_own_text=False)
    plan = decide(Request(tmp_path, "segment", source, TextRequest(bert, "float32", "cpu")))
    assert plan.is_done
    assert len(plan_rows(plan)) == 2
    done = program("dataset_prep.py", "--datadir", tmp_path, "--check")
    assert done.returncode == 0, done.stderr
    assert "No labels in test: there is nothing to score" in done.stdout


def test_evaluation_and_training_say_that_there_is_nothing_to_score(program, tmp_path):
    labelled = tmp_path / "labelled"
    prepared(written(tmp_path / "file.pkl", content_of()), labelled)
    options = ["--device", "cpu", "--no_native", "--checkpointdir", tmp_path / "c"]
    options += ["--resultdir", tmp_path / "r"]
    train = ["main_msaf.py", "--train", "--epochs", "1", *options]
    assert program(*train, "--datadir", labelled).returncode == 0
    content = {name: unlabelled(name, n) for name, n in SIZES.items()}
    prepared(written(tmp_path / "new.pkl", content), tmp_path)
    checkpoint = ["--checkpoint", tmp_path / "c" / "best.pth"]
    for command in ([*train, "--overwrite"], ["main_msaf.py", *checkpoint, *options]):
        done = program(*command, "--datadir", tmp_path)
        assert done.returncode == 2
        assert "is not labelled: there is nothing to score" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_two_splits_are_a_file_cut_short(tmp_path):
    content = content_of()
    del content["valid"]
    with pytest.raises(InputError, match="holds 'train', 'test', expected 'train', 'valid'"):
        prepared(written(tmp_path / "file.pkl", content), tmp_path)


def test_splits_that_a_new_file_does_not_have_go(tmp_path):
    path = written(tmp_path / "file.pkl", content_of())
    prepared(path, tmp_path)
    written(path, {"test": content_of()["test"]})
    prepared(path, tmp_path)
    assert not list((tmp_path / "train").iterdir())
    assert [split for split in SPLITS if list((tmp_path / split).iterdir())] == ["test"]


# ---------------------------------------------------------------- warnings


def warned(content, tmp_path, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prepared(written(tmp_path / "file.pkl", content), tmp_path / "out", **options)
    return [str(warning.message) for warning in caught]


def test_of_usual_data_nothing_is_told(tmp_path):
    assert warned(content_of(), tmp_path) == []


@pytest.mark.parametrize(("key", "kind"), [("vision", "visual"), ("audio", "audio"), ("text",) * 2])
def test_features_that_are_all_zero_are_told_and_fail_the_check(tmp_path, key, kind):
    content = content_of()
    content["train"][key][1:] = 0
    expected = f"train: all {kind} features are zero, NaN or infinite in 5 of 6 segments"
    assert warned(content, tmp_path) == [expected]
    problem, *_ = check_dataset(tmp_path / "out").problems
    name = "bert" if key == "text" else kind
    assert f"train/{name}50.npy: all zero, NaN or infinite in 83 %" in problem.line


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize(("key", "kind"), [("vision", "visual"), ("text", "text")])
def test_features_without_a_finite_number_are_told_as_zeros_are(tmp_path, key, kind, value):
    content = content_of()
    for split in content.values():
        split[key][:] = value
        split[key][0, 0] = 0
    expected = f"test: all {kind} features are zero, NaN or infinite in 4 of 4 segments"
    assert warned(content, tmp_path)[-1] == expected
    lines = [problem.line for problem in check_dataset(tmp_path / "out").problems]
    assert sum("all zero, NaN or infinite in 100 %" in line for line in lines) == len(content)
    assert not any("--bert" in line for line in lines)


def test_repeated_ids_are_told(tmp_path):
    content = content_of()
    content["train"]["id"][1] = content["train"]["id"][0]
    assert warned(content, tmp_path) == ["train: 1 ids are repeated, such as 'train0[0]' (2 times)"]


def test_a_video_in_two_splits_is_told(tmp_path):
    content = content_of()
    content["valid"]["id"][0] = "train0$_$9"
    (line,) = warned(content, tmp_path)
    assert line.startswith("1 videos are in both train and val, such as 'train0'")


def test_the_same_split_three_times_is_told(tmp_path):
    split = split_of("same", 6)
    without_ids = {key: value for key, value in split.items() if key != "id"}
    lines = warned(dict.fromkeys(SIZES, without_ids), tmp_path)
    assert [line.split(" have the same features")[0] for line in lines] == [
        "train and val",
        "train and test",
        "val and test",
    ]


def test_sentences_that_the_bert_does_not_know_are_told_and_fail_the_check(tmp_path, bert):
    content = content_of()
    content["train"]["raw_text"] = [f"{word} {word} movie" for word in "猫 犬 鳥 魚 馬 牛".split()]
    lines = warned(content, tmp_path, bert=bert)
    assert "does not know 67 % of the word pieces" in lines[-1]
    assert "and 100 % of the different sentences have the features of another" in lines[-1]
    problems = check_dataset(tmp_path / "out").problems
    assert [problem.line.split("train/")[1].split(";")[0] for problem in problems] == [
        "bert50.npy: the text encoder did not know 67 % of the word pieces",
        "bert50.npy: 100 % of the different sentences have the features of another",
    ]


def test_arrays_in_fortran_order_are_written_in_c_order(tmp_path):
    content = content_of()
    for split in content.values():
        for key in ("audio", "vision", "text"):
            split[key] = np.asfortranarray(split[key])
    prepared(written(tmp_path / "file.pkl", content), tmp_path)
    batch = segments(tmp_path / "val")
    for kind, key in (("audio", "audio"), ("visual", "vision"), ("text", "text")):
        np.testing.assert_array_equal(getattr(batch, kind), content["valid"][key])
