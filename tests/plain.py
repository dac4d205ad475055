"""A second, literal NHFNet and aligner, written directly from their definitions.

Nothing here is optimised or shared with the program: tests compare the fast code with it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-5  # seconds


class PlainEncoder(nn.Module):
    """An encoder on an `Encoder`'s state dict, computed head by head without fused operations."""

    def __init__(self, weights: dict[str, Tensor], layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.weights, self.n_layers, self.heads, self.dropout = weights, layers, heads, dropout

    def norm(self, x, name):
        return F.layer_norm(
            x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], 1e-5
        )

    def embed(self, x):
        width = x.shape[-1]
        half = width // 2
        table = torch.zeros(x.shape[1], width, dtype=x.dtype, device=x.device)
        for t in range(x.shape[1]):
            for k in range(half):
                angle = (t + 1) * math.exp(-k * math.log(10000) / (half - 1))
                table[t, k], table[t, half + k] = math.sin(angle), math.cos(angle)
        not_padding = (x[:, :, 0] != 0).unsqueeze(-1)
        return math.sqrt(width) * x + torch.where(not_padding, table, torch.zeros_like(table))

    def attention(self, x, memory, name):
        weights = self.weights
        width = x.shape[-1]
        head = width // self.heads
        packed, bias = weights[f"{name}.in_proj_weight"], weights[f"{name}.in_proj_bias"]
        q = x @ packed[:width].T + bias[:width]
        k = memory @ packed[width : 2 * width].T + bias[width : 2 * width]
        v = memory @ packed[2 * width :].T + bias[2 * width :]
        results = []
        for h in range(self.heads):
            part = slice(h * head, (h + 1) * head)
            scores = (q[..., part] * head**-0.5) @ k[..., part].transpose(1, 2)
            scores = F.dropout(torch.softmax(scores, dim=-1), self.dropout, self.training)
            results.append(scores @ v[..., part])
        joined = torch.cat(results, dim=-1)
        return joined @ weights[f"{name}.out_proj.weight"].T + weights[f"{name}.out_proj.bias"]

    def forward(self, x, memory=None):
        weights = self.weights
        x = self.embed(x)
        memory = None if memory is None else self.embed(memory)
        for n in range(self.n_layers):
            name = f"layers.{n}"
            queries = self.norm(x, f"{name}.layer_norms.0")
            kv = queries if memory is None else self.norm(memory, f"{name}.layer_norms.0")
            x = x + self.attention(queries, kv, f"{name}.self_attn")
            hidden = self.norm(x, f"{name}.layer_norms.1")
            hidden = hidden @ weights[f"{name}.fc1.weight"].T + weights[f"{name}.fc1.bias"]
            hidden = torch.relu(hidden)
            x = x + hidden @ weights[f"{name}.fc2.weight"].T + weights[f"{name}.fc2.bias"]
        return self.norm(x, "layer_norm")


