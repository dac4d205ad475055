"""Each kind of damage to a prepared dataset is told in a line of its own, and nothing else is."""

from __future__ import annotations

import csv
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib import pyplot as plt

from data.checking import check as inspection
from data.checking import figures
from data.checking.check import ArraySummary, SplitSummary, check_dataset
from data.checking.figures import plot_dataset
from data.checking.printing import print_report
from data.labels import SCALES
from data.layout import SEGMENT_COLUMNS, SPLITS, read_ids, read_segments
from data.manifest import write_manifest
from data.preparing.split_writer import SplitWriter
from system.errors import InputError

SHAPES = {"visual": (6, 3), "audio": (6, 4), "label": (1, 7)}
TEXT = (5, 8)
SEGMENTS = {"train": 6, "val": 4, "test": 3}  # two of a video


def write_dataset(folder, text=True):
    """Write a small dataset as a preparation would."""
    rng = np.random.default_rng(0)
    counts = {}
    for split, count in SEGMENTS.items():
        drawn = {kind: rng.normal(size=(count, *shape)) for kind, shape in SHAPES.items()}
        drawn["label"] = np.round(3 * rng.uniform(-3, 3, (count, 1, 7)).astype(np.float32)) / 3
        rows = [
            (f"{split}{k // 2}[{k % 2}]", f"{split}{k // 2}", k % 2, k % 2 + 0.5 + k, "a word")
            for k in range(count)
        ]
        with SplitWriter(folder / split, SHAPES) as writer:
            writer.write(drawn, rows)
        counts[split] = writer.counts
        if text:
            np.save(folder / split / "bert50.npy", rng.normal(size=(count, *TEXT)))
    write_manifest(
        folder,
        {
            "made_from": {"lengths": {"visual": 6, "audio": 6}},
            "splits": counts,
            "left_out": {},
            "text": {"length": TEXT[0], "width": TEXT[1]} if text else None,
        },
    )
    return folder


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path)


def problems(folder):
    """Return the problems, each a line that names a file, without the dataset's folder."""
    lines = [problem.line for problem in check_dataset(folder).problems]
    assert all(len(line.splitlines()) == 1 and str(folder) in line for line in lines)
    return [line.replace(f"{folder}/", "") for line in lines]


def set_value(path, index, value):
    array = np.load(path)
    array[index] = value
    np.save(path, array)


