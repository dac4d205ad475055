"""The plan: what one look decides is what is then done, and looking touches nothing."""

from __future__ import annotations

import pickle
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

import dataset_prep
from data.layout import read_segments
from data.preparing import moving
from data.preparing import plan as module
from data.preparing.pickle_source import PickleSource
from data.preparing.pipeline import prepare
from data.preparing.plan import Arrays, Text, decide
from data.preparing.printing import PLAN_HEADER, UNKNOWN, plan_rows
from data.preparing.request import Request, TextRequest
from system.errors import InputError
from tests.csd_files import random_dataset, write_dataset
from tests.data.preparing.test_sources import community_split, write_pickle
from tests.preparation import SINGLE_PROCESS, request


@pytest.fixture
def datadir(tmp_path):
    write_dataset(tmp_path / "csd", random_dataset())
    return tmp_path


@pytest.fixture(scope="module")
def bert(demo):
    return str(demo / "demo_bert")


def traces(folder):
    """Tell each file's and folder's inode and time of change: any writing changes them."""
    paths = [folder, *folder.rglob("*")]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def table(asked):
    """Return the rows of a plan by what they are about, without the folder; nothing is touched."""
    before = traces(asked.datadir)
    rows = plan_rows(decide(asked))
    assert traces(asked.datadir) == before
    assert {len(row) for row in rows} == {len(PLAN_HEADER)}
    return {row[0].removeprefix(f"{asked.folder}/"): row[1:] for row in rows}


def interrupt_encoding(monkeypatch, asked, batches, size=2):
    """Prepare, and let the text encoder die after some batches."""
    from data.text import encoder as text

    start, calls = text.TextEncoder.start, iter(range(batches))

    def encode_then_die(self, sentences):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return start(self, sentences)

    with monkeypatch.context() as patch:
        patch.setattr(text, "_BATCH_SIZE", {"cpu": size})
        patch.setattr(text.TextEncoder, "start", encode_then_die)
        with pytest.raises(KeyboardInterrupt):
            prepare(asked, SINGLE_PROCESS)


def test_a_first_preparation(datadir, bert):
    asked = request(datadir, bert)
    rows = table(asked)
    prepare(asked, SINGLE_PROCESS)
    for split, count in {"train": 9, "val": 3, "test": 3}.items():
        how, segments, array_bytes, _ = rows[f"{split}: arrays"]
        assert (how, segments) == ("make", f"at most {count}")
        kinds = ("visual", "audio", "label")
        written = sum(np.load(datadir / split / f"{kind}50.npy").nbytes for kind in kinds)
        assert array_bytes == f"at most {written:,}"
        how, _, text_bytes, sentences = rows[f"{split}: text"]
        assert (how, sentences) == ("encode", f"at most {count}")
        assert text_bytes == f"at most {np.load(datadir / split / 'bert50.npy').nbytes:,}"


def test_nothing_to_do(datadir, bert):
    prepare(request(datadir, bert), SINGLE_PROCESS)
    for asked in (request(datadir, bert), request(datadir, None)):
        assert decide(asked).is_done
        assert {tuple(row) for row in table(asked).values()} == {
            ("keep", count, "0", "0") for count in "93"
        }


def test_arrays_without_text_and_then_the_text(datadir, bert):
    asked = request(datadir, None)
    assert table(asked)["train: text"] == ["leave out", "at most 9", "0", "0"]
    prepare(asked, SINGLE_PROCESS)
    assert table(asked)["train: text"] == ["leave out", "9", "0", "0"]
    rows = table(request(datadir, bert))
    assert rows["train: arrays"] == ["keep", "9", "0", "0"]
    sentences = {row["sentence"] for row in read_segments(datadir / "train")}
    assert rows["train: text"] == ["encode", "9", f"{9 * 50 * 64 * 4:,}", str(len(sentences))]


def test_text_of_a_bert_that_is_only_a_name_has_an_unknown_width(datadir):
    assert table(request(datadir, "no-such-bert"))["val: text"][2] == UNKNOWN


def test_another_alignment_has_the_text(datadir, bert):
    prepare(request(datadir, bert), SINGLE_PROCESS)
    asked = request(datadir, None, alignment="unaligned", lengths=(7, 9))
    prepare(asked, SINGLE_PROCESS)
    asked = request(datadir, bert, alignment="unaligned", lengths=(7, 9))
    assert table(asked)["test: text"] == [f"take from {datadir}", "3", "0", "0"]
    by_word = request(datadir, bert, alignment="word")
    assert not decide(by_word).same_text


