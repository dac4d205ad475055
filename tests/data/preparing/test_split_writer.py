"""What is written into a segment table is read from it again."""

from __future__ import annotations

import numpy as np
import pytest

from data.layout import read_segments
from data.preparing.split_writer import SplitWriter

SHAPES = {"visual": (1, 1), "label": (1, 1)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x" * 200_000, "x" * 200_000),
        ('a "b", c\r\nd', 'a "b", c\r\nd'),
        ("half \udcff", "half ?"),
        ("猫", "猫"),
        ("a\0b", "a\ufffdb"),
    ],
    ids=["long", "quoted", "half", "wide", "zero"],
)
def test_any_text_comes_back(tmp_path, text, expected):
    arrays = {kind: np.zeros((1, *shape), np.float32) for kind, shape in SHAPES.items()}
    with SplitWriter(tmp_path, SHAPES) as writer:
        writer.write(arrays, [(text, text, 0.0, 1.0, text)])
    (row,) = read_segments(tmp_path)
    assert (row["id"], row["video"], row["sentence"]) == (expected,) * 3
