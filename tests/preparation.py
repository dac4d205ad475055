"""What to prepare, for the tests."""

from __future__ import annotations

from data.demo import DEMO
from data.prepare import Request
from data.segments import Lengths
from data.sources import MOSEI


def request(datadir, bert, csd_dir=None, dataset=MOSEI, alignment="segment"):
    return Request(
        datadir=datadir,
        csd_dir=csd_dir or datadir / "csd",
        dataset=dataset,
        alignment=alignment,
        lengths=Lengths(visual=50, audio=50),
        bert=bert,
        device="cpu",
    )


def demo_request(datadir, bert):
    return request(datadir, bert, dataset=DEMO)