def test_another_alignment_that_is_damaged_is_passed_over(datadir, bert):
    (datadir / "unaligned").mkdir()
    (datadir / "unaligned" / "dataset.json").write_text("junk")
    assert table(request(datadir, bert))["test: text"][0] == "encode"
    with pytest.raises(InputError, match=r"unaligned/dataset\.json is not JSON"):
        decide(request(datadir, None, alignment="unaligned"))


def test_an_interrupted_encoding(datadir, bert, monkeypatch):
    asked = request(datadir, bert)
    interrupt_encoding(monkeypatch, asked, batches=2)
    assert decide(asked).arrays is Arrays.RESUME
    rows = table(asked)
    assert rows["train: arrays"][0] == Arrays.RESUME.value
    different = len({row["sentence"] for row in read_segments(datadir / ".preparing" / "train")})
    assert rows["train: text"][3] == str(different - 4)


def test_an_interrupted_encoding_that_is_given_up_leaves_no_half_text(
    datadir, bert, monkeypatch, capsys
):
    interrupt_encoding(monkeypatch, request(datadir, bert), batches=2)
    capsys.readouterr()
    manifest = prepare(request(datadir, None), SINGLE_PROCESS)
    assert manifest["text"] is None
    assert "train/bert50.npy" not in manifest["bytes"]
    assert not list(datadir.glob("*/bert50.npy*"))
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "that an interrupted preparation began are removed; the same command without" in line


def test_an_interrupted_move(datadir, bert, monkeypatch):
    asked = request(datadir, bert)
    replace = module.Path.replace

    def die_at_the_table(self, target):
        if self.name == "segments.csv":
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(module.Path, "replace", die_at_the_table)
        with pytest.raises(KeyboardInterrupt):
            prepare(asked, SINGLE_PROCESS)
    rows = table(asked)
    assert rows.pop(str(datadir))[0] == "end the interrupted move"
    assert {row[0] for row in rows.values()} == {"keep"}
    # What was moved may be less than what is asked for now.
    another = shutil.copytree(bert, datadir / "another")
    (another / "vocab.txt").write_text((another / "vocab.txt").read_text() + "more\n")
    other = table(request(datadir, str(another)))
    assert other["train: text"][0] == "encode"
    (datadir / ".preparing" / "val" / "audio50.npy").unlink()
    assert table(asked)["train: arrays"][0] == "make"
    assert prepare(asked, SINGLE_PROCESS)["text"]["encoder"] == bert
    assert (datadir / "val" / "audio50.npy").is_file()


def test_a_pickle(tmp_path, bert):
    write_pickle(tmp_path / "file.pkl", text_width=300)
    source = PickleSource(tmp_path / "file.pkl", uses_own_text=True)
    asked = Request(tmp_path, "segment", source, TextRequest(bert, "float32", "cpu"))
    rows = table(asked)
    assert rows["train: arrays"] == ["make", UNKNOWN, UNKNOWN, "0"]
    assert rows["train: text"] == [Text.ENCODE_IF_MISSING.value, UNKNOWN, UNKNOWN, UNKNOWN]
    prepare(asked, SINGLE_PROCESS)
    assert decide(asked).is_done


def test_a_pickles_own_text_is_planned_without_a_bert_where_none_has_computed_any(tmp_path, bert):
    write_pickle(tmp_path / "file.pkl")
    own = Request(tmp_path, "segment", PickleSource(tmp_path / "file.pkl", True), None)
    assert table(own)["val: text"] == [Text.TAKE_OWN.value, UNKNOWN, UNKNOWN, "0"]
    text = TextRequest(bert, "float32", "cpu")
    encoded = replace(own, source=PickleSource(tmp_path / "file.pkl", False), text=text)
    with pytest.warns(UserWarning, match="are not used"):
        prepare(encoded, SINGLE_PROCESS)
    assert {tuple(row) for row in table(own).values()} == {("keep", k, "0", "0") for k in "534"}
    (tmp_path / "val" / "bert50.npy").unlink()
    assert table(own)["val: text"] == [Text.TAKE_OWN.value, UNKNOWN, UNKNOWN, "0"]


