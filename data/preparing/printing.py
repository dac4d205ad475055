"""Printing what a preparation has made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from system.console import format_table, print_heading, print_line


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
