"""The whole preparation against the CMU SDK's numbers, and against interruptions."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from data.checking.check import check_dataset
from data.fetching.demo import write_demo
from data.fetching.server import MOSEI
from data.formats.folds import read_folds
from data.layout import ALIGNMENT_NAMES, SPLITS, alignment_folder, read_segments
from data.loading.split import Split
from data.preparing import pipeline as prepare_module
from data.preparing import sources
from data.preparing.pipeline import prepare
from data.preparing.segments import ALIGNED_LENGTHS, cut_videos, open_sequences
from data.text import encoder as text
from system import files, forked
from system.errors import InputError
from tests.csd_files import (
    TEST_VIDEO,
    TRAIN_VIDEOS,
    VAL_VIDEO,
    random_dataset,
    write_csd,
    write_dataset,
)
from tests.golden import GOLDEN
from tests.plain import plain_segments, plain_word_segments
from tests.preparation import SINGLE_PROCESS, request

ARRAYS = ("visual50.npy", "audio50.npy", "bert50.npy", "label50.npy", "pieces50.npy")
FILES = (*ARRAYS, "segments.csv")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    """A random BERT that knows a few words."""
    return str(write_demo(tmp_path_factory.mktemp("bert")))


@pytest.fixture(scope="module")
def golden(tmp_path_factory, tiny_bert):
    """The golden .csd files, prepared."""
    datadir = tmp_path_factory.mktemp("golden")
    manifest = prepare(request(datadir, tiny_bert, csd_dir=GOLDEN / "prep" / "csd"), SINGLE_PROCESS)
    return datadir, manifest


@pytest.mark.parametrize("split", SPLITS)
def test_segments_are_the_sdks_bit_for_bit(golden, split):
    datadir, _ = golden
    expected = np.load(GOLDEN / "prep" / f"segment_{split}.npz")
    rows = read_segments(datadir / split)
    assert [row["id"] for row in rows] == expected["ids"].tolist()
    assert [row["sentence"] for row in rows] == expected["sentences"].tolist()
    for kind in ("visual", "audio", "label"):
        array = np.load(datadir / split / f"{kind}50.npy")
        assert array.dtype == np.float32
        # As bits: -inf and NaN are to stay as they are.
        np.testing.assert_array_equal(array.view(np.uint32), expected[kind].view(np.uint32))


@pytest.mark.parametrize("split", SPLITS)
def test_words_are_the_sdks(split):
    expected = np.load(GOLDEN / "prep" / f"word_{split}.npz")
    paths = {k: GOLDEN / "prep" / "csd" / s.name for k, s in MOSEI.sequences.items()}
    split_of = read_folds(MOSEI.folds)
    with open_sequences(paths) as sequences:
        videos = [
            video
            for video in cut_videos(sequences, split_of, "word", ALIGNED_LENGTHS, Counter())
            if video.split == split
        ]
    assert [id_ for video in videos for id_ in video.ids] == expected["ids"].tolist()
    texts = [" ".join(words) for video in videos for words in video.words]
    assert texts == expected["words"].tolist()
    for kind in ("visual", "audio"):
        features = np.concatenate([getattr(video, kind) for video in videos])
        np.testing.assert_allclose(features, expected[kind], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("alignment", ["segment", "unaligned", "word"])
def test_segments_are_the_literal_aligners(tmp_path, seed, alignment):
    data = random_dataset(seed)
    paths = write_dataset(tmp_path, data)
    lengths = {"segment": (50, 50), "unaligned": (7, 11), "word": (4, 5)}[alignment]
    plain = plain_word_segments if alignment == "word" else plain_segments
    split_of = read_folds(MOSEI.folds)
    with open_sequences(paths) as sequences:
        lengths_by_kind = dict(zip(("visual", "audio"), lengths, strict=True))
        videos = list(cut_videos(sequences, split_of, alignment, lengths_by_kind, Counter()))
    expected = [
        (video, *segment)
        for video in sorted(data["labels"], key=str.encode)
        for segment in plain(data, video, lengths)
    ]
    ids = [id_ for video in videos for id_ in video.ids]
    assert ids == [f"{video}[{k}]" for video, k, *_ in expected]
    segments = [
        segment
        for video in videos
        for segment in zip(video.words, video.visual, video.audio, video.label, strict=True)
    ]
    for segment, (video, k, words, visual, audio) in zip(segments, expected, strict=True):
        assert segment[0] == [word[0].decode() for word in words]
        np.testing.assert_allclose(segment[1], visual, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(segment[2], audio, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(segment[3][0], data["labels"][video][1][k])


def test_manifest_tells_what_was_made_from_what(golden):
    datadir, manifest = golden
    written = json.loads((datadir / "dataset.json").read_text())
    assert written["splits"]["train"] == {"segments": 93, "videos": 10}
    assert written["left_out"] == {
        "video is in no fold": 12,
        "label interval is empty": 1,
        "video has no audio": 42,
        "segment has no visual": 1,
    }
    assert written["made_from"]["alignment"] == "segment"
    assert written["made_from"]["lengths"] == {"visual": 50, "audio": 50}
    for kind, source in MOSEI.sequences.items():
        size = (GOLDEN / "prep" / "csd" / source.name).stat().st_size
        assert written["made_from"]["files"][kind]["bytes"] == size
    assert written["text"]["width"] == 64
    assert {"numpy", "h5py", "torch", "python"} <= set(written["made_with"])
    assert written["splits"] == manifest["splits"]


@pytest.fixture
def datadir(tmp_path):
    """A dataset's folder with five small videos in csd/."""
    write_dataset(tmp_path / "csd", random_dataset())
    return tmp_path


