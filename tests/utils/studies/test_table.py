"""The table of runs, from records that are written here."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import statistics
import subprocess
from pathlib import Path

import numpy as np
import pytest

from system.config import plain_values
from system.errors import InputError
from utils.run_config import RunConfig
from utils.studies.report import tabulate
from utils.studies.runs import find_runs
from utils.studies.table import make_table
from utils.studies.table_files import write_table
from utils.tasks.sentiment import score

LABELS = [-2.0, 1.0, 2.0, -1.0]


def write_run(folder, mae, ended=True, scale="mosei", digest="d1", flops=2_500_000, **settings):
    """Write the record of a run whose predictions are off by `mae`."""
    config = RunConfig(**{"model": "nhfnet", "task": "sentiment", **settings})
    scores = score(np.float32(LABELS), np.float32(LABELS) + np.float32([mae, -mae] * 2))
    result = {"epoch": 1, "scores": scores, "parameters": 1234, "flops": flops}
    record = {
        "config": plain_values(config),
        "dataset": {"scores": scale, "digests": {"test": digest}},
        "result": {**result, "samples_per_second": 100.0} if ended else None,
    }
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def names(table):
    return [row.name for row in table.rows]


@pytest.fixture
def study(tmp_path):
    """Two models over two seeds; lf_dnn has the better MAE, nhfnet the better correlation."""
    for seed, mae in {1: 0.2, 2: 0.4}.items():
        write_run(tmp_path / f"a/seed{seed}", mae, seed=seed)
        write_run(tmp_path / f"b/seed{seed}", mae / 2, seed=seed, model="lf_dnn", flops=None)
    return tmp_path


def test_rows_have_mean_and_sample_deviation_over_the_seeds(study):
    table = make_table(find_runs([study]))
    assert names(table) == ["nhfnet", "lf_dnn"]
    assert table.rows[0].scores["mae"] == pytest.approx(
        {"mean": 0.3, "std": statistics.stdev([0.2, 0.4])}
    )
    assert [len(row.runs) for row in table.rows] == [2, 2]


def test_a_row_of_one_run_has_no_deviation(tmp_path):
    write_run(tmp_path / "a", 0.2)
    write_table([tmp_path], tmp_path)
    with (tmp_path / "comparison.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (float(row["mae_mean"]), row["mae_std"]) == (pytest.approx(0.2), "")
    (line,) = json.loads((tmp_path / "comparison.json").read_text())["rows"]
    assert line["scores"]["mae"]["std"] is None
    assert "| nhfnet | 1 | 0.200 |" in (tmp_path / "comparison.md").read_text()


def test_the_whole_model_is_recognised_among_its_changes(tmp_path):
    for number, change in enumerate([{"layers": 2}, {}, {"heads": 4}]):
        write_run(tmp_path / str(number), 0.1, set=change)
    assert make_table(find_runs([tmp_path])).whole.name == "nhfnet"
    alone = make_table(find_runs([tmp_path / "1"]))
    assert (names(alone), alone.whole) == (["nhfnet"], None)
    assert make_table(find_runs([tmp_path / "0", tmp_path / "2"])).whole is None
    write_run(tmp_path / "other", 0.1, model="lf_dnn")
    assert make_table(find_runs([tmp_path])).whole is None


def test_rows_stand_in_the_order_in_which_their_runs_began(tmp_path):
    for folder, model, day in [("a", "lf_dnn", 3), ("b", "nhfnet", 1), ("c", "mult", 2)]:
        path = write_run(tmp_path / folder, 0.1, model=model) / "run.json"
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "started": f"2026-11-0{day}T00:00:00+00:00"}))
    assert names(make_table(find_runs([tmp_path]))) == ["nhfnet", "mult", "lf_dnn"]


def test_the_best_mean_is_marked_in_every_form(study):
    write_table([study], study)
    plain = json.loads((study / "comparison.json").read_text())
    assert [row["scores"]["mae"]["best"] for row in plain["rows"]] == [False, True]
    assert [row["scores"]["acc2"]["best"] for row in plain["rows"]] == [True, True]  # both are 1
    with (study / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert "mae" in rows[1]["best_in"].split()
    assert "mae" not in rows[0]["best_in"].split()
    assert float(rows[0]["mae_mean"]) == pytest.approx(0.3)
    _, _, nhfnet, lf_dnn = (study / "comparison.md").read_text().splitlines()
    assert "| 0.300 ± 0.141 |" in nhfnet
    assert lf_dnn.startswith(r"| lf\_dnn | 2 | **0.150 ± 0.071** |")
    latex = (study / "comparison.tex").read_text()
    assert r"\textbf{0.150 $\pm$ 0.071}" in latex
    header = latex.splitlines()[3]
    assert header.startswith("model & MAE & Corr & ")
    assert header.endswith(r"& parameters & MFLOPs \\")


def test_higher_is_better_for_all_scores_except_mae(tmp_path):
    write_run(tmp_path / "a", 0.1)
    write_run(tmp_path / "b", 2.5, model="lf_dnn")  # every sign is wrong
    table = make_table(find_runs([tmp_path]))
    best = {one.key: [table.is_best(row, one) for row in table.rows] for one in table.task.measures}
    assert best == {key: [True, False] for key in best}


def test_a_negative_score_has_a_minus_in_latex(tmp_path):
    record = json.loads((write_run(tmp_path / "a", 0.1) / "run.json").read_text())
    record["result"]["scores"]["corr"] = -0.059
    (tmp_path / "a/run.json").write_text(json.dumps(record))
    write_table([tmp_path], tmp_path)
    assert " & $-$0.059 & " in (tmp_path / "comparison.tex").read_text()


def test_costs_stand_beside_the_scores(study, capsys):
    tabulate([study], study / "out")
    _, header, _, nhfnet, lf_dnn, *_ = capsys.readouterr().out.splitlines()
    assert header.split()[-3:] == ["parameters", "MFLOPs", "segments/s"]
    assert nhfnet.split()[-3:] == ["1,234", "2.5", "100"]
    assert lf_dnn.split()[-3:] == ["1,234", "-", "100"]


def test_a_name_has_the_settings_in_which_rows_of_a_model_differ(tmp_path):
    write_run(tmp_path / "whole", 0.1)
    write_run(tmp_path / "tokens", 0.1, set={"aggregation_tokens": 0})
    write_run(tmp_path / "slow", 0.1, lr=0.0001, grad_clip=0.5)
    write_run(tmp_path / "other", 0.1, digest="d2")
    write_run(tmp_path / "lf_dnn", 0.1, model="lf_dnn", lr=0.002)
    assert set(names(make_table(find_runs([tmp_path])))) == {
        "nhfnet lr=0.001 data=d1",
        "nhfnet lr=0.001 aggregation_tokens=0 data=d1",
        "nhfnet lr=0.0001 grad_clip=0.5 data=d1",
        "nhfnet lr=0.001 data=d2",
        "lf_dnn data=d1",  # as the test splits differ
    }


def test_rows_of_different_test_splits_are_told_apart_and_none_is_best(tmp_path, capsys):
    write_run(tmp_path / "a", 0.1, digest="d1")
    write_run(tmp_path / "b", 0.2, digest="d2", model="lf_dnn")
    table = write_table([tmp_path], tmp_path)
    assert names(table) == ["nhfnet data=d1", "lf_dnn data=d2"]
    assert not any(table.is_best(row, one) for row in table.rows for one in table.task.measures)
    assert "**" not in (tmp_path / "comparison.md").read_text()
    message = "as the test splits (data= in the names) differ in segments or labels, or are gone"
    assert message in capsys.readouterr().out


def test_a_loss_named_and_the_same_one_by_default_make_one_row(tmp_path):
    write_run(tmp_path / "named", 0.1, loss="mse", seed=1)
    write_run(tmp_path / "default", 0.2, seed=2)
    assert [(row.name, len(row.runs)) for row in make_table(find_runs([tmp_path])).rows] == [
        ("nhfnet", 2)
    ]
    write_run(tmp_path / "other", 0.1, loss="l1")
    assert set(names(make_table(find_runs([tmp_path])))) == {"nhfnet loss=mse", "nhfnet loss=l1"}


def test_runs_of_one_experiment_on_different_machines_make_one_row(tmp_path):
    write_run(tmp_path / "1", 0.1, seed=1)
    write_run(tmp_path / "2", 0.2, seed=2, device="cpu", native=False, compile=True)
    write_run(tmp_path / "3", 0.1, seed=1, precision="bfloat16")
    rows = make_table(find_runs([tmp_path])).rows
    assert {row.name: len(row.runs) for row in rows} == {
        **{"nhfnet precision=float32": 2, "nhfnet precision=bfloat16": 1}
    }


def test_a_name_has_as_many_digits_as_its_row_needs_to_differ(tmp_path):
    for number, lr in enumerate([0.009325150074761313, 0.001]):
        write_run(tmp_path / str(number), 0.1, lr=lr)
    assert names(make_table(find_runs([tmp_path]))) == ["nhfnet lr=0.00933", "nhfnet lr=0.001"]
    write_run(tmp_path / "2", 0.1, lr=0.00932515)
    assert names(make_table(find_runs([tmp_path]))) == [
        "nhfnet lr=0.009325150074761313",
        "nhfnet lr=0.001",
        "nhfnet lr=0.00932515",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": {"scores": "mosei", "digests": {"train": "t2", "val": "v1", "test": "d1"}}},
        {"dataset": {"scores": "mosei", "digests": {"train": "t1", "val": "v2", "test": "d1"}}},
        {"bert": "bert, 5678"},
    ],
    ids=["training data", "validation data", "text encoder"],
)
@pytest.mark.parametrize("seed", [20, 21])
def test_runs_trained_on_different_data_are_separate_rows(tmp_path, change, seed):
    """With one seed, one run would replace the other; with two, a mean would mix two settings."""
    digests = {"train": "t1", "val": "v1", "test": "d1"}
    before = {"dataset": {"scores": "mosei", "digests": digests}, "bert": "bert, 1234"}
    for name, mae, run_seed, facts in ("a", 0.1, 20, before), ("b", 0.3, seed, before | change):
        path = write_run(tmp_path / name, mae, seed=run_seed) / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    table = make_table(find_runs([tmp_path]))
    assert [row.scores["mae"]["mean"] for row in table.rows] == pytest.approx([0.1, 0.3])
    assert len(set(names(table))) == 2


@pytest.mark.parametrize(
    ("digests", "rows"),
    [
        (["a1", "b2"], ["m.py:M model_file=a1", "m.py:M model_file=b2"]),
        (["a1", "a1"], ["m.py:M"]),
        ([None, "a1"], ["m.py:M"]),  # None: of an earlier version
        ([None, "a1", "b2"], ["m.py:M", "m.py:M model_file=a1", "m.py:M model_file=b2"]),
    ],
)
def test_an_edited_model_has_a_row_of_its_own(tmp_path, digests, rows):
    for seed, digest in enumerate(digests):
        path = write_run(tmp_path / str(seed), 0.1, model="m.py:M", seed=seed) / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_digest": digest}))
    assert names(make_table(find_runs([tmp_path]))) == rows


@pytest.mark.parametrize(
    ("digest", "name"), [("1234", "checkpoint=1234"), (None, "checkpoint=pre/best.pth")]
)
def test_runs_that_start_from_weights_have_a_row_of_their_own(tmp_path, digest, name):
    write_run(tmp_path / "scratch", 0.1)
    path = write_run(tmp_path / "warm", 0.3, checkpoint=Path("pre/best.pth")) / "run.json"
    if digest:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"checkpoint_digest": digest}))
    assert names(make_table(find_runs([tmp_path]))) == ["nhfnet", f"nhfnet {name}"]


def test_a_run_given_twice_and_its_copy_count_once(study):
    """The first counts: results are found by the path of the run's folder."""
    shutil.copytree(study / "a/seed1", study / "copy")
    table = make_table(find_runs([study, study / "a", study / "a/seed1"]))
    assert [len(row.runs) for row in table.rows] == [2, 2]
    assert study / "copy" not in [run.folder for run in table.rows[0].runs]