def change_rows(folder, change):
    """Let `change` alter the rows of a segment table."""
    rows = read_segments(folder)
    change(rows)
    with (folder / "segments.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, SEGMENT_COLUMNS)
        table.writeheader()
        table.writerows(rows)


def set_manifest(folder, keys, value):
    manifest = json.loads((folder / "dataset.json").read_text())
    field = manifest
    for key in keys[:-1]:
        field = field[key]
    field[keys[-1]] = value
    (folder / "dataset.json").write_text(json.dumps(manifest))


def swap(first, second):
    temporary = first.with_name("temporary")
    first.rename(temporary)
    second.rename(first)
    temporary.rename(second)


def test_the_demo_is_whole(demo):
    report = check_dataset(demo)
    assert (report.problems, report.notes) == ([], [])


def test_the_arrays_are_described_as_they_are(demo):
    report = check_dataset(demo)
    assert list(report.splits) == list(SPLITS)
    for name, split in report.splits.items():
        assert list(split.arrays) == ["visual", "audio", "label", "text"]
        for summary in split.arrays.values():
            array = np.load(demo / name / summary.file.name)
            finite = array[np.isfinite(array)]
            assert (summary.shape, summary.dtype) == (array.shape, array.dtype)
            assert (summary.minimum, summary.maximum) == (finite.min(), finite.max())
            assert (summary.nan, summary.infinite) == (0, np.isinf(array).sum())
            assert summary.zero_rows == (array == 0).all(axis=2).sum()
        rows = read_segments(demo / name)
        assert split.seconds.tolist() == [float(row["end"]) - float(row["start"]) for row in rows]
        assert split.sentiments.tolist() == [float(row["sentiment"]) for row in rows]
        assert split.arrays["visual"].padding > 0.3
        assert split.arrays["text"].padding == 0


VALUES = st.sampled_from([0.0, 0.0, -0.0, 1.5, -2.0, np.nan, np.inf, -np.inf])


@given(
    array=arrays(np.float32, st.tuples(*[st.integers(1, 5)] * 3), elements=VALUES),
    size=st.integers(1, 3),
)
def test_statistics_do_not_depend_on_the_blocks(array, size):
    summary = ArraySummary(None, array.shape, array.dtype)
    for start in range(0, len(array), size):
        summary.add(array[start : start + size], start)
    finite = array[np.isfinite(array)]
    assert summary.nan == np.isnan(array).sum()
    assert summary.infinite == np.isinf(array).sum()
    assert summary.minimum == min(finite, default=np.inf)
    assert summary.maximum == max(finite, default=-np.inf)
    assert summary.zero_rows == sum(not row.any() for segment in array for row in segment)
    padding = 0
    for segment in array:
        for row in segment:
            if row.any():
                break
            padding += 1
    assert summary.padding == padding / (array.shape[0] * array.shape[1])
    bad = [k for k, segment in enumerate(array) if not np.isfinite(segment).all()]
    assert summary.first_not_finite == (bad[0] if bad else None)


def test_a_class_is_the_nearest_whole_sentiment():
    split = SplitSummary({}, np.array([-3, -2.6, 0.4, 2 / 3], np.float32), np.array([]))
    expected = {"-3": 0.5, "-2": 0, "-1": 0, "0": 0.25, "+1": 0.25, "+2": 0, "+3": 0}
    assert split.class_shares(SCALES["mosei"]) == expected


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES = {
    "a label other than the table's": (
        lambda d: (
            set_value(d / "val/label50.npy", (1, 0, 0), 2),
            change_rows(d / "val", lambda rows: rows[1].update(sentiment="-1.0")),
        ),
        [
            "val/segments.csv: 1 sentiment other than in label50.npy, the first -1.0 of val0[1] "
            "(segment 1); expected 2.0."
        ],
    ),
    "sentiments that are no numbers": (
        lambda d: (
            set_value(d / "val/label50.npy", (slice(2, 4), 0, 0), 2),
            change_rows(d / "val", lambda rows: [row.update(sentiment="x") for row in rows[2:]]),
        ),
        [
            "val/segments.csv: 2 sentiments other than in label50.npy, the first x of val1[0] "
            "(segment 2); expected 2.0."
        ],
    ),
    "sentiment 5": (
        lambda d: set_value(d / "test/label50.npy", (2, 0, 0), 5),
        [
            "test/label50.npy: 1 label outside [-3, 3], the first 5 in segment 2; expected none.",
        ],
    ),
    "an emotion of -4": (
        lambda d: set_value(d / "test/label50.npy", (slice(1, 3), 0, 6), -4),
        [
            "test/label50.npy: 2 labels outside [-3, 3], the first -4 in segment 1; expected none.",
        ],
    ),
    "a label NaN": (
        lambda d: set_value(d / "test/label50.npy", (1, 0, 0), np.nan),
        [
            "test/label50.npy: 1 NaN and 0 infinite values, the first in segment 1; expected "
            "numbers only."
        ],
    ),
    "NaN and inf in text": (
        lambda d: (
            set_value(d / "train/bert50.npy", (3, 1, 1), -np.inf),
            set_value(d / "train/bert50.npy", (4, 1, slice(2)), np.nan),
        ),
        [
            "train/bert50.npy: 2 NaN and 1 infinite values, the first in segment 3; expected "
            "numbers only."
        ],
    ),
    "NaN and inf in audio and visual": (
        lambda d: (
            set_value(d / "train/audio50.npy", (3, 1), -np.inf),
            set_value(d / "train/visual50.npy", (3, 1), np.nan),
        ),
        [],
    ),
    "a truncated file": (
        lambda d: cut_short(d / "train/visual50.npy"),
        [
            "train/visual50.npy is damaged: shape (6, 6, 3) needs 560 bytes, it has 559; prepare "
            "the dataset again."
        ],
    ),
    "a missing array": (
        lambda d: (d / "train/audio50.npy").unlink(),
        ["No file train/audio50.npy; prepare the dataset (again) with dataset_prep.py."],
    ),
    "missing text": (
        lambda d: (d / "val/bert50.npy").unlink(),
        ["No file val/bert50.npy; prepare the dataset (again) with dataset_prep.py."],
    ),
    "a missing table": (
        lambda d: (d / "val/segments.csv").unlink(),
        ["No file val/segments.csv, expected one row a segment in it."],
    ),
    "a table without columns": (
        lambda d: (d / "val/segments.csv").write_text("id,video\n"),
        [
            "val/segments.csv has columns ['id', 'video'], expected ['id', 'video', 'start', "
            "'end', 'sentence', 'sentiment']; save it with commas and these names."
        ],
    ),
    "a missing split": (
        lambda d: (d / "val").rename(d / "validation"),
        ["No folder val; expected train, val, test in DATASET."],
    ),
    "swapped files": (
        lambda d: swap(d / "val/audio50.npy", d / "test/audio50.npy"),
        [
            "val/audio50.npy: 3 segments in val, expected 4 as in dataset.json, "
            "val/visual50.npy, val/label50.npy, val/bert50.npy, val/segments.csv.",
            "test/audio50.npy: 4 segments in test, expected 3 as in dataset.json, "
            "test/visual50.npy, test/label50.npy, test/bert50.npy, test/segments.csv.",
        ],
    ),
    "swapped splits": (
        lambda d: swap(d / "train", d / "val"),
        [
            "dataset.json: 6 segments in train, expected 4 as in train/visual50.npy, "
            "train/audio50.npy, train/label50.npy, train/bert50.npy, train/segments.csv.",
            "train/segments.csv: 2 videos in train, expected 3 as in dataset.json.",
            "dataset.json: 4 segments in val, expected 6 as in val/visual50.npy, "
            "val/audio50.npy, val/label50.npy, val/bert50.npy, val/segments.csv.",
            "val/segments.csv: 3 videos in val, expected 2 as in dataset.json.",
        ],
    ),
    "audio and visual swapped": (
        lambda d: swap(d / "test/audio50.npy", d / "test/visual50.npy"),
        [
            "test/visual50.npy: 4 visual features a row, expected 3 as in train/visual50.npy, "
            "val/visual50.npy.",
            "test/audio50.npy: 3 audio features a row, expected 4 as in train/audio50.npy, "
            "val/audio50.npy.",
        ],
    ),
    "a text of another BERT": (
        lambda d: np.save(d / "test/bert50.npy", np.ones((3, 5, 9))),
        [
            "test/bert50.npy: 9 text features a row, expected 8 as in dataset.json, "
            "train/bert50.npy, val/bert50.npy."
        ],
    ),
    "several labels a segment": (
        lambda d: np.save(d / "test/label50.npy", np.repeat(np.load(d / "test/label50.npy"), 2, 1)),
        ["test/label50.npy: 2 label rows a segment, expected 1."],
    ),
    "an id twice": (
        lambda d: change_rows(d / "train", lambda rows: rows[1].update(id=rows[0]["id"])),
        ["train/segments.csv: 1 id more than once, the first train0[0]; expected each once."],
    ),
    "an id in two splits": (
        lambda d: change_rows(d / "test", lambda rows: rows[0].update(id="train1[0]")),
        ["test/segments.csv: 1 id that train has as well, the first train1[0]; expected none."],
    ),
    "a video in two splits": (
        lambda d: change_rows(
            d / "test", lambda rows: [row.update(video="val1") for row in rows[:2]]
        ),
        ["test/segments.csv: 1 video that val has as well, the first val1; expected none."],
    ),
    "a row too many in the table": (
        lambda d: change_rows(d / "val", lambda rows: rows.append({**rows[0], "id": "val0[2]"})),
        [
            "val/segments.csv: 5 segments in val, expected 4 as in dataset.json, "
            "val/visual50.npy, val/audio50.npy, val/label50.npy, val/bert50.npy."
        ],
    ),
    "a short row in the table": (
        lambda d: (
            set_value(d / "val/label50.npy", (3, 0, 0), 2),
            change_rows(d / "val", lambda rows: rows.pop()),
            (d / "val/segments.csv").open("a").write("val1[1],val1\n"),
        ),
        [
            "val/segments.csv: 1 sentiment other than in label50.npy, the first none of val1[1] "
            "(segment 3); expected 2.0."
        ],
    ),
    "a wrong count in the manifest": (
        lambda d: set_manifest(d, ("splits", "val", "segments"), 9),
        [
            "dataset.json: 9 segments in val, expected 4 as in val/visual50.npy, "
            "val/audio50.npy, val/label50.npy, val/bert50.npy, val/segments.csv."
        ],
    ),
    "another number of videos in the manifest": (
        lambda d: set_manifest(d, ("splits", "val", "videos"), 9),
        ["val/segments.csv: 2 videos in val, expected 9 as in dataset.json."],
    ),
    "ends before the starts": (
        lambda d: change_rows(d / "val", lambda rows: [row.update(end=-1) for row in rows[1:3]]),
        [
            "val/segments.csv: 2 segments with an end before the start, the first val0[1] (1 to "
            "-1 s); expected none."
        ],
    ),
    "a wrong length in the manifest": (
        lambda d: set_manifest(d, ("made_from", "lengths", "audio"), 50),
        [
            "dataset.json: 50 audio rows a segment, expected 6 as in train/audio50.npy, "
            "val/audio50.npy, test/audio50.npy."
        ],
    ),
    "a value that stood in for -inf": (
        lambda d: set_value(d / "val/audio50.npy", (1, 0, 0), np.finfo(np.float32).min),
        [
            "val/audio50.npy: values up to 3.403e+38, expected below 1e+18; "
            "numpy.nan_to_num, for example, writes such values for infinity; use 0 instead."
        ],
    ),
    "a damaged manifest": (
        lambda d: (d / "dataset.json").write_text("[]"),
        [
            "dataset.json is no manifest of dataset_prep.py (a list); delete it, move the splits "
            "beside it away, and prepare again."
        ],
    ),
    "a folder in an array's place": (
        lambda d: (
            (d / "val/bert50.npy").unlink(),
            (d / "val/bert50.npy").mkdir(),
        ),
        [
            "val/bert50.npy is a folder, pipe or device; prepare the dataset (again) with "
            "dataset_prep.py."
        ],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told(dataset, damage):
    damage, expected = DAMAGES[damage]
    damage(dataset)
    assert [line.replace(str(dataset), "DATASET") for line in problems(dataset)] == expected


def test_text_that_is_lost_is_no_note(dataset):
    (dataset / "val/bert50.npy").unlink()
    assert check_dataset(dataset).notes == []


def test_arrays_that_are_all_damaged_are_told_one_by_one(dataset):
    paths = [dataset / "val" / f"{kind}50.npy" for kind in ("visual", "audio", "label", "bert")]
    for path in paths:
        cut_short(path)
    lines = problems(dataset)
    assert [line.split(" is ")[0] for line in lines] == [f"val/{path.name}" for path in paths]


def test_all_damage_is_told_at_once(dataset):
    cut_short(dataset / "train/visual50.npy")
    (dataset / "dataset.json").write_text("{")
    (dataset / "val/segments.csv").write_bytes(b"\xff")
    set_value(dataset / "test/bert50.npy", 0, np.nan)
    lines = problems(dataset)
    files = ["dataset.json", "train/visual50.npy", "val/segments.csv", "test/bert50.npy"]
    assert [line.split()[0].rstrip(":") for line in lines] == files


def test_a_file_that_cannot_be_read_is_told(dataset, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder / "segments.csv"))

    monkeypatch.setattr(inspection, "read_segments", refuse)
    expected = [f"{split}/segments.csv cannot be read: Permission denied." for split in SPLITS]
    assert problems(dataset) == expected


def test_a_split_without_segments_is_told(dataset):
    for kind, shape in {**SHAPES, "bert": TEXT}.items():
        np.save(dataset / f"test/{kind}50.npy", np.zeros((0, *shape)))
    change_rows(dataset / "test", list.clear)
    set_manifest(dataset, ("splits", "test"), {"segments": 0, "videos": 0})
    assert problems(dataset) == ["test: no segments, expected at least one."]


def test_a_preparation_without_text_is_whole(tmp_path):
    report = check_dataset(write_dataset(tmp_path, text=False))
    assert report.problems == []
    assert report.notes == [
        "No bert50.npy in train, val, test: the same dataset_prep.py command without "
        "--no_bert adds the text features."
    ]


def test_text_of_word_pieces_may_have_their_length(dataset):
    for split, count in SEGMENTS.items():
        np.save(dataset / split / "pieces50.npy", np.ones((count, 2, 39), np.int64))
        np.save(dataset / split / "bert50.npy", np.ones((count, 39, TEXT[1])))
    assert problems(dataset) == []


def test_arrays_of_another_program_are_welcome(dataset):
    (dataset / "dataset.json").unlink()
    for split in SPLITS:
        (dataset / split / "segments.csv").unlink()
    report = check_dataset(dataset)
    assert report.problems == []
    assert report.notes == [
        f"{dataset} has no dataset.json: these arrays may come from another program.",
        "No segments.csv in train, val, test: ids and times are unknown.",
    ]
    assert all(len(split.seconds) == 0 for split in report.splits.values())


def test_an_interrupted_preparation_is_noted(dataset, capsys):
    (dataset / ".preparing").mkdir()
    (dataset / "val/audio50.npy").unlink()
    report = check_dataset(dataset)
    assert report.notes == [
        f"{dataset}/.preparing holds an interrupted preparation; the same dataset_prep.py "
        "command continues it."
    ]
    print_report(report)
    assert "To make the dataset anew" not in capsys.readouterr().out


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"No folder .*nowhere; prepare the dataset first"):
        check_dataset(tmp_path / "nowhere")


def test_a_large_array_is_read_in_blocks(dataset):
    shape = (1500, 50, 768)  # sparse: 230 MB that take no room
    text = np.lib.format.open_memmap(dataset / "train/bert50.npy", "w+", np.float32, shape)
    text[1400, 3, 3] = np.nan
    tracemalloc.start()
    try:
        report = check_dataset(dataset)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.splits["train"].arrays["text"].first_not_finite == 1400
    assert peak < text.nbytes / 8


def test_the_report_is_printed(dataset, capsys):
    set_value(dataset / "val/audio50.npy", (0, 0, 0), -np.inf)
    set_value(dataset / "val/audio50.npy", (1, slice(3)), 0)
    (dataset / "val/visual50.npy").unlink()
    print_report(check_dataset(dataset))
    printed = capsys.readouterr()
    (row,) = [line for line in printed.out.splitlines() if line.startswith("val/audio50.npy")]
    assert "(4, 6, 4)  float32" in row
    assert row.split()[5:10] == ["0", "1.04", "%", "12.50", "%"]
    assert (
        "To make the dataset anew, run the same dataset_prep.py command with --force" in printed.out
    )
    assert printed.err.count("error:") == 1
    assert "No file" in printed.err


@pytest.fixture
def listed(dataset):
    """The dataset, whose manifest lists sizes and rows as a preparation writes them."""
    for split, count in SEGMENTS.items():
        np.save(dataset / split / "pieces50.npy", np.ones((count, 2, TEXT[0]), np.int64))
    files = {str(path.relative_to(dataset)): path for path in dataset.glob("*/*")}
    sizes = {name: path.stat().st_size for name, path in files.items()}
    set_manifest(dataset, ("bytes",), sizes)
    set_manifest(dataset, ("rows",), {split: read_ids(dataset / split)[1] for split in SPLITS})
    return dataset


def lengthen(path):
    with path.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            lambda d: (d / "val/pieces50.npy").unlink(),
            ["No file val/pieces50.npy, expected 448 bytes as in dataset.json."],
        ),
        (
            lambda d: lengthen(d / "train/visual50.npy"),
            ["train/visual50.npy: 564 bytes, expected 560 bytes as in dataset.json."],
        ),
        (  # told by its rows
            lambda d: change_rows(d / "val", lambda rows: rows[0].update(sentence="words")),
            None,
        ),
        (lambda d: (d / "val/bert50.npy").unlink(), None),  # told as an array
        (lambda d: (d / "val").rename(d / "validation"), None),
        (lambda d: None, []),
    ],
)
def test_files_of_another_size_than_written_are_told_once(listed, damage, expected):
    damage(listed)
    found = problems(listed)
    assert len(found) == 1 if expected is None else found == expected