def snapshot(datadir):
    return {
        str(path.relative_to(datadir)): path.read_bytes()
        for split in SPLITS
        for path in sorted((datadir / split).glob("*"))
    }


def test_a_second_call_makes_nothing_again(datadir, tiny_bert, monkeypatch):
    first = prepare(request(datadir, tiny_bert), SINGLE_PROCESS)
    before = snapshot(datadir)
    assert {path.rsplit("/")[1] for path in before} == set(FILES)
    monkeypatch.setattr(sources.CsdSource, "write", None)
    monkeypatch.setattr(text, "TextEncoder", None)
    assert prepare(request(datadir, tiny_bert), SINGLE_PROCESS)["splits"] == first["splits"]
    assert snapshot(datadir) == before


def test_the_files_are_sampled_once(datadir, tiny_bert, monkeypatch):
    prepare(request(datadir, None), SINGLE_PROCESS)
    sampled, file_facts = [], sources.file_facts
    monkeypatch.setattr(
        sources, "file_facts", lambda path, **_: sampled.append(path) or file_facts(path)
    )
    write_dataset(datadir / "csd", random_dataset(seed=9))  # so that the plan is also carried out
    prepare(request(datadir, tiny_bert), SINGLE_PROCESS)
    assert sorted(sampled) == sorted([*(datadir / "csd").iterdir(), MOSEI.folds])


def test_other_files_are_prepared_anew(datadir, tiny_bert):
    prepare(request(datadir, tiny_bert), SINGLE_PROCESS)
    before = snapshot(datadir)
    write_dataset(datadir / "csd", random_dataset(seed=9))
    prepare(request(datadir, tiny_bert), SINGLE_PROCESS)
    after = snapshot(datadir)
    assert set(after) == set(before)
    assert after["train/audio50.npy"] != before["train/audio50.npy"]


def test_force_makes_all_again(datadir, tiny_bert, monkeypatch):
    asked = request(datadir, tiny_bert)
    prepare(asked, SINGLE_PROCESS)
    expected = snapshot(datadir)
    for name in ("train/visual50.npy", "val/bert50.npy"):
        (datadir / name).write_bytes(bytes(len(expected[name])))
    prepare(asked, SINGLE_PROCESS)
    assert snapshot(datadir) != expected  # which nothing but reading them all tells
    prepare(replace(asked, is_forced=True), SINGLE_PROCESS)
    assert snapshot(datadir) == expected


def test_a_changed_file_is_read_again_and_the_text_stays(datadir, tiny_bert, monkeypatch):
    monkeypatch.setattr(files, "_BLOCK_BYTES", 16)  # so that the files count as large ones
    prepare(request(datadir, tiny_bert), SINGLE_PROCESS)
    before = snapshot(datadir)
    data = random_dataset()
    video = TRAIN_VIDEOS[0]
    data["visual"][video] = (data["visual"][video][0], data["visual"][video][1] + 1)
    write_dataset(datadir / "csd", data)
    monkeypatch.setattr(text.TextEncoder, "start", None)
    prepare(request(datadir, tiny_bert), SINGLE_PROCESS)
    changed = {name for name, content in snapshot(datadir).items() if content != before[name]}
    assert changed == {"train/visual50.npy"}


