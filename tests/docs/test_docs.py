"""What README and docs say: links lead somewhere, commands parse, and copies are true."""

from __future__ import annotations

import re
import shlex
import sys

import pytest

import dataset_prep
import main_msaf
from docs.make_options import PAGE, options_page
from models.registry import MODELS
from tests.forked_programs import ROOT
from tests.own_model import OWN_MODEL
from utils.reports.costs import model_list
from utils.studies.ablations import ABLATIONS, ablation_name

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "benchmarks" / "README.md", ROOT / "result" / "README.md"]
_LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)|src=\"([^\"]+)\"")


def commands(program):
    """Return the arguments of each line of a shell block that starts `program`."""
    lines = [
        line
        for page in PAGES
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    words = [shlex.split(line) for line in lines]
    return [line[line.index(program) + 1 :] for line in words if program in line]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page):
    targets = [a or b for a, b in _LINK.findall(page.read_text(encoding="utf-8"))]
    local = [target for target in targets if not target.startswith("http")]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_links_and_commands_are_found_at_all():
    assert _LINK.findall('[a](docs/a.md) <img src="b.svg">') == [("docs/a.md", ""), ("", "b.svg")]
    assert len(commands("main_msaf.py")) > 8
    assert len(commands("dataset_prep.py")) > 3


@pytest.mark.parametrize("arguments", commands("main_msaf.py"), ids=" ".join)
def test_every_command_of_main_msaf_is_one(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    for folder in ("checkpoints", "checkpoints/tuned"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "run.json").write_text('{"config": {}}')
    parser = main_msaf.build_parser()
    given = vars(parser.parse_args(arguments))
    main_msaf.parse_study(parser, given)
    if not given["models"]:
        main_msaf.parse_config(parser, given)


@pytest.mark.parametrize("arguments", commands("dataset_prep.py"), ids=" ".join)
def test_every_command_of_dataset_prep_is_one(arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dataset_prep.py", *arguments])
    dataset_prep.parse_arguments()


def test_the_page_of_options_is_what_the_parsers_say():
    assert PAGE.read_text(encoding="utf-8") == options_page(), "run `make docs`"


def test_the_page_of_models_has_every_model_with_its_size():
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    listed = [tuple(row) for row in re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", page, re.MULTILINE)]
    sizes = [tuple(line.split()) for line in model_list().splitlines()[2 : 2 + len(MODELS)]]
    assert listed == sizes


def test_the_page_of_studies_has_every_ablation_and_no_other():
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`\w+=[^|]*) \|", page, re.MULTILINE)
    listed = {name for cell in cells for name in re.findall(r"`(.*?)`", cell)}
    assert listed == {ablation_name(change) for change in ABLATIONS if change}


def test_the_page_of_models_shows_the_tests_own_model():
    assert f"```python\n{OWN_MODEL.strip()}\n```" in (ROOT / "docs" / "models.md").read_text(
        encoding="utf-8"
    )
