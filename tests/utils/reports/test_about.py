"""What a report says about the data."""

from __future__ import annotations

import numpy as np
import pytest

from data.loading.split import Split
from tests.data.loading.test_split import write_split
from utils.reports.about import data_section
from utils.tasks import SENTIMENT


@pytest.mark.parametrize(
    ("labels", "text"), [([0, 2], "1.00 ± 1.41"), ([2], "2.00"), ([-0.001], "0.00")]
)
def test_labels_have_their_sample_deviation_as_far_as_they_have_one(tmp_path, labels, text):
    write_split(tmp_path / "test", len(labels), labels=np.float32(labels))
    section = data_section(tmp_path, {"test": Split(tmp_path / "test")}, SENTIMENT)
    _, splits, _ = section.parts
    assert splits.header[3] == "label, mean ± sample deviation"
    assert splits.rows[0][3] == text
