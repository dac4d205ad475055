"""Pictures of attention maps, also with awkward words and sizes."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from models.layers.recording import AttentionMap, layer_names
from utils.reports import attention_plot
from utils.reports.attention_plot import plot_attention

WORDS = ["$x^$", r"\frac{", "名字", "a" * 90, "two\nlines", "", "\x00"]


def attention(layers, rows, columns, uniform=False):
    torch.manual_seed(0)
    shape = layers, sum(rows.values()), sum(columns.values())
    weights = (torch.zeros(shape) if uniform else torch.randn(shape)).softmax(dim=-1)
    return AttentionMap(weights, layer_names(layers), rows, columns)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("maps", "panels"),
    [
        ({"a_over_b": attention(1, {"text": 7}, {"text": 7})}, (1, 1)),
        ({"a": attention(8, {"token": 1}, {"text": 7}, uniform=True)}, (2, 6)),
        (
            {
                "a": attention(2, {"token": 30}, {"audio": 3, "token": 30}),
                "b": attention(4, {"text": 7}, {"visual": 2}),
            },
            (3, 2),
        ),
    ],
)
def test_awkward_words_titles_and_sizes_are_drawn(tmp_path, maps, panels, monkeypatch):
    figures = []
    save = attention_plot.save_figure
    monkeypatch.setattr(
        attention_plot,
        "save_figure",
        lambda figure, path: (figures.append(figure), save(figure, path)),
    )
    padding = {"audio": 1, "visual": 2}
    plot_attention(tmp_path / "a.png", "$a^$ \n" + "名" * 500, maps, {"text": WORDS}, padding)
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        assert image.format == "PNG"
    (figure,) = figures
    rows, columns = panels
    grid = {
        tuple(axes.get_subplotspec().get_geometry()[:2]) for axes in figure.axes[: rows * columns]
    }
    assert grid == {panels}
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) >= sum(len(one.layers) for one in maps.values())
    words = [tick.get_text() for tick in shown[0].get_xticklabels()]
    if "text" in next(iter(maps.values())).columns:
        assert words == ["$x^$", r"\frac{", "名字", "a" * 15 + "…", "two lines", " "]


def test_every_tenth_position_without_a_name_is_numbered():
    texts = attention_plot._position_labels("audio", 25, {})
    assert {n: text for n, text in enumerate(texts, 1) if text} == {1: "1", 10: "10", 20: "20"}
    assert attention_plot._position_labels("token", 4, {}) == ["z1", "z2", "z3", "z4"]
    assert [t for t in attention_plot._position_labels("token", 12, {}) if t] == ["z1", "z10"]
