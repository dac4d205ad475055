"""Text features: this program against pytorch_pretrained_bert one sentence at a time.

    python -m benchmarks.text [--sentences 64] [--rounds 3] [--device cpu]

All run in this process, in turn, on a BERT of bert-base's size with random weights. The table also
has the speed of a product of two matrices of 4,096 x 4,096 values in the same precision, as the
machine's limit. Operations are counted for all 50 positions, which the first way computes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pytorch_pretrained_bert import BertConfig, BertModel
from safetensors.torch import save_file
from torch import nn

from benchmarks import record
from data.text.encoder import TextEncoder
from data.text.feature_file import TEXT_LENGTH
from system import onednn
from system.devices import PRECISIONS

WORDS = [f"word{n}" for n in range(500)]
_BASELINE = "pytorch_pretrained_bert, one at a time"
_LARGE = 4096  # rows and columns of a large matrix


def write_bert(folder: Path) -> BertModel:
    """Write and return a BERT of bert-base's size with random weights."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    config = BertConfig(30522)
    torch.manual_seed(0)
    (folder / "config.json").write_text(config.to_json_string())
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    model = BertModel(config).eval()
    save_file(model.state_dict(), folder / "model.safetensors")
    return model


def seconds_of(function: Callable[[], object], device: str) -> float:
    """Return the seconds of one call, including the device's work."""
    begin = time.perf_counter()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def sentence_flops(config: BertConfig) -> int:
    """Return the number of additions and multiplications for TEXT_LENGTH positions."""
    width, length = config.hidden_size, TEXT_LENGTH
    projections = 4 * width**2 + 2 * width * config.intermediate_size
    return config.num_hidden_layers * (2 * length * projections + 4 * length**2 * width)


def large_products(device: str, precision: str) -> dict[str, Callable[[], object]]:
    """Return functions that multiply two large matrices, PyTorch's and this program's, by name."""
    layer = nn.Linear(_LARGE, _LARGE, device=device, dtype=getattr(torch, precision))
    x = torch.randn(_LARGE, _LARGE, device=device, dtype=layer.weight.dtype)
    ways: dict[str, Callable[[torch.Tensor], object]] = {"PyTorch": layer}
    if onednn.multiplies(x):
        ways["this program"] = lambda x: onednn.linear(x, layer.weight, layer.bias)
    return {f"{precision} product, {way}": partial(run, x) for way, run in ways.items()}


COLUMNS = {
    "way": "{way}",
    "seconds": "{seconds:.2f}",
    "sentences/s": "{sentences_per_s:.1f}",
    "GFLOP/s": "{gflops:.0f}",
    "GFLOP/s of a large product": "{product_gflops:.0f}",
    "times as fast": "{times:.2f}",
    "largest difference": "{difference:.1e}",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--sentences", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")


def measure(arguments: argparse.Namespace) -> Iterable[record.Row]:
    """Yield a row for each way to encode sentences."""
    device, rng = arguments.device, np.random.default_rng(0)
    lengths = rng.integers(5, 48, arguments.sentences)
    sentences = [" ".join(rng.choice(WORDS, length)) for length in lengths]
    with tempfile.TemporaryDirectory() as name:
        model = write_bert(Path(name)).to(device)
        encoders = {p: TextEncoder(name, device, p) for p in PRECISIONS}
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
        batches = (sentences[n : n + size] for n in range(0, len(sentences), size))
        return np.concatenate(list(encoder.encode_batches(batches)))

    ways = {_BASELINE: one_at_a_time}
    ways |= {f"this program, {p}": partial(in_batches, p) for p in PRECISIONS}
    products = {p: large_products(device, p) for p in PRECISIONS}
    results = {way: function() for way, function in ways.items()}  # also warms up
    functions = dict(ways)
    for product_functions in products.values():
        functions |= product_functions
    with torch.inference_mode():
        rounds = [
            {way: seconds_of(function, device) for way, function in functions.items()}
            for _ in range(arguments.rounds)
        ]
    seconds = {way: float(np.median([times[way] for times in rounds])) for way in functions}
    flops = len(sentences) * sentence_flops(model.config)
    for way in ways:
        precision = "bfloat16" if way.endswith("bfloat16") else "float32"
        product = min(seconds[name] for name in products[precision])
        yield {
            "way": way,
            "seconds": seconds[way],
            "sentences_per_s": len(sentences) / seconds[way],
            "gflops": flops / seconds[way] / 1e9,
            "product_gflops": 2 * _LARGE**3 / product / 1e9,
            "times": float(np.median([times[_BASELINE] / times[way] for times in rounds])),
            "difference": float(abs(results[way] - results[_BASELINE]).max()),
        }


if __name__ == "__main__":
    record.main(__doc__, COLUMNS, add_arguments, measure)
