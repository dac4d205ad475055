"""Requests for preparations in the tests."""

from __future__ import annotations

from data.fetching.demo import DEMO
from data.fetching.server import MOSEI
from data.preparing.plan import Request, TextRequest
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