def test_runs_that_have_not_ended_are_left_out_and_named(study, capsys):
    write_run(study / "c/seed1", 0.1, ended=False, model="mult")
    assert names(make_table(find_runs([study]))) == ["nhfnet", "lf_dnn"]
    assert f"not ended: {study / 'c/seed1'}" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"None of the runs has ended.*--resume auto"):
        make_table(find_runs([study / "c"]))


def test_runs_whose_record_cannot_be_read_are_left_out_and_named(study, capsys):
    (study / "a/seed1/run.json").write_text("{")
    assert [len(row.runs) for row in make_table(find_runs([study])).rows] == [1, 2]
    assert f"its run.json cannot be read: {study / 'a/seed1'}\n" in capsys.readouterr().out


def test_runs_without_all_scores_are_left_out_and_named(study, capsys):
    """Versions of the program with other measures wrote such records."""
    path = study / "a/seed1/run.json"
    record = json.loads(path.read_text())
    del record["result"]["scores"]["corr"], record["result"]["scores"]["mae"]
    path.write_text(json.dumps(record))
    assert [len(row.runs) for row in make_table(find_runs([study])).rows] == [1, 2]
    out = capsys.readouterr().out
    assert "its run.json lacks mae, corr, which --train --resume auto" in out
    assert str(path.parent) in out
    with pytest.raises(InputError, match=r"None of the runs has ended with all scores; resume"):
        make_table(find_runs([path.parent]))