def sort_rows(table):
    """Sort a segment table by its sentences, as a spreadsheet does."""
    head, *rows = table.read_bytes().splitlines(keepends=True)
    rows = sorted(rows, key=lambda row: row.split(b",")[4])
    assert rows != table.read_bytes().splitlines(keepends=True)[1:]
    table.write_bytes(b"".join([head, *rows]))


def test_a_table_whose_rows_were_sorted_is_refused_and_made_again(datadir, tiny_bert, monkeypatch):
    asked = request(datadir, tiny_bert)
    prepare(asked, SINGLE_PROCESS)
    before = snapshot(datadir)
    sort_rows(datadir / "train" / "segments.csv")
    with pytest.raises(InputError, match=r"train/segments.csv was changed.*prepare.*again \(data"):
        Split(datadir / "train")
    lines = [problem.line for problem in check_dataset(datadir).problems]
    (line,) = [line for line in lines if "in another order" in line]
    assert line.startswith(f"{datadir / 'train' / 'segments.csv'}: ")
    monkeypatch.setattr(text.TextEncoder, "start", None)  # the text is still of the right rows
    prepare(asked, SINGLE_PROCESS)
    assert snapshot(datadir) == before


def test_text_that_is_added_later_is_of_the_rows_that_were_prepared(datadir, tiny_bert):
    prepare(request(datadir, tiny_bert), SINGLE_PROCESS)
    expected = snapshot(datadir)
    prepare(replace(request(datadir, None), is_forced=True), SINGLE_PROCESS)
    for split in SPLITS:
        (datadir / split / "bert50.npy").unlink(missing_ok=True)
    sort_rows(datadir / "train" / "segments.csv")
    prepare(request(datadir, tiny_bert), SINGLE_PROCESS)
    assert snapshot(datadir) == expected


def test_a_table_may_be_saved_in_another_form(datadir):
    prepare(request(datadir, None), SINGLE_PROCESS)
    table = datadir / "train" / "segments.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\r\n", b"\n"))
    assert not check_dataset(datadir).problems


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}])
def test_values_beyond_float32_are_told_in_one_line(datadir, options):
    data = random_dataset()
    for video in TRAIN_VIDEOS:
        intervals, features = data["audio"][video]
        data["audio"][video] = intervals, np.float64(features) * 1e39
    write_dataset(datadir / "csd", data, **options)
    with pytest.warns(UserWarning) as caught:
        prepare(request(datadir, None), SINGLE_PROCESS)
    (line,) = [str(warning.message) for warning in caught]
    assert line.startswith("CMU-MOSEI: some values are too large for float32")


def test_of_infinite_values_and_times_nothing_is_told(datadir, recwarn):
    data = random_dataset()
    for intervals, features in data["audio"].values():
        intervals[-1] = np.inf
        features[::2, 1:], features[1::2, 1:] = np.inf, -np.inf
    for intervals, _ in data["labels"].values():
        intervals[-1, 1] = np.inf
    write_dataset(datadir / "csd", data)
    prepare(request(datadir, None, alignment="word"), SINGLE_PROCESS)
    assert not recwarn.list


@pytest.mark.parametrize("alignment", ALIGNMENT_NAMES)
def test_several_processes_prepare_to_the_same_bytes(tmp_path, monkeypatch, alignment):
    """Also the reasons why segments are left out, and what is told of overflow."""
    data = random_dataset(seed=4, videos=list(read_folds(MOSEI.folds))[::60])
    first, *others = sorted(data["audio"])
    del data["audio"][others[0]], data["words"][others[5]]
    intervals, features = data["audio"][first]
    data["audio"][first] = intervals, np.float64(features) * 1e39
    csd = write_dataset(tmp_path / "csd", data)["audio"].parent
    written = []
    for count in (1, 3):
        monkeypatch.setattr(forked, "usable_cpus", lambda count=count: count)
        folder = tmp_path / str(count)
        folder.mkdir()
        with pytest.warns(UserWarning, match="too large for float32"):
            asked = request(folder, None, csd_dir=csd, alignment=alignment, lengths=(7, 9))
            manifest = prepare(asked, SINGLE_PROCESS)
        written.append((snapshot(alignment_folder(folder, alignment)), manifest["left_out"]))
    assert written[0] == written[1]
    assert {"video has no audio", "video has no words"} <= written[1][1].keys()