AGAIN = "To make these files again, run the same dataset_prep.py command."
FORCED = "To make the dataset anew, run the same dataset_prep.py command with --force."


@pytest.mark.parametrize(
    ("damage", "advice"),
    [
        (lambda d: (d / "val/pieces50.npy").unlink(), AGAIN),
        (lambda d: cut_short(d / "val/label50.npy"), AGAIN),
        (lambda d: (d / "val").rename(d / "validation"), AGAIN),
        (lambda d: change_rows(d / "val", lambda rows: rows[0].update(sentence="words")), AGAIN),
        (lambda d: change_rows(d / "val", lambda rows: rows[0].update(sentence="a bird")), AGAIN),
        (lambda d: change_rows(d / "val", lambda rows: rows[1].update(id=rows[0]["id"])), AGAIN),
        (lambda d: change_rows(d / "val", lambda rows: rows[0].update(video="val9")), AGAIN),
        (lambda d: set_value(d / "val/label50.npy", 0, 5), FORCED),
        (lambda d: (d / "val/label50.npy").write_bytes(bytes(240)), FORCED),  # of the same size
        (lambda d: set_value(d / "val/audio50.npy", 0, 1e30), None),
        (lambda d: (d / "dataset.json").write_text("[]"), None),
    ],
)
def test_the_advice_is_the_cheapest_that_helps(listed, capsys, damage, advice):
    damage(listed)
    print_report(check_dataset(listed))
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line == (advice or "")


