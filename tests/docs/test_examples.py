"""The notebook runs, on the demo's data."""

from __future__ import annotations

import pytest

from tests.forked_programs import ROOT


def test_the_notebook_runs(demo, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="needs requirements-dev.txt")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "CMU_MOSEI").symlink_to(demo)
    (tmp_path / "examples").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "examples" / "nhfnet.ipynb", as_version=4)
    place = {"metadata": {"path": str(tmp_path / "examples")}}
    nbclient.NotebookClient(notebook, timeout=300, resources=place).execute()
    outputs = [cell.outputs[-1] for cell in notebook.cells if cell.get("outputs")]
    texts = [output.data["text/plain"] for output in outputs if "data" in output]
    assert "(138, 1)" in texts[0]
    assert "PosixPath('../demo/notebook/checkpoints')" in texts[0]
    assert "'acc7'" in texts[1]
    assert texts[2].count("[") == 4
    assert (tmp_path / "demo" / "notebook" / "checkpoints" / "best.pth").is_file()


def test_the_notebook_is_committed_without_what_it_printed():
    text = (ROOT / "examples" / "nhfnet.ipynb").read_text(encoding="utf-8")
    assert '"outputs": []' in text
    assert '"output_type"' not in text
