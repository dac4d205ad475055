"""What is checked before anything is downloaded or aligned, which may take hours."""

from __future__ import annotations

from collections.abc import Sequence

from data.fetching.demo import DEMO
from data.preparing.plan import Plan, Text, decide
from data.preparing.request import Request, TextRequest
from data.text.bert_files import check_bert


def decide_all(requests: Sequence[Request], files_are_there: bool) -> list[Plan]:
    """Return a plan for each request; raises InputError for what would only fail later.

    Without `files_are_there`, some files of the sources are missing so far.
    """
    plans = [decide(request, files_are_there) for request in requests]
    text, is_demo = requests[0].text, requests[0].source.title == DEMO.title
    if text is not None and any(plan.text is Text.ENCODE for plan in plans):
        # The demo's BERT is written with its other files.
        _check_encoder(text, bert_is_there=files_are_there or not is_demo)
    return plans


def _check_encoder(text: TextRequest, bert_is_there: bool) -> None:
    """Raise InputError if the BERT's folder lacks a file, or the device is not there."""
    if bert_is_there:
        check_bert(text.bert)
    if text.device.startswith("cuda"):  # PyTorch, slow to import, is not needed for the others
        from system.devices import pick_device

        pick_device(text.device)