@pytest.mark.parametrize("is_of_bert", [True, False])
def test_text_that_is_no_number_is_made_anew_unless_it_is_the_sources_own(
    listed, capsys, is_of_bert
):
    set_value(listed / "val/bert50.npy", 0, np.nan)
    set_manifest(listed, ("made_from", "uses_own_text"), True)  # if the source has some
    if is_of_bert:
        set_manifest(listed, ("text", "per"), "position")
    print_report(check_dataset(listed))
    assert (FORCED in capsys.readouterr().out) is is_of_bert


def test_what_the_source_has_needs_no_advice(dataset, capsys):
    set_value(dataset / "val/audio50.npy", 0, 1e30)
    change_rows(dataset / "train", lambda rows: rows[1].update(id=rows[0]["id"]))
    change_rows(dataset / "test", lambda rows: [row.update(video="val1") for row in rows[:2]])
    report = check_dataset(dataset)
    print_report(report)
    assert len(report.problems) >= 3
    assert "dataset_prep.py" not in capsys.readouterr().out


def test_an_unreadable_file_is_not_made_anew(dataset, capsys, monkeypatch):
    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(inspection, "NpyReader", refuse)
    print_report(check_dataset(dataset))
    printed = capsys.readouterr()
    assert "Permission denied" in printed.err
    assert "--force" not in printed.out