def test_of_two_results_for_one_seed_the_later_counts_and_the_other_is_named(study, capsys):
    shutil.copytree(study / "a/seed1", study / "copy")
    write_run(study / "later", 0.6, seed=1)
    path = study / "later" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"started": "2026-11-01"}))
    row = make_table(find_runs([study])).rows[0]
    assert row.scores["mae"]["mean"] == pytest.approx((0.6 + 0.4) / 2)
    (line,) = capsys.readouterr().out.splitlines()
    assert f"{study / 'later'} has the same settings and seed" in line
    assert line.endswith(f"other scores: {study / 'a/seed1'}")


def test_runs_with_other_scores_are_refused(study):
    write_run(study / "c/seed1", 0.1, scale="sims")
    with pytest.raises(InputError, match=r"c/seed1 and .*a/seed1 have different scores.*sims"):
        make_table(find_runs([study]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No run in"),
        ("[]", r"No run in .* \(no run.json that can be read\)"),
        ('\ufeff{"config": {"lr": "fast"}}', "lr is 'fast'"),  # as some editors save it
        ("{}", "run.json is not a valid record"),
        ('{"config": {"lr": "fast"}}', "lr is 'fast'"),
        ('{"config": {}, "dataset": {"scores": "mosei"}}', "run.json is not a valid record"),
        (
            '{"config": {"task": "sentiment"}, "dataset": {"scores": "mosei", '
            '"digests": {"test": "1"}}, "result": {"colour": 1}}',
            "run.json is not a valid record",
        ),
        (
            '{"config": {"task": "sentiment"}, "dataset": {"scores": "mosei", '
            '"digests": {"test": "1"}}, "bert": 5}',
            "run.json is not a valid record",
        ),
        (
            '{"config": {"task": "sentiment"}, "dataset": {"scores": "mosei", '
            '"digests": {"test": "1"}}, "model_digest": ["a"]}',
            r"run.json is not a valid record.* \(model_digest is \['a'\], expected text\)",
        ),
    ],
)
def test_folders_without_a_run_and_damaged_records_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "run.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        find_runs([tmp_path])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [0.5]}, "mapping"),
        ({"scores": {"mae": None}}, "mae is None, expected a number"),
        ({"scores": {"mae": "0.5"}}, "mae is '0.5', expected a number"),
        ({"scores": {"mae": 10**400}}, "too large"),
        ({"parameters": None}, "parameters is None, expected a number"),
        ({"flops": ""}, "flops is '', expected a number"),
        ({"samples_per_second": None}, "samples_per_second is None, expected a number"),
    ],
)
def test_a_result_that_is_not_of_numbers_is_refused(tmp_path, changes, message):
    path = write_run(tmp_path / "a", 0.1) / "run.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "result": record["result"] | changes}))
    with pytest.raises(InputError, match=rf"run.json is not a valid record of a run.*{message}"):
        find_runs([tmp_path])