@pytest.mark.parametrize("alignment", ALIGNMENT_NAMES)
@pytest.mark.parametrize("options", [{}, {"shuffle": True, "fletcher32": True}])
def test_compressed_files_prepare_to_the_same_bytes(tmp_path, alignment, options):
    """Also where words, rows and the labels are in no order, and are in parts."""
    data = random_dataset(seed=3)
    rng = np.random.default_rng(0)
    for entries in data.values():
        intervals, features = entries[TRAIN_VIDEOS[0]]
        order = rng.permutation(len(intervals))
        entries[TRAIN_VIDEOS[0]] = intervals[order], features[order]
        intervals, features = entries.pop(TRAIN_VIDEOS[1])
        third = len(intervals) // 3
        entries[f"{TRAIN_VIDEOS[1]}[0]"] = intervals[third:], features[third:]
        entries[f"{TRAIN_VIDEOS[1]}[1]"] = intervals[:third], features[:third]
    written = []
    for name, csd_options in {"plain": {}, "gzip": {"compression": "gzip", **options}}.items():
        folder = tmp_path / name
        write_dataset(folder / "csd", data, **csd_options)
        prepare(request(folder, None, alignment=alignment, lengths=(7, 9)), SINGLE_PROCESS)
        written.append(snapshot(alignment_folder(folder, alignment)))
    assert written[0] == written[1]
    assert len(written[0]) == 3 * (len(FILES) - 2)  # all but the text and its pieces


def test_another_bert_changes_only_the_text(datadir, tiny_bert, tmp_path_factory):
    prepare(request(datadir, tiny_bert), SINGLE_PROCESS)
    before = snapshot(datadir)
    other = tmp_path_factory.mktemp("other") / "bert"
    shutil.copytree(tiny_bert, other)
    weights = other / "model.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({name: 2 * value for name, value in load_file(weights).items()}, weights)
    prepare(request(datadir, str(other)), SINGLE_PROCESS)
    changed = {name for name, content in snapshot(datadir).items() if content != before[name]}
    assert changed == {f"{split}/bert50.npy" for split in SPLITS}


def test_a_bert_that_has_moved_changes_nothing(datadir, tiny_bert, tmp_path_factory, monkeypatch):
    prepare(request(datadir, tiny_bert), SINGLE_PROCESS)
    before = snapshot(datadir)
    moved = shutil.copytree(tiny_bert, tmp_path_factory.mktemp("moved") / "bert")
    monkeypatch.setattr(text, "TextEncoder", None)
    for path in (f"{tiny_bert}/", str(moved)):
        assert prepare_module.decide(request(datadir, path)).is_done
        prepare(request(datadir, path), SINGLE_PROCESS)
        manifest = json.loads((datadir / "dataset.json").read_text())
        assert manifest["text"]["encoder"] == path  # for --finetune_bert
    monkeypatch.undo()
    monkeypatch.setattr(text.TextEncoder, "start", None)  # what another alignment has is taken
    asked = request(datadir, str(moved), alignment="unaligned", lengths=(7, 9))
    prepare(asked, SINGLE_PROCESS)
    for split in SPLITS:
        content = (asked.folder / split / "bert50.npy").read_bytes()
        assert content == before[f"{split}/bert50.npy"]


@pytest.mark.parametrize(("precision", "lines"), [("bfloat16", 1), ("float32", 0)])
def test_a_line_says_whether_bfloat16_pays(datadir, tiny_bert, capsys, precision, lines):
    asked = request(datadir, tiny_bert)
    asked = replace(asked, text=replace(asked.text, precision=precision))
    manifest = prepare(asked, SINGLE_PROCESS)
    assert manifest["text"]["precision"] == precision  # whatever is faster
    assert capsys.readouterr().out.count("BERT in bfloat16") == lines
    prepare(asked, SINGLE_PROCESS)
    assert not capsys.readouterr().out  # nothing was left to encode


class Killed(BaseException):
    """Ends the preparation as a kill would: nothing else catches it."""


@pytest.mark.parametrize("batches_before", [0, 1, 2, 3])
def test_an_interrupted_encoding_goes_on(datadir, tiny_bert, monkeypatch, batches_before):
    monkeypatch.setattr(text, "_BATCH_SIZE", {"cpu": 2})
    asked = request(datadir, tiny_bert)
    prepare(asked, SINGLE_PROCESS)
    expected = snapshot(datadir)
    for split in SPLITS:
        shutil.rmtree(datadir / split)
    (datadir / "dataset.json").unlink()
    start, calls = text.TextEncoder.start, []

    def encode_then_die(self, sentences):
        if len(calls) == batches_before:
            raise Killed
        calls.append(sentences)
        return start(self, sentences)

    with monkeypatch.context() as patch:
        patch.setattr(text.TextEncoder, "start", encode_then_die)
        with pytest.raises(Killed):
            prepare(asked, SINGLE_PROCESS)
    assert not (datadir / "train").exists()
    monkeypatch.setattr(sources.CsdSource, "write", None)  # that part waits, complete
    rest = []
    monkeypatch.setattr(
        text.TextEncoder, "start", lambda self, batch: (rest.append(batch), start(self, batch))[1]
    )
    prepare(request(datadir, f"{tiny_bert}/"), SINGLE_PROCESS)  # the same folder
    assert not any(batch in rest for batch in calls)
    assert snapshot(datadir) == expected
    assert not (datadir / ".preparing").exists()