def test_text_that_a_bert_computed_for_want_of_a_pickles_own_is_planned_to_stay(tmp_path, bert):
    content = write_pickle(tmp_path / "file.pkl")
    for split in content.values():
        del split["text"]
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(content))
    source = PickleSource(tmp_path / "file.pkl", uses_own_text=True)
    asked = Request(tmp_path, "segment", source, TextRequest(bert, "float32", "cpu"))
    prepare(asked, SINGLE_PROCESS)
    for split in content.values():
        split["audio"] = split["audio"] + 1
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(content))
    source = PickleSource(tmp_path / "file.pkl", uses_own_text=True)
    without_bert = Request(tmp_path, "segment", source, None)
    expected = [Text.KEEP_IF_SAME.value, UNKNOWN, "0", "0"]
    assert table(without_bert)["val: text"] == expected
    assert prepare(without_bert, SINGLE_PROCESS)["text"]["encoder"] == bert


def test_files_that_have_yet_to_come(datadir, bert):
    (datadir / "csd" / "CMU_MOSEI_Labels.csd").unlink()
    plan = decide(request(datadir, bert), files_are_there=False)
    assert plan.arrays is Arrays.MAKE
    assert {row[2] for row in plan_rows(plan)} == {UNKNOWN}


def test_another_dataset_is_refused_before_its_files_come(datadir, demo):
    prepare(request(datadir, None), SINGLE_PROCESS)
    source = PickleSource(datadir / "aligned_50.pkl", uses_own_text=True)
    with pytest.raises(InputError, match="holds CMU-MOSEI, this would replace it by aligned_50"):
        decide(Request(datadir, "segment", source, None), files_are_there=False)
    with pytest.raises(InputError, match=r"^No file .*aligned_50.pkl"):
        decide(Request(datadir, "segment", source, None))


@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_stage_that_is_a_link_is_refused_before_anything_is_made(datadir, target):
    (datadir / "elsewhere").mkdir()
    (datadir / ".preparing").symlink_to(target)
    before = traces(datadir / "elsewhere")
    with pytest.raises(InputError, match=r"\.preparing is a symbolic link, expected a folder"):
        prepare(request(datadir, None), SINGLE_PROCESS)
    assert traces(datadir / "elsewhere") == before


def test_arrays_in_splits_that_were_not_prepared_are_neither_overwritten_nor_removed(
    tmp_path, bert, monkeypatch
):
    content = {"test": community_split(4)}
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(content))
    source = PickleSource(tmp_path / "file.pkl", uses_own_text=False)
    without_text = Request(tmp_path, "segment", source, None)
    prepare(without_text, SINGLE_PROCESS)
    array = tmp_path / "train" / "audio50.npy"
    array.parent.mkdir()
    np.save(array, np.zeros(3))
    with pytest.raises(InputError, match=r"train/audio50.npy was not made by this program"):
        decide(replace(without_text, is_forced=True))
    checked = []  # whether they can be written
    monkeypatch.setattr(moving, "check_writable", checked.append)
    prepare(replace(without_text, text=TextRequest(bert, "float32", "cpu")), SINGLE_PROCESS)
    assert (tmp_path / "test" / "bert50.npy").exists()
    assert len(np.load(array)) == 3
    assert checked == [tmp_path / "test"]


def test_one_look_reads_each_manifest_once(datadir, bert, monkeypatch):
    read, read_manifest = [], module.read_manifest
    monkeypatch.setattr(
        module, "read_manifest", lambda folder: (read.append(folder), read_manifest(folder))[1]
    )
    prepare(request(datadir, bert), SINGLE_PROCESS)
    others = [datadir / "word", datadir / "unaligned"]
    assert sorted(read) == sorted([datadir, datadir / ".preparing", *others])


def test_a_plan_travels_to_other_processes(datadir, bert):
    plan = decide(request(datadir, bert))
    assert pickle.loads(pickle.dumps(plan)) == plan


# ---------------------------------------------------------------- --dry_run


