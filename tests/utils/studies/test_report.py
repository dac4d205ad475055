"""A comparison as one page, from records that are written here."""

from __future__ import annotations

import csv
import json
import os

import pytest

from tests.pages import HOSTILE, check_looks, check_page, needs_browser, texts
from tests.utils.reports.test_evaluation import check_png
from tests.utils.studies.test_table import write_run
from utils.studies import plot
from utils.studies.plot import Line, plot_comparison
from utils.studies.report import tabulate, write_study

pytestmark = pytest.mark.painted


def write_curve(folder, values):
    """Write a run's metrics.csv, with a validation MAE by epoch."""
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "split", "mae"])
        for epoch, value in enumerate(values, start=1):
            writer.writerows([[epoch, "train", 9], [epoch, "val", value]])


@pytest.fixture
def study(tmp_path):
    """Two models over two seeds, one in a folder with a hostile name, with and without curves."""
    for seed in (1, 2):
        for name, model in {"a": "nhfnet", HOSTILE.replace("/", "-"): "lf_dnn"}.items():
            settings = {"batch_size": 8 if model == "lf_dnn" else 16, "datadir": tmp_path / "gone"}
            write_run(
                tmp_path / name / f"seed{seed}", 0.1 * seed, model=model, seed=seed, **settings
            )
        write_curve(tmp_path / "a" / f"seed{seed}", [0.5, 0.4, 0.3])
    record = json.loads((tmp_path / "a" / "seed1" / "run.json").read_text())
    record |= {"revision": "abc", "versions": {"torch": "9.9"}, "machine": {"processors": 3}}
    (tmp_path / "a" / "seed1" / "run.json").write_text(json.dumps(record))
    return tmp_path


def rows_of(tree):
    return [["".join(cell.itertext()) for cell in row] for row in tree.iter("tr")]


def test_the_report_has_scores_runs_and_differing_settings(study, capsys):
    tabulate([study], study / "out")
    assert "and report.html" in capsys.readouterr().out
    tree = check_page(study / "out" / "report.html")
    rows = rows_of(tree)
    for name in ("lf_dnn", "nhfnet"):
        assert [name, "2", "0.150 ± 0.071"] in [row[:3] for row in rows]
    assert ["nhfnet", "2", "1", "0.2000", str(study / "a" / "seed2")] in rows
    assert ["batch_size", "8", "16"] in rows
    assert ["epochs", "10"] in rows
    assert ["torch", "9.9"] in rows
    assert ["revision", "abc"] in rows
    assert "0.150 ± 0.071" in texts(tree, "strong")


def test_the_report_has_every_environment_of_the_runs(study):
    path = study / "a" / "seed2" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "revision": "def"}))
    write_study([study], study)
    assert ["revision", "abc; def"] in rows_of(check_page(study / "report.html"))


def test_differences_of_an_earlier_comparison_are_removed(study, capsys):
    (study / "out").mkdir()
    (study / "out" / "differences.csv").write_text("of other models")
    tabulate([study], study / "out")
    assert not (study / "out" / "differences.csv").exists()
    gone, removed, *table = capsys.readouterr().out.splitlines()
    assert "left out, as the test split is gone or has changed" in gone
    assert gone.endswith(str(study / "gone" / "test"))
    assert removed.endswith(str(study / "out" / "differences.csv"))
    assert "differences.csv" not in "".join(table)


def test_the_report_says_why_no_mean_is_bold_and_one_line_does_too(study, capsys):
    write_run(study / "b", 0.1, digest="d2")
    write_study([study], study)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("No score is marked as best, and differences and errors are left out")
    text = " ".join(check_page(study / "report.html").itertext())
    assert "no mean is bold, as the test splits differ in segments or labels" in text


@pytest.mark.parametrize("content", ["nothing\n", "epoch,split,mae\n1,val\n", None])
def test_a_run_without_curves_has_none(study, content):
    path = study / "a" / "seed1" / "metrics.csv"
    if content is None:
        path.unlink()
        os.mkfifo(path)
    else:
        path.write_text(content)
    write_study([study], study)
    check_png(study / "comparison.png", 1440, 520)
    check_page(study / "report.html")


@pytest.fixture
def panels(monkeypatch):
    """Draw a comparison; returns each panel's title and its curves, the grey ones first."""
    figures = []
    monkeypatch.setattr(plot, "save_figure", lambda figure, _: figures.append(figure))

    def draw(lines, reference=None):
        plot_comparison(None, lines, "MAE", reference)
        axes = figures.pop().subfigs[1].axes
        assert len(axes) >= len(lines)
        return [
            (one.get_title(), [line.get_ydata().tolist() for line in one.get_lines()])
            for one in axes[: len(lines)]
        ]

    return draw


def test_each_row_has_a_panel_of_its_curves_before_the_whole_models(panels):
    whole, *changes = lines = [
        Line("nhfnet", [0.1, 0.2], [[0.3, 0.2], [0.4, 0.5]]),
        Line("nhfnet heads=4", [0.1], [[0.7]]),
        Line("nhfnet layers=2", [0.1], []),
    ]
    assert panels(lines, whole) == [
        ("nhfnet", whole.curves),
        ("heads=4", [*whole.curves, [0.7]]),
        ("layers=2", whole.curves),
    ]
    assert panels(changes) == [("nhfnet heads=4", [[0.7]]), ("nhfnet layers=2", [[0.7]])]


def test_long_names_leave_room_for_the_scores(monkeypatch):
    """As after a search, where nine settings differ."""
    figures = []
    monkeypatch.setattr(plot, "save_figure", lambda figure, _: figures.append(figure))
    name = "lf_dnn " + " ".join(f"setting_{number}=0.0093251" for number in range(9))
    plot_comparison(None, [Line(name, [0.88, 0.92], []), Line("lf_dnn", [0.9], [])], "MAE")
    (figure,) = figures
    figure.draw_without_rendering()
    (scores,) = figure.subfigs[0].axes
    assert scores.get_window_extent().width > 0.2 * figure.bbox.width
    title = scores.title.get_window_extent()
    assert 0 <= title.x0 < title.x1 <= figure.bbox.width / 2


def test_the_picture_gets_the_whole_model_as_reference(tmp_path, monkeypatch):
    for number, change in enumerate([{"layers": 2}, {}]):
        write_run(tmp_path / str(number), 0.1, set=change)
    references = []
    monkeypatch.setattr(plot, "plot_comparison", lambda *args: references.append(args[3].name))
    write_study([tmp_path], tmp_path)
    assert references == ["nhfnet"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rows", [1, 2, 40])
def test_rows_of_any_number_and_name_are_drawn(tmp_path, rows):
    names = [r"$\frac{a$", "\ud800\n\x1b", "x" * 1000]
    lines = [Line(names[k % 3], [0.1 * k, 0.2][: 1 + k % 2], [[0.3], []]) for k in range(rows)]
    plot_comparison(tmp_path / "comparison.png", lines, "MAE")
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


@needs_browser
def test_a_browser_shows_a_large_study(tmp_path):
    for number in range(16):
        settings = {"set": {f"a_setting_with_a_name_{number}": number}, "lr": 0.1 + number}
        write_run(tmp_path / str(number), 0.1, **settings)
    write_study([tmp_path], tmp_path)
    check_page(tmp_path / "report.html")
    check_looks({tmp_path / "report.html": 1})