def test_a_whole_dataset_is_said_to_be(dataset, capsys):
    print_report(check_dataset(dataset))
    printed = capsys.readouterr()
    assert printed.out.endswith("No problem found.\n")
    assert printed.err == ""


def test_an_empty_folder_is_reported(tmp_path, capsys):
    report = check_dataset(tmp_path)
    print_report(report)
    assert len(report.problems) == len(SPLITS)
    printed = capsys.readouterr()
    assert printed.err.count("No folder") == len(SPLITS)
    assert printed.out.endswith(f"To make the dataset, run dataset_prep.py --datadir {tmp_path}.\n")


def test_only_what_is_there_is_to_be_moved_away(dataset, capsys):
    (dataset / "dataset.json").unlink()
    (dataset / "val/segments.csv").unlink()
    (dataset / "val/audio50.npy").unlink()
    (dataset / "train").rename(dataset / "training")
    print_report(check_dataset(dataset))
    assert "anew, move val, test away and run dataset_prep.py.\n" in capsys.readouterr().out


@pytest.fixture
def figure(monkeypatch):
    """The figure that was drawn last, still open."""
    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn.append(figure))
    yield lambda: drawn[-1]
    plt.close("all")


def test_the_plot_shows_the_shares(dataset, figure, tmp_path):
    set_value(dataset / "train/audio50.npy", (slice(None), slice(3)), 0)
    splits = check_dataset(dataset).splits
    plot_dataset(tmp_path / "dataset.png", splits, SCALES["mosei"])
    classes, lengths, padding = figure().axes
    heights = [[bar.get_height() for bar in bars] for bars in classes.containers]
    assert heights == [
        list(split.class_shares(SCALES["mosei"]).values()) for split in splits.values()
    ]
    middles = [[bar.get_center()[0] for bar in bars] for bars in classes.containers]
    np.testing.assert_allclose(np.mean(middles, axis=0), classes.get_xticks())
    np.testing.assert_allclose(np.diff(middles, axis=0), classes.containers[0][0].get_width())
    assert [bars[1].get_height() for bars in padding.containers] == [0.5, 0, 0]
    medians = [text.get_text() for text in lengths.get_legend().get_texts()]
    assert medians == ["train: median 3.0 s", "val: median 2.0 s", "test: median 1.5 s"]
    (legend,) = figure().legends
    counts = [text.get_text() for text in legend.get_texts()]
    assert counts == ["train: 6 segments", "val: 4 segments", "test: 3 segments"]
    assert all(axes.get_title() and axes.get_ylabel() for axes in figure().axes)


