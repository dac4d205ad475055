"""`--attention`: what a model attended to in some segments of an evaluation."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest
import torch
from PIL import Image

from data.loading.split import Split
from models.checkpoint import write_checkpoint
from models.nhfnet.attention import ATTENTION_MAPS
from models.registry import build
from system.errors import InputError
from tests.data.loading.test_split import write_split
from tests.own_model import OWN_MODEL
from tests.pages import check_looks, check_page, needs_browser, texts

pytestmark = pytest.mark.painted

WIDTHS = {"visual": 35, "audio": 74, "text": 16}  # of write_split
# Ids that are no names of files, are alike as such, or would be formulas to matplotlib.
IDS = ["a/b[0]", "a_b[0]", "../../c", "$x^$", "名字", "a" * 300, "*?", "|", "a b", "A b", "."]


@pytest.fixture
def checkpoint(tmp_path):
    """Write an untrained model; returns its file."""

    def write(name="nhfnet", widths=WIDTHS, **settings):
        torch.manual_seed(0)
        model = build(name, settings, widths, 1)
        write_checkpoint(tmp_path / "run" / "best.pth", model, name)
        return tmp_path / "run" / "best.pth"

    return write


@pytest.fixture
def data(tmp_path):
    write_split(tmp_path / "data" / "test", ids=IDS)
    return tmp_path / "data"


def predictions(tmp_path):
    (path,) = tmp_path.glob("result/*/test/predictions.csv")
    with path.open(newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def written(tmp_path):
    """Return the arrays of each segment by its id, and check the pictures."""
    (folder,) = tmp_path.glob("result/*/test/attention")
    segments = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            segments[str(arrays["id"])] = dict(arrays)
        with Image.open(path.with_suffix(".png")) as picture:
            picture.load()
            assert picture.width > 400 and picture.height > 400
    assert len(list(folder.iterdir())) == 2 * len(segments)
    return segments


@pytest.fixture
def sketched(monkeypatch):
    """Draw noise in place of maps, which take seconds."""

    def sketch(path, *_):
        noise = np.random.default_rng(0).integers(2, size=(450, 450), dtype=np.uint8)
        Image.fromarray(noise * 255).save(path)

    monkeypatch.setattr("utils.reports.attention_plot.plot_attention", sketch)


def test_the_worst_segments_have_their_maps(main, checkpoint, data, tmp_path, capsys, sketched):
    main("--datadir", data, "--checkpoint", checkpoint(layers=1), "--attention", 3)
    rows = predictions(tmp_path)
    errors = {id_: abs(float(row["prediction"]) - float(row["label"])) for id_, row in rows.items()}
    found = written(tmp_path)
    assert set(found) == set(sorted(errors, key=errors.get)[-3:])
    split = Split(data / "test")
    for id_, arrays in found.items():
        assert arrays["prediction"] == pytest.approx(float(rows[id_]["prediction"]), abs=1e-5)
        assert arrays["label"] == pytest.approx(float(rows[id_]["label"]))
        shapes = {"tokens_over_audio": (1, 4, 44), "tokens_over_visual": (2, 4, 54)}
        shapes |= {"text_over_fused": (1, 30, 54), "fused_over_text": (1, 54, 30)}
        model = build("nhfnet", {"layers": 1}, WIDTHS, 1)
        model.load_state_dict(torch.load(tmp_path / "run" / "best.pth")["model_state_dict"])
        with torch.no_grad():
            _, maps = model.eval().with_attention(*split[[IDS.index(id_)]].inputs)
        for name, shape in shapes.items():
            assert arrays[name].shape == shape
            np.testing.assert_allclose(arrays[name], maps[name].weights[:, 0], atol=1e-5)
            np.testing.assert_allclose(arrays[name].sum(axis=-1), 1, atol=1e-5)
            axes = [len(arrays[f"{name}_{axis}"]) for axis in ("layers", "rows", "columns")]
            assert axes == list(shape)
        assert arrays["tokens_over_audio_columns"][[0, 39, 40]].tolist() == [
            "audio 1",
            "audio 40",
            "token 1",
        ]
        assert arrays["tokens_over_visual_layers"].tolist() == [
            "pass 1, layer 1",
            "pass 2, layer 1",
        ]
    output = capsys.readouterr()
    assert "Attention of 3 segments is in result/" in output.out
    assert output.err.count("the positions of text are numbered in the pictures: ") == 1


def report(tmp_path):
    (path,) = tmp_path.glob("result/*/test/report.html")
    return path


def test_the_report_shows_the_pictures(main, checkpoint, data, tmp_path, sketched):
    main("--datadir", data, "--checkpoint", checkpoint(), "--attention", 4)
    tree = check_page(report(tmp_path))
    assert "Attention" in texts(tree, "h2")
    shown = [one for one in tree.iter("img") if one.get("class") == "whole"]
    assert [one.get("alt").startswith("Attention: prediction ") for one in shown] == [True] * 4
    assert not any("Shown are" in text for text in texts(tree, "p"))


@needs_browser
def test_a_browser_shows_the_pictures_too(main, checkpoint, data, tmp_path):
    main("--datadir", data, "--checkpoint", checkpoint(), "--attention", 2)
    check_looks({report(tmp_path): 2 + 2})


def test_the_report_shows_as_many_pictures_as_it_has_room_for(
    main, checkpoint, data, tmp_path, monkeypatch, sketched
):
    monkeypatch.setattr("utils.reports.attention._MAX_BYTES", 120_000)
    main("--datadir", data, "--checkpoint", checkpoint(layers=1), "--attention", 8)
    tree = check_page(report(tmp_path))
    shown = [one for one in tree.iter("img") if one.get("class") == "whole"]
    assert 0 < len(shown) < 8
    assert sum(len(one.get("src")) for one in shown) <= 120_000
    told = f"Shown are the first {len(shown)} of 8; all of them are in attention/."
    assert any(told in text for text in texts(tree, "p"))


def test_without_attention_the_report_has_none(main, checkpoint, data, tmp_path):
    main("--datadir", data, "--checkpoint", checkpoint(layers=1))
    assert "Attention" not in texts(check_page(report(tmp_path)), "h2")


def test_all_ids_have_names_of_files_that_are_safe(main, checkpoint, data, tmp_path, sketched):
    main("--datadir", data, "--checkpoint", checkpoint(layers=1), "--attention", "--ids", *IDS)
    assert set(written(tmp_path)) == set(IDS)
    names = [path.name for path in tmp_path.glob("result/*/test/attention/*.npz")]
    assert all(re.fullmatch(r"\d+_[A-Za-z0-9_-]{0,60}\.npz", name) for name in names)
    assert len({name.lower() for name in names}) == len(IDS)


@pytest.mark.parametrize("which", ["segment", "word"])
def test_words_stand_on_the_axes(main, checkpoint, demo, tmp_path, which, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "utils.reports.attention_plot.plot_attention",
        lambda path, title, maps, names, padding: (drawn.update(names), path.touch()),
    )
    widths = {"visual": 35, "audio": 74, "text": 64}
    split = Split(demo / "test")
    folder = tmp_path / "prepared"
    for part in ("test", "dataset.json"):
        (folder / part).parent.mkdir(exist_ok=True)
        (folder / part).symlink_to(demo / part)
    if which == "word":
        (folder / "dataset.json").unlink()
        text = (demo / "dataset.json").read_text().replace('"segment"', '"word"')
        (folder / "dataset.json").write_text(text)
    id_ = next(id_ for id_ in split.ids if id_.startswith("-"))  # as videos of YouTube may
    options = ["--attention", 1, f"--ids={id_}"]
    path = checkpoint(widths=widths, layers=1)
    main("--datadir", folder, "--checkpoint", path, *options)
    (path,) = tmp_path.glob("result/*/test/attention/*.npz")
    with np.load(path) as arrays:
        rows, columns = arrays["text_over_fused_rows"], arrays["tokens_over_audio_columns"]
    if which == "word":
        assert rows.tolist() == columns[:50].tolist() == drawn["text"] == drawn["visual"]
        assert rows[0] == "" != rows[-1]
    else:
        assert rows[0] == "[CLS]" and "[SEP]" in rows.tolist()
        assert columns[0] == "audio 1"
        assert list(drawn) == ["text"]


def test_mult_has_maps_too(main, checkpoint, data, tmp_path):
    main("--datadir", data, "--checkpoint", checkpoint("mult", layers=1), "--attention", 1)
    ((_, arrays),) = written(tmp_path).items()
    assert arrays["text_over_audio"].shape == (1, 30, 40)


def test_what_is_left_out_is_said(main, tmp_path, data, capsys):
    model = build("nhfnet", {"layers": 1, "aggregation_tokens": 0}, WIDTHS, 1)
    write_checkpoint(tmp_path / "a.pth", model, "nhfnet")
    main("--datadir", data, "--checkpoint", "a.pth", "--attention", 1)
    said = "No attention maps of parts that are left out: tokens_over_audio, tokens_over_visual\n"
    assert said in capsys.readouterr().out
    ((_, arrays),) = written(tmp_path).items()
    assert arrays["text_over_fused_columns"][[0, 40]].tolist() == ["audio 1", "visual 1"]
    assert set(ATTENTION_MAPS[2:]) == set(arrays) & set(ATTENTION_MAPS)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("lf_dnn", {}, r"lf_dnn has no attention maps; models with attention maps: nhfnet, mult\."),
        ("text_only", {}, "text_only has no attention maps without audio, visual, aggregation t"),
        ("nhfnet", {"modalities": "audio"}, "nhfnet has no attention maps without text, visual, "),
    ],
)
def test_a_model_without_maps_is_told(main, tmp_path, data, name, settings, message):
    write_checkpoint(tmp_path / "a.pth", build(name, settings, WIDTHS, 1), name)
    with pytest.raises(InputError, match=message):
        main("--datadir", data, "--checkpoint", "a.pth", "--attention", 1)
    assert not (tmp_path / "result").exists()


def test_a_model_of_the_users_own_may_have_maps(main, tmp_path, data):
    (tmp_path / "mine.py").write_text(
        OWN_MODEL + "\n    ATTENTION_MAPS = ('mine',)\n"
        "    def with_attention(self, visual, audio, text):\n        return text.nothing\n"
    )
    name = f"{tmp_path / 'mine.py'}:Mean"
    write_checkpoint(tmp_path / "a.pth", build(name, {}, WIDTHS, 1), name)
    with pytest.raises(InputError, match=r"mine.py:Mean gives no attention maps \(AttributeError"):
        main("--datadir", data, "--checkpoint", "a.pth", "--model", name, "--attention", 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attention", 12], r"--attention 12: data/test has 11 segments; give a smaller number"),
        (["--attention", "--ids", "b", "a/b[0]"], r"--ids: there is no segment 'b' in data/test"),
    ],
)
def test_segments_that_there_are_not_are_told(main, checkpoint, data, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        main("--datadir", "data", "--checkpoint", checkpoint(layers=1), *options)
    assert not (tmp_path / "result").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--attention", 0],
            "expected a whole number of at least 1 and at most 2147483647, got '0'",
        ),
        (["--attention", "-3"], "expected"),
        (["--attention"], "give it a number of segments, or --ids"),
        (["--ids", "a"], "--ids goes with --attention"),
        (["--attention", 3, "--ids", "a"], "--attention 3, but --ids names 1: leave the number"),
        (["--attention", 3, "--no_save"], "leave --no_save out"),
        (["--attention", 3, "--train"], "--attention and --train exclude each other"),
        (["--attention", 3, "--robustness"], "--attention and --robustness exclude each other"),
        (["--attention", 3, "--predict", "p"], "--attention and --predict exclude each other"),
        (["--attention", 3, "--export", "a.onnx"], "--attention and --export exclude each other"),
        (["--attention", 3, "--dry_run"], "--attention and --dry_run exclude each other"),
    ],
)
def test_what_does_not_go_with_it_is_told(main, capsys, options, message):
    with pytest.raises(SystemExit) as caught:
        main("--checkpoint", "a.pth", *options)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_it_goes_with_a_checkpoint_only(main, capsys):
    with pytest.raises(SystemExit):
        main("--attention", 3)
    assert "--checkpoint FILE to evaluate" in capsys.readouterr().err
