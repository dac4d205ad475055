"""Segments with one modality missing, noisy or shifted."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch

from data.layout import SEGMENT_COLUMNS
from data.loading.batches import batches
from data.loading.split import INPUTS, Split
from tests.data.loading.test_split import FILES, on_cpu, write_split
from utils.reports.perturbation import (
    LEVELS,
    UNDISTURBED,
    Perturbation,
    PerturbedSplit,
    effect,
    perturbations,
    shift_rates,
)

SEGMENTS, PADDING = 7, 10
LENGTHS = dict(zip(INPUTS, (50, 40, 30), strict=True))


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Random numbers, behind `PADDING` rows of zeros in every segment."""
    folder = tmp_path_factory.mktemp("split") / "test"
    arrays = write_split(folder, SEGMENTS)
    for kind, file in FILES.items():
        arrays[kind][:, :PADDING] = 0
        np.save(folder / file, arrays[kind])
    return Split(folder)


def read(split, perturbation, rows=range(SEGMENTS), seed=20):
    """Return visual, audio and text by name, disturbed."""
    batch = PerturbedSplit(split, perturbation, seed)[rows]
    return dict(zip(INPUTS, (x.numpy() for x in batch.inputs), strict=True))


def before(split):
    return dict(zip(INPUTS, (x.numpy() for x in split[range(SEGMENTS)].inputs), strict=True))


@pytest.mark.parametrize("case", perturbations(), ids=lambda c: f"{c.modality}-{c.kind}-{c.level}")
def test_only_the_perturbed_modality_of_a_split_changes(split, case):
    disturbed, expected = read(split, case), before(split)
    for name in INPUTS:
        if name != case.modality:
            np.testing.assert_array_equal(disturbed[name], expected[name])
    changes = case.kind == "noise" or int(case.level) != 0  # levels of shifts are in rows
    same = np.array_equal(disturbed[case.modality], expected[case.modality])
    assert same != changes
    disturbed_split = PerturbedSplit(split, case, 20)
    assert (disturbed_split.ids, len(disturbed_split)) == (split.ids, SEGMENTS)
    np.testing.assert_array_equal(disturbed_split.labels, split.labels)


@pytest.mark.parametrize("modality", INPUTS)
@pytest.mark.parametrize("kind", ["missing_random", "missing_block"])
@pytest.mark.parametrize("percent", LEVELS["missing_random"])
def test_the_missing_share_is_of_frames_without_padding(split, modality, kind, percent):
    disturbed = read(split, Perturbation(modality, kind, percent))[modality]
    expected = before(split)[modality]
    frames = LENGTHS[modality] - PADDING
    gone = (disturbed == 0).all(axis=2)[:, PADDING:]
    assert (gone.sum(axis=1) == round(percent / 100 * frames)).all()
    np.testing.assert_array_equal(disturbed[:, PADDING:][~gone], expected[:, PADDING:][~gone])
    borders = np.abs(np.diff(gone.astype(int), axis=1, prepend=0, append=0)).sum(axis=1)
    if kind == "missing_block":
        assert (borders <= 2).all()
    elif percent == 40:
        assert (borders > 2).all()


def test_frames_missing_at_a_lower_level_are_missing_at_higher_ones(split):
    gone = [
        (read(split, Perturbation("audio", "missing_random", percent))["audio"] == 0).all(axis=2)
        for percent in LEVELS["missing_random"]
    ]
    for less, more in pairwise(gone):
        assert (more | ~less).all()


@pytest.mark.parametrize("decibels", LEVELS["noise"])
def test_noise_has_the_signal_to_noise_ratio_in_each_channel_and_spares_padding(tmp_path, decibels):
    arrays = write_split(tmp_path / "test", 20)
    values = arrays["visual"] * np.geomspace(1e-3, 1e3, 35, dtype=np.float32)
    values[:, :PADDING] = 0
    np.save(tmp_path / "test" / FILES["visual"], values)
    perturbation = Perturbation("visual", "noise", decibels)
    disturbed = read(Split(tmp_path / "test"), perturbation, range(20))["visual"]
    assert (disturbed[:, :PADDING] == 0).all()
    signal = (values.astype(np.float64) ** 2).sum(axis=(0, 1))
    noise = ((disturbed.astype(np.float64) - values) ** 2).sum(axis=(0, 1))
    np.testing.assert_allclose(10 * np.log10(signal / noise), decibels, atol=1)


