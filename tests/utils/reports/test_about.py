"""What a report says about the data, and about an evaluated checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data.loading.split import Split
from models.checkpoint import Checkpoint
from tests.data.loading.test_split import write_split
from utils.reports.about import data_section, settings_sections
from utils.run_config import RunConfig
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


@pytest.mark.parametrize("run", [None, "", {}, [5], b"a", 3, torch.ones(2), {"lr": 1, "other": 2}])
def test_what_another_program_calls_a_run_is_not_taken_for_the_settings_of_a_training(run):
    checkpoint = Checkpoint(Path("a.pth"), {}, details={"run": run})
    table = settings_sections(RunConfig(), [checkpoint])[0].parts[0]
    assert table.rows[-1] == ("settings", "not in the file")
    assert len(table.rows) == 3


def test_settings_that_a_checkpoint_lacks_are_not_told(tmp_path):
    checkpoint = Checkpoint(tmp_path / "a.pth", {}, details={"run": {"lr": 0.5}, "epoch": 2})
    table = settings_sections(RunConfig(), [checkpoint])[0].parts[0]
    assert table.rows[1:] == [("epoch", 2), ("lr", 0.5)]