class PlainNHFNet(nn.Module):
    """NHFNet's forward pass, step by step, on the parameters of a `models.NHFNet`."""

    def __init__(
        self,
        state: dict[str, Tensor],
        cross_modal_dropout: float = 0.4,
        wiring: str = "released",
    ) -> None:
        super().__init__()
        # Parameters may not have dots in their names; the order is the state dict's.
        self.values = nn.ParameterList(nn.Parameter(value.clone()) for value in state.values())
        self.names = list(state)
        self.cross_modal_dropout, self.wiring = cross_modal_dropout, wiring

    def encoder(self, name, dropout=0.0):
        prefix = f"{name}."
        weights = {
            full.removeprefix(prefix): value
            for full, value in zip(self.names, self.values, strict=True)
            if full.startswith(prefix)
        }
        encoder = PlainEncoder(weights, layers=4, heads=8, dropout=dropout)
        return encoder.train(self.training)

    def lstm(self, x, name):
        weights = dict(zip(self.names, self.values, strict=True))
        size = weights[f"{name}.weight_hh_l0"].shape[1]
        h = c = x.new_zeros(len(x), size)
        steps = []
        for t in range(x.shape[1]):
            gates = x[:, t] @ weights[f"{name}.weight_ih_l0"].T + weights[f"{name}.bias_ih_l0"]
            gates = gates + h @ weights[f"{name}.weight_hh_l0"].T + weights[f"{name}.bias_hh_l0"]
            i, f, g, o = gates.split(size, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            steps.append(h)
        return torch.stack(steps, dim=1)

    def forward(self, visual, audio, text):
        weights = dict(zip(self.names, self.values, strict=True))
        audio_visual = self.encoder("audio_visual_encoder")
        cross_modal = self.encoder("cross_modal_encoder", self.cross_modal_dropout)
        self_attention = self.encoder("self_attention_encoder")
        a = audio_visual(audio @ weights["audio_linear.weight"].T + weights["audio_linear.bias"])
        v = audio_visual(visual @ weights["visual_linear.weight"].T + weights["visual_linear.bias"])
        z = torch.zeros(len(a), 4, 32, dtype=a.dtype, device=a.device)
        u = audio_visual(torch.cat([a, z], dim=1))
        w = audio_visual(torch.cat([u[:, -4:], v], dim=1))
        f = audio_visual(w)
        x = self.lstm(self.lstm(text, "text_lstms.0"), "text_lstms.1")
        t = F.layer_norm(x, (32,), weights["text_norm.weight"], weights["text_norm.bias"], 1e-5)
        if self.wiring == "figure":
            f_cross, t_cross = cross_modal(f, t), cross_modal(t, f)
            total = self_attention(t)[:, -1] + self_attention(f)[:, -1]
            total = total + self_attention(t_cross)[:, -1] + self_attention(f_cross)[:, -1]
        else:
            h = self_attention(t)
            f_cross, h_cross = cross_modal(f, h), cross_modal(h, f)
            total = h[:, -1] + f[:, -1]
            total = total + self_attention(h_cross)[:, -1] + self_attention(f_cross)[:, -1]
        return total @ weights["output.weight"].T + weights["output.bias"]


def plain_rows(intervals, start, end):
    """Return the rows, in the order of `intervals`, that belong to the segment [start, end]."""
    rows = []
    for row, (row_start, row_end) in enumerate(intervals):
        overlap = min(row_end, end) - max(row_start, start)
        if row_start < end + EPSILON and row_end > start - EPSILON and overlap > EPSILON:
            rows.append(row)
    return rows


def plain_sorted(intervals, features):
    order = sorted(range(len(intervals)), key=lambda row: intervals[row][0])
    return [tuple(intervals[row]) for row in order], [features[row] for row in order]


def plain_padded(rows, length, width):
    rows = rows[-length:]
    return np.array([np.zeros(width)] * (length - len(rows)) + rows, dtype=np.float32)


def plain_segments(sequences, video, lengths):
    """Align one video's segments: `{"words": (intervals, features), ...}` by kind.

    Yields the label's row, the words, and the visual and audio arrays.
    """
    rows = {kind: plain_sorted(*sequences[kind][video]) for kind in ("words", "visual", "audio")}
    for k, (start, end) in enumerate(sequences["labels"][video][0]):
        if end - start < EPSILON:
            continue
        inside = {kind: plain_rows(intervals, start, end) for kind, (intervals, _) in rows.items()}
        if not all(inside.values()):
            continue
        words = [rows["words"][1][row] for row in inside["words"]]
        visual, audio = (
            plain_padded([features[row] for row in inside[kind]], length, len(features[0]))
            for kind, length in zip(("visual", "audio"), lengths, strict=True)
            for _, features in [rows[kind]]
        )
        yield k, words, visual, audio


def plain_word_segments(sequences, video, lengths):
    """Align one video's segments by word; yields the same as `plain_segments`."""
    intervals, words = plain_sorted(*sequences["words"][video])
    timed = [row for row, (start, end) in enumerate(intervals) if end - start >= EPSILON]
    intervals, words = [intervals[row] for row in timed], [words[row] for row in timed]
    averages = {}
    for kind in ("visual", "audio"):
        kind_intervals, features = plain_sorted(*sequences[kind][video])
        width = sequences[kind][video][1].shape[1]
        averages[kind] = []
        for start, end in intervals:
            inside = [features[row] for row in plain_rows(kind_intervals, start, end)]
            averages[kind].append(np.mean(inside, axis=0) if inside else np.zeros(width))
    for k, (start, end) in enumerate(sequences["labels"][video][0]):
        inside = plain_rows(intervals, start, end) if end - start >= EPSILON else []
        rows = [plain_rows(sequences[kind][video][0], start, end) for kind in ("visual", "audio")]
        if inside and all(rows):
            visual, audio = (
                plain_padded([averages[kind][row] for row in inside], length, features.shape[1])
                for kind, length in zip(("visual", "audio"), lengths, strict=True)
                for _, features in [sequences[kind][video]]
            )
            yield k, [words[row] for row in inside], visual, audio