def test_a_mean_that_rounds_to_0_has_no_sign(tmp_path):
    path = write_run(tmp_path / "a", 0.1) / "run.json"
    record = json.loads(path.read_text())
    record["result"]["scores"]["corr"] = -0.0001
    path.write_text(json.dumps(record))
    write_table([tmp_path], tmp_path)
    assert " | 0.000 | " in (tmp_path / "comparison.md").read_text()


def test_a_score_that_is_nan_is_kept_and_is_not_the_best(tmp_path):
    path = write_run(tmp_path / "a", 0.1) / "run.json"
    record = json.loads(path.read_text())
    record["result"]["scores"]["mae"] = math.nan
    path.write_text(json.dumps(record))
    for name, mae in {"b": 0.2, "c": 0.3}.items():
        write_run(tmp_path / name, mae, model="lf_dnn" if name == "b" else "lmf")
    table = make_table(find_runs([tmp_path]))
    assert math.isnan(table.rows[0].scores["mae"]["mean"])
    (mae,) = (measure for measure in table.task.measures if measure.key == "mae")
    assert [table.is_best(row, mae) for row in table.rows] == [False, True, False]


STRANGE = r"a_b&c%d#e$f{g}h~i^j\k<l>|m" + "\nn.py:M"


def test_strange_names_are_escaped(tmp_path):
    write_run(tmp_path / "a", 0.1, model=STRANGE)
    write_table([tmp_path], tmp_path)
    line = (tmp_path / "comparison.tex").read_text().splitlines()[5]
    assert line.startswith(
        r"a\_b\&c\%d\#e\$f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k"
        r"\textless{}l\textgreater{}\textbar{}m n.py:M & 0.100 & "
    )
    markdown = (tmp_path / "comparison.md").read_text().splitlines()
    assert len(markdown) == 3
    assert len(re.split(r"(?<!\\)\|", markdown[2])) == len(markdown[0].split("|"))