def test_a_kill_while_moving_into_place_is_mended(datadir, tiny_bert, monkeypatch):
    asked = request(datadir, tiny_bert)
    prepare(asked, SINGLE_PROCESS)
    expected = snapshot(datadir)
    for moves in range(1, len(expected), 3):
        for split in SPLITS:
            shutil.rmtree(datadir / split)
        (datadir / "dataset.json").unlink()
        replace, done = prepare_module.Path.replace, []

        def replace_then_die(self, target, replace=replace, done=done, moves=moves):
            if self.name in FILES:
                if len(done) == moves:
                    raise Killed
                done.append(target)
            return replace(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(prepare_module.Path, "replace", replace_then_die)
            with pytest.raises(Killed):
                prepare(asked, SINGLE_PROCESS)
        assert not (datadir / "dataset.json").exists()
        with pytest.raises(InputError, match="half moved into place"):
            Split(datadir / "train")
        prepare(asked, SINGLE_PROCESS)
        assert snapshot(datadir) == expected


def test_a_mistake_leaves_what_was_in_place(datadir, tiny_bert):
    prepare(request(datadir, tiny_bert), SINGLE_PROCESS)
    before = snapshot(datadir)
    data = random_dataset(seed=5)
    intervals, features = data["visual"][TEST_VIDEO]
    data["visual"][TEST_VIDEO] = intervals, features[:, :3]
    write_dataset(datadir / "csd", data)
    with pytest.raises(InputError, match=f"{TEST_VIDEO}.*expected \\(n, 35\\)"):
        prepare(request(datadir, tiny_bert), SINGLE_PROCESS)
    assert snapshot(datadir) == before
    assert not (datadir / ".preparing").exists()


def test_arrays_of_another_program_are_not_overwritten(datadir, tiny_bert):
    (datadir / "train").mkdir()
    np.save(datadir / "train" / "visual50.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"visual50.npy was not made by this program"):
        prepare(request(datadir, tiny_bert), SINGLE_PROCESS)


def test_no_segment_left_is_told_with_reasons(datadir, tiny_bert):
    data = random_dataset()
    write_csd(
        datadir / "csd" / MOSEI.sequences["words"].name,
        {"elsewhere": data["words"][TEST_VIDEO]},
    )
    with pytest.raises(
        InputError, match=r"No segment is left in train \(15 because the video has no words"
    ):
        prepare(request(datadir, tiny_bert), SINGLE_PROCESS)
    assert not (datadir / "train").exists()


def test_empty_entries_are_left_out(datadir, tiny_bert):
    data = random_dataset()
    intervals, features = data["audio"][TRAIN_VIDEOS[0]]
    data["audio"][TRAIN_VIDEOS[0]] = intervals[:0], features[:0]
    write_dataset(datadir / "csd", data)
    manifest = prepare(request(datadir, tiny_bert), SINGLE_PROCESS)
    assert manifest["left_out"] == {"segment has no audio": 3}
    assert np.load(datadir / "train" / "audio50.npy").shape == (6, 50, 74)


def test_a_split_of_which_nothing_is_left_is_refused(datadir):
    write_dataset(datadir / "csd", random_dataset(videos=TRAIN_VIDEOS))
    with pytest.raises(InputError, match=r"No segment is left in val \(there was none\)"):
        prepare(request(datadir, None), SINGLE_PROCESS)
    assert not (datadir / "train").exists()


def test_memory_does_not_grow_with_the_number_of_videos(tmp_path):
    videos = [video for video, split in read_folds(MOSEI.folds).items() if split == "train"]
    others, peaks = [VAL_VIDEO, TEST_VIDEO], []
    for n in (10, 60):
        folder = tmp_path / str(n)
        write_dataset(folder / "csd", random_dataset(videos=[*videos[:n], *others]))
        tracemalloc.start()
        prepare(request(folder, None), SINGLE_PROCESS)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
