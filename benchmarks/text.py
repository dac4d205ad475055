"""Text features: this program against pytorch_pretrained_bert one sentence at a time.

    python -m benchmarks.text [--sentences 64] [--rounds 3] [--device cpu]

Both run in this process, in turn, on a BERT of bert-base's size with random weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from pytorch_pretrained_bert import BertConfig, BertModel
from safetensors.torch import save_file

from benchmarks import record
from data.text.bert import load_bert
from data.text.encoder import TextEncoder
from system.devices import PRECISIONS

WORDS = [f"word{n}" for n in range(500)]


def write_bert(folder: Path) -> None:
    """Write a BERT of bert-base's size with random weights."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    config = BertConfig(30522)
    torch.manual_seed(0)
    (folder / "config.json").write_text(config.to_json_string())
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    save_file(BertModel(config).state_dict(), folder / "model.safetensors")


def seconds_of(function: Callable[[], object], device: str) -> float:
    """Time one call, the device's work included."""
    begin = time.perf_counter()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


COLUMNS = {
    "way": "{way}",
    "seconds": "{seconds:.2f}",
    "sentences/s": "{sentences_per_s:.1f}",
    "times as fast": "{times:.2f}",
    "largest difference": "{difference:.1e}",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--sentences", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")


def measure(arguments: argparse.Namespace) -> Iterable[record.Row]:
    """Give seconds, sentences a second and the ratio of each way."""
    device, rng = arguments.device, np.random.default_rng(0)
    lengths = rng.integers(5, 48, arguments.sentences)
    sentences = [" ".join(rng.choice(WORDS, length)) for length in lengths]
    with tempfile.TemporaryDirectory() as name:
        write_bert(Path(name))
        encoders = {p: TextEncoder(name, device, p) for p in PRECISIONS}
        _, model = load_bert(Path(name))
    model.to(device)
    ids, masks = map(np.stack, zip(*map(encoders["float32"].pieces, sentences), strict=True))

    @torch.inference_mode()
    def one_at_a_time() -> np.ndarray:
        rows = [
            model(
                torch.from_numpy(ids[row : row + 1]).to(device),
                attention_mask=torch.from_numpy(masks[row : row + 1]).to(device),
                output_all_encoded_layers=False,
            )[0]
            for row in range(len(ids))
        ]
        return torch.cat(rows).cpu().numpy()

    def in_batches(precision: str) -> np.ndarray:
        encoder = encoders[precision]
        size = encoder.batch_size
        return np.concatenate(
            [encoder.encode(sentences[n : n + size]) for n in range(0, len(sentences), size)]
        )

    ways = {
        "pytorch_pretrained_bert, one at a time": one_at_a_time,
        "this program, float32": lambda: in_batches("float32"),
        "this program, bfloat16": lambda: in_batches("bfloat16"),
    }
    results = {way: function() for way, function in ways.items()}  # warms up, too
    rounds = [
        {way: seconds_of(function, device) for way, function in ways.items()}
        for _ in range(arguments.rounds)
    ]
    first = next(iter(ways))
    for way in ways:
        taken = np.median([times[way] for times in rounds])
        ratio = np.median([times[first] / times[way] for times in rounds])
        yield {
            "way": way,
            "seconds": float(taken),
            "sentences_per_s": float(len(sentences) / taken),
            "times": float(ratio),
            "difference": float(abs(results[way] - results[first]).max()),
        }


if __name__ == "__main__":
    record.main(__doc__, COLUMNS, add_arguments, measure)