def test_what_is_known_is_drawn(dataset, figure, tmp_path):
    (dataset / "train/visual50.npy").unlink()
    (dataset / "val/label50.npy").unlink()
    for split in SPLITS:
        (dataset / split / "segments.csv").unlink()
    plot_dataset(tmp_path / "dataset.png", check_dataset(dataset).splits, SCALES["mosei"])
    (legend,) = figure().legends
    counts = [text.get_text() for text in legend.get_texts()]
    assert counts == ["train: 6 segments", "test: 3 segments"]
    _, lengths, padding = figure().axes
    assert [text.get_text() for text in lengths.texts] == ["no times known"]
    assert [len(bars) for bars in padding.containers] == [2, 3]


@pytest.mark.parametrize("end", [-5, 0])
def test_lengths_below_zero_are_left_out_of_the_plot(dataset, figure, tmp_path, end):
    for split in SPLITS:
        change_rows(dataset / split, lambda rows: [row.update(start=0, end=end) for row in rows])
    plot_dataset(tmp_path / "dataset.png", check_dataset(dataset).splits, SCALES["mosei"])
    _, lengths, _ = figure().axes
    assert [text.get_text() for text in lengths.texts] == ["no times known"] * (end < 0)


@pytest.mark.parametrize("end", [9e17, 1e308])
def test_of_values_beyond_any_real_one_only_their_problem_is_told(dataset, tmp_path, recwarn, end):
    labels = np.load(dataset / "val/label50.npy").astype(np.float64)
    labels[0] = 1e300
    np.save(dataset / "val/label50.npy", labels)
    change_rows(dataset / "train", lambda rows: rows[0].update(end=end))
    change_rows(dataset / "val", lambda rows: rows[0].update(sentiment="1e300"))
    report = check_dataset(dataset)
    plot_dataset(tmp_path / "dataset.png", report.splits, report.scale)
    (problem,) = report.problems
    assert "7 labels outside [-3, 3], the first 1e+300" in problem.line
    assert not recwarn.list


def test_the_plot_is_a_png(dataset, tmp_path):
    plot_dataset(tmp_path / "dataset.png", check_dataset(dataset).splits, SCALES["mosei"])
    assert (tmp_path / "dataset.png").read_bytes().startswith(b"\x89PNG")
    assert not plt.get_fignums()


def test_a_dataset_without_labels_is_not_said_to_be_unprepared(dataset, tmp_path):
    for split in SPLITS:
        set_value(dataset / split / "label50.npy", ..., np.nan)
    with pytest.raises(InputError, match=r"No labels to draw .*--check"):
        plot_dataset(tmp_path / "dataset.png", check_dataset(dataset).splits, SCALES["mosei"])


def test_nothing_to_draw_is_told(tmp_path):
    with pytest.raises(InputError, match="No segments to draw"):
        plot_dataset(tmp_path / "dataset.png", check_dataset(tmp_path).splits, SCALES["mosei"])


def test_a_range_that_ends_at_zero_has_no_sign(dataset, capsys):
    path = dataset / "val" / "visual50.npy"
    np.save(path, -np.abs(np.load(path)) * 0)
    print_report(check_dataset(dataset))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "val/visual50" in line]
    assert line.split()[-2:] == ["0", "0"]