def dry_run(program, *options):
    done = program("dataset_prep.py", "--dry_run", *options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_dry_run_touches_nothing(program, datadir, bert):
    before = traces(datadir)
    names = ["--alignment", "segment", "word"]
    output = dry_run(program, "--datadir", datadir, "--bert", bert, *names)
    assert traces(datadir) == before
    assert f"{datadir}/train: arrays" in output
    assert f"{datadir}/word/test: text" in output


def test_dry_run_downloads_nothing(program, datadir):
    (datadir / "csd" / "CMU_MOSEI_COVAREP.csd").unlink()
    before = traces(datadir)
    output = dry_run(program, "--datadir", datadir, "--mirror", "http://127.0.0.1:9/")
    assert traces(datadir) == before
    assert f"{datadir}/csd/CMU_MOSEI_COVAREP.csd  download from http://127.0.0.1:9 " in output
    assert "CMU_MOSEI_Labels.csd" not in output


def test_dry_run_writes_no_demo_and_no_pickles_splits(program, tmp_path):
    assert "write the demo" in dry_run(program, "--demo", "--datadir", tmp_path / "new")
    write_pickle(tmp_path / "file.pkl")
    before = traces(tmp_path)
    dry_run(program, "--from", tmp_path / "file.pkl", "--datadir", tmp_path / "new")
    assert traces(tmp_path) == before


def test_dry_run_tells_of_mistakes(program, tmp_path):
    done = program("dataset_prep.py", "--dry_run", "--from", "nothing.pkl", "--datadir", tmp_path)
    assert done.returncode == 2
    assert "No file nothing.pkl" in done.stderr


def run_in_process(monkeypatch, message, *options, is_dry):
    """Run dataset_prep.py here, and expect this error."""
    command = ["dataset_prep.py", *map(str, options), *(["--dry_run"] if is_dry else [])]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(InputError, match=re.escape(message)):
        dataset_prep.main()


@pytest.fixture
def mistakes(tmp_path, bert):
    """Options that cannot be carried out, by what the error says."""
    lacking = shutil.copytree(bert, tmp_path / "lacking")
    (lacking / "vocab.txt").unlink()
    (tmp_path / "bad.json").write_text('{"train": []}')
    return {
        "No file typo.json": ["--folds", "typo.json"],
        "bad.json holds train; expected": ["--folds", tmp_path / "bad.json"],
        "--bert ./typo is not a folder": ["--bert", "./typo"],
        "lacking has no vocab.txt": ["--bert", lacking],
        "--device cuda:99": ["--bert", bert, "--device", "cuda:99"],
    }


@pytest.mark.parametrize("is_dry", [True, False])
def test_mistakes_are_told_before_files_come(capsys, monkeypatch, mistakes, datadir, is_dry):
    (datadir / "csd" / "CMU_MOSEI_COVAREP.csd").unlink()
    monkeypatch.setattr("data.fetching.download.download", None)
    for message, options in mistakes.items():
        run_in_process(monkeypatch, message, "--datadir", datadir, *options, is_dry=is_dry)
    assert capsys.readouterr().out == ""


def test_dry_run_tells_of_mistakes_where_the_files_are(capsys, monkeypatch, datadir, mistakes):
    for message, options in mistakes.items():
        run_in_process(monkeypatch, message, "--datadir", datadir, *options, is_dry=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("is_dry", [True, False])
def test_mistakes_are_told_before_the_demo_is_written(monkeypatch, tmp_path, is_dry):
    options = ["--demo", "--datadir", tmp_path / "new", "--device", "cuda:99"]
    run_in_process(monkeypatch, "--device cuda:99", *options, is_dry=is_dry)
    assert not list(tmp_path.iterdir())


def test_a_device_that_nothing_needs_is_not_looked_for(program, datadir, bert):
    """All text is there, or none is asked for."""
    prepare(request(datadir, bert), SINGLE_PROCESS)
    assert "keep" in dry_run(program, "--datadir", datadir, "--bert", bert, "--device", "cuda:99")
    assert "keep" in dry_run(program, "--datadir", datadir, "--no_bert", "--device", "cuda:99")


def test_another_dataset_is_refused_before_a_download(monkeypatch, demo, tmp_path):
    shutil.copy(demo / "dataset.json", tmp_path)
    monkeypatch.setattr("data.fetching.download.download", None)
    message = "this would replace it by CMU-MOSEI;"
    run_in_process(monkeypatch, message, "--datadir", tmp_path, is_dry=False)


@pytest.mark.parametrize("is_dry", [True, False])
def test_an_alignment_does_not_replace_another(monkeypatch, capsys, datadir, is_dry):
    """The folder of an alignment is easily given as --datadir."""
    prepare(request(datadir, None, alignment="word"), SINGLE_PROCESS)
    options = ["--datadir", datadir / "word", "--csd", datadir / "csd", "--no_bert"]
    message = "word holds the alignment word, this would replace it by segment; give another"
    run_in_process(monkeypatch, message, *options, is_dry=is_dry)
    monkeypatch.setattr("sys.argv", ["dataset_prep.py", *map(str, options), "--force", "--dry_run"])
    dataset_prep.main()
    assert "make" in capsys.readouterr().out
