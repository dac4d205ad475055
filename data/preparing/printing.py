"""Printing what a preparation would do and what that costs, and what it has made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.layout import SPLITS, TEXT_FILE, TEXT_LENGTH
from data.manifest import splits_of
from data.preparing.plan import Plan, Text
from data.preparing.text import has_same_sentences, sentences_of, started_text
from data.text.bert_files import hidden_size
from data.text.feature_file import count_unencoded
from system.console import format_table, print_heading, print_line

PLAN_HEADER = ("what", "how", "segments", "bytes to write", "sentences to encode")
UNKNOWN = "unknown"


def print_plans(plans: Sequence[Plan], missing: Mapping[Path, str]) -> None:
    """Print what a preparation would do; `missing` maps each source file to how it is obtained."""
    rows: list[Sequence[object]] = [[path, how, "", UNKNOWN, "0"] for path, how in missing.items()]
    for plan in plans:
        rows += plan_rows(plan)
    print_heading("What this would do; nothing has been done.")
    print_line(format_table(PLAN_HEADER, rows))


def plan_rows(plan: Plan) -> list[list[str]]:
    """Return a row for the arrays and one for the text of each split; see `PLAN_HEADER`."""
    rows = []
    if plan.ends_move:
        rows.append([str(plan.request.folder), "end the interrupted move", "", "0", "0"])
    manifest, estimate = plan.arrays_manifest, None
    if manifest is None and plan.files_are_there:
        estimate = plan.request.source.estimate()  # segments by split, bytes a segment
    for split in SPLITS if manifest is None else splits_of(manifest):
        segments = array_bytes = None
        if manifest is not None:
            segments, array_bytes = manifest["splits"][split]["segments"], 0
        elif estimate is not None:
            segments = estimate[0][split]
            array_bytes = segments * estimate[1]
        how, text_bytes, sentences = _plan_text(plan, split, segments)
        limit = "" if manifest is not None else "at most "
        count, *costs = [
            _amount(number, limit) for number in (segments, array_bytes, text_bytes, sentences)
        ]
        folder = plan.request.folder / split
        rows.append([f"{folder}: arrays", plan.arrays.value, count, costs[0], "0"])
        rows.append([f"{folder}: text", how, count, *costs[1:]])
        if plan.adds_pieces:
            rows.append([f"{folder}: word pieces", "add", count, UNKNOWN, "0"])
    return rows


def _plan_text(plan: Plan, split: str, segments: int | None) -> tuple[str, int | None, int | None]:
    """Return how a split's text is made, the bytes to write, and the sentences to encode."""
    manifest, request = plan.arrays_manifest, plan.request.text
    if plan.text is Text.KEEP_IF_SAME:
        manifest = None if plan.prepared is None else plan.prepared.manifest
    if plan.text in (Text.KEEP, Text.KEEP_IF_SAME):
        has_text = manifest is not None and manifest["text"] is not None
        return plan.text.value if has_text else "leave out", 0, 0
    if plan.text is Text.TAKE_OWN:
        return plan.text.value, None, 0
    if plan.text is Text.ENCODE_IF_MISSING or segments is None or request is None:
        return plan.text.value, None, None
    sentences = segments
    if manifest is not None and not plan.ends_move:  # there is a table to read
        for prepared in plan.same_text:
            if has_same_sentences(prepared, plan.arrays_folder, split):
                return f"take from {prepared.folder}", 0, 0
        started = started_text(plan.stage)
        if started is not None and request.is_met_by(started):
            path, size = plan.stage / split / TEXT_FILE, started["batch_size"]
            sentences = count_unencoded(path, sentences_of(plan.arrays_folder / split), size)
        else:
            sentences = len(set(sentences_of(plan.arrays_folder / split)))
    width = hidden_size(request.bert)
    return plan.text.value, width and segments * TEXT_LENGTH * width * 4, sentences


def _amount(number: int | None, limit: str) -> str:
    """Format a number; `limit`, such as "at most ", is put in front unless the number is 0."""
    if number is None:
        return UNKNOWN
    return f"{limit if number else ''}{number:,}"


def print_summary(folder: Path, manifest: dict[str, Any]) -> None:
    """Print how much each split has, and what was left out and why."""
    print_heading(f"{folder}: ready ({manifest['made_from']['dataset']})")
    rows = [
        [split, count["segments"], count["videos"]] for split, count in manifest["splits"].items()
    ]
    print_line(format_table(["split", "segments", "videos"], rows))
    if manifest["left_out"]:
        print_line("\nLeft out, in segments, or rows of the labels file:")
        print_line(format_table(["reason", "count"], list(manifest["left_out"].items())))
    if manifest["text"] is None:
        print_line("\nWithout text features; the same command without --no_bert adds them.")