@pytest.mark.parametrize("rows", [-60, -50, -20, 20, 50, 60])
def test_a_shift_moves_rows_and_leaves_zeros(split, rows):
    disturbed = read(split, Perturbation("visual", "shift", rows))["visual"]
    expected = np.zeros_like(disturbed)
    values = before(split)["visual"]
    for row in range(50):
        if 0 <= row + rows < 50:
            expected[:, row + rows] = values[:, row]
    np.testing.assert_array_equal(disturbed, expected)


@pytest.mark.parametrize("kind", LEVELS)
def test_a_disturbance_depends_on_the_seed_and_the_segment_alone(split, kind):
    perturbation = Perturbation("audio", kind, 20)
    whole = read(split, perturbation)["audio"]
    for size in (1, 3):
        loader = batches(PerturbedSplit(split, perturbation, 20), None, on_cpu(size))
        np.testing.assert_array_equal(torch.cat([batch.audio for batch in loader]), whole)
    np.testing.assert_array_equal(read(split, perturbation, [5, 2])["audio"], whole[[5, 2]])
    again = pickle.loads(pickle.dumps(PerturbedSplit(split, perturbation, 20)))
    np.testing.assert_array_equal(again[[5, 2]].audio, whole[[5, 2]])
    if kind != "shift":
        assert not np.array_equal(read(split, perturbation, seed=21)["audio"], whole)
        masks = {(row == before(split)["audio"][n]).tobytes() for n, row in enumerate(whole)}
        assert len(masks) > 1 or kind == "noise"


def test_a_segment_without_frames_stays_empty(tmp_path):
    write_split(tmp_path / "test", 2)
    np.save(tmp_path / "test" / FILES["audio"], np.zeros((2, 40, 74), np.float32))
    for perturbation in perturbations():
        if perturbation.modality == "audio":
            assert not read(Split(tmp_path / "test"), perturbation, [0, 1])["audio"].any()


# Equal effects


def test_perturbations_that_give_the_same_data_have_the_same_effect():
    def same(*kind_and_level, rate=10.0):
        return effect(Perturbation("audio", *kind_and_level), rate, length=15)

    whole = Perturbation("audio", "missing_random", 100)
    assert same("missing_random", 0) == same("missing_block", 0) == same("shift", 0) == UNDISTURBED
    assert same("missing_block", 100) == same("missing_random", 100) == whole
    assert same("shift", 1.5) == same("shift", -2) == whole
    assert same("shift", 0.04) == UNDISTURBED
    assert same("shift", -1) == Perturbation("audio", "shift", -10)
    assert same("noise", 0) == Perturbation("audio", "noise", 0)
    assert same("missing_block", 20) == Perturbation("audio", "missing_block", 20)


# Seconds to rows


def with_times(folder, frames, times):
    """Return a split of segments with these numbers of audio and visual frames, and these times."""
    arrays = write_split(folder, len(frames))
    for kind in ("visual", "audio"):
        for values, count in zip(arrays[kind], frames, strict=True):
            values[: len(values) - count] = 0
        np.save(folder / FILES[kind], arrays[kind])
    rows = [f"s{n},v,{start},{end},a,0" for n, (start, end) in enumerate(times)]
    text = "\n".join([",".join(SEGMENT_COLUMNS), *rows]) + "\n"
    (folder / "segments.csv").write_text(text, encoding="utf-8")
    return Split(folder)


def test_rates_are_measured_where_segments_are_not_cut(tmp_path):
    times = [(0, 2), (1, 5), (2, 2.5), (0, 100), (0, 1)]
    rates = shift_rates(with_times(tmp_path / "test", [20, 36, 5, 40, 0], times))
    assert rates["audio"] == 10  # the 4th is as long as the array, the 5th empty
    assert rates["visual"] == pytest.approx(9.5)  # 40 of 50 rows in 100 s count here


@pytest.mark.parametrize("time", [("", ""), (0, 0), ("x", "2"), ("nan", 1)])
def test_rates_are_those_of_cmu_without_valid_times(tmp_path, time):
    assert shift_rates(with_times(tmp_path / "test", [20], [time])) == {"audio": 100, "visual": 30}


def test_rates_are_those_of_cmu_without_a_table(split):
    assert shift_rates(split) == {"audio": 100, "visual": 30}
