"""Requests for preparations in the tests."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest

from data.fetching.demo import DEMO
from data.fetching.server import MOSEI
from data.preparing.pipeline import prepare
from data.preparing.request import Request, TextRequest
from data.preparing.sources import CsdSource
from system.processes import Processes

SINGLE_PROCESS = Processes(1, 0, 0)


def request(datadir, bert, csd_dir=None, dataset=MOSEI, alignment="segment", lengths=(50, 50)):
    csd_dir = csd_dir or datadir / "csd"
    paths = {kind: csd_dir / source.name for kind, source in dataset.sequences.items()}
    lengths = dict(zip(("visual", "audio"), lengths, strict=True))
    source = CsdSource(paths, dataset, dataset.folds, alignment, lengths)
    text = None if bert is None else TextRequest(bert, "float32", "cpu")
    return Request(datadir, alignment, source, text)


def demo_request(datadir, bert):
    return request(datadir, bert, dataset=DEMO)


class Killed(BaseException):
    """Ends a preparation as a kill would: nothing else catches it."""


def prepare_killed_at(asked, name):
    """Prepare, and be killed as the file `name` is moved into place."""
    move = Path.replace

    def move_or_die(self, target):
        if target == asked.folder / name:
            raise Killed
        return move(self, target)

    with patch.object(Path, "replace", move_or_die), pytest.raises(Killed):
        prepare(asked, SINGLE_PROCESS)