@pytest.mark.parametrize(
    ("name", "latex", "markdown"),
    [
        ("[1cm]n.py:M", "{}[1cm]n.py:M", "[1cm]n.py:M"),
        ("*n.py:M", "{}*n.py:M", r"\*n.py:M"),
        ("a--b---c.py:M", "a-{}-b-{}-{}-c.py:M", "a--b---c.py:M"),
        ("a''b``.py:M", "a'{}'b`{}`.py:M", r"a''b\`\`.py:M"),
        ("[x](y).py:M", "{}[x](y).py:M", r"[x]\(y).py:M"),
        ("a~~b~~&lt;c.py:M", None, r"a\~\~b\~\~\&lt;c.py:M"),
    ],
)
def test_names_that_would_be_markup_are_escaped(tmp_path, name, latex, markdown):
    write_run(tmp_path / "a", 0.1, model=name)
    write_table([tmp_path], tmp_path)
    assert (tmp_path / "comparison.md").read_text().splitlines()[2].startswith(f"| {markdown} |")
    if latex is not None:
        line = (tmp_path / "comparison.tex").read_text().splitlines()[5]
        assert line.startswith(f"{latex} & ")


@pytest.mark.parametrize(("flops", "text"), [(999_000, "0.999"), (1234, "0.00123"), (0, "0")])
def test_flops_below_a_million_have_three_digits(tmp_path, flops, text):
    write_run(tmp_path / "a", 0.1, flops=flops)
    write_table([tmp_path], tmp_path)
    assert f" | {text} | 100 |" in (tmp_path / "comparison.md").read_text()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_the_latex_table_compiles(tmp_path):
    for name in ("nhfnet", STRANGE):
        write_run(tmp_path / str(len(name)), 0.1, model=name)
    write_table([tmp_path], tmp_path)
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{comparison.tex}"
        r"\end{document}"
    )
    command = ["pdflatex", "-halt-on-error", "-interaction=batchmode", "paper.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=200)
    assert (tmp_path / "paper.pdf").is_file()
