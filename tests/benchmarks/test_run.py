"""The tables of benchmarks/README.md are those of results.json."""

from __future__ import annotations

import json

import pytest

from benchmarks import record, run

RECORD = {
    "command": "python benchmarks/train.py",
    "date": "2026-01-02",
    "machine": "2 cores",
    "versions": {"torch": "2.13.0"},
    "other_work": 0.0,
    "columns": {"batch": "{batch}", "a step": "{ms:.1f} ms"},
    "rows": [{"batch": 16, "ms": 12.34}],
}
PAGE = "before\n<!-- table: train -->\n{}\n<!-- end -->\nafter\n"


def test_a_table_is_replaced_and_the_rest_stays():
    page = run.rendered(PAGE.format("old"), {"train": RECORD})
    assert page.startswith(
        "before\n<!-- table: train -->\n`python benchmarks/train.py`, 2026-01-02"
    )
    assert page.endswith("\n| 16 | 12.3 ms |\n<!-- end -->\nafter\n")
    assert run.rendered(page, {"train": RECORD}) == page
    assert "not to be trusted" not in page


def test_a_table_without_a_record_says_so_and_the_next_one_is_filled():
    page = "<!-- table: text -->\n<!-- end -->\n" + PAGE.format("old")
    page = run.rendered(page, {"train": RECORD})
    assert page.startswith("<!-- table: text -->\nNot measured yet.\n<!-- end -->\nbefore\n")
    assert "| 16 | 12.3 ms |" in page


def test_figures_of_a_busy_machine_are_marked():
    page = run.rendered(PAGE.format("old"), {"train": RECORD | {"other_work": 0.31}})
    assert "**Other work took 31 % of the machine: these figures are not to be trusted.**" in page


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(run, "PAGE", tmp_path / "README.md")
    run.PAGE.write_text(PAGE.format("old"))
    return tmp_path


def test_what_was_measured_is_written_at_once_and_checked(files, monkeypatch):
    monkeypatch.setattr(run, "run_benchmark", lambda name: RECORD)
    monkeypatch.setattr("sys.argv", ["run.py", "train"])
    run.main()
    monkeypatch.setattr("sys.argv", ["run.py", "--check"])
    run.main()
    run.PAGE.write_text(run.PAGE.read_text().replace("12.3 ms", "11.3 ms"))
    with pytest.raises(SystemExit, match=r"tables of .*README.md differ from results.json"):
        run.main()


def test_an_unknown_name_is_refused(files, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run.py", "speed"])
    with pytest.raises(SystemExit):
        run.main()
    assert "no benchmark speed" in capsys.readouterr().err


def test_a_killed_benchmark_keeps_its_rows_so_far(tmp_path, monkeypatch):
    path = tmp_path / "record.json"

    def measure(arguments):
        yield {"ms": 1.0}
        yield {"ms": 2.0}
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["train.py", "--json", str(path)])
    with pytest.raises(KeyboardInterrupt):
        record.main("", {"a step": "{ms:.1f} ms"}, lambda parser: None, measure)
    written = json.loads(path.read_text())
    assert written["rows"] == [{"ms": 1.0}, {"ms": 2.0}]
    assert written["columns"] == {"a step": "{ms:.1f} ms"}
