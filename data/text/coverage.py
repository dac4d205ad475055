"""What a BERT knows of the sentences that it is to encode."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable

import numpy as np

from data.layout import DOUBTFUL_SHARE
from data.text.encoder import TextEncoder
from data.text.pieces import Sentence


def unknown_share(encoder: TextEncoder, split: str, sentences: Iterable[Sentence]) -> float:
    """Return the share of word pieces that the encoder does not know.

    Warns where it is high, or many different sentences are cut into the same pieces: their
    features are equal.
    """
    unknown = encoder.tokenizer.vocab["[UNK]"]
    pieces = unknown_pieces = 0
    cut: Counter[bytes] = Counter()
    for sentence in set(sentences):
        ids, mask = encoder.pieces(sentence) if isinstance(sentence, str) else sentence
        own = np.array(ids)[np.array(mask, dtype=bool)]
        pieces += max(len(own) - 2, 0)  # besides [CLS] and [SEP]
        unknown_pieces += int(np.count_nonzero(own == unknown))
        cut[own.tobytes()] += 1
    equal = sum(count for count in cut.values() if count > 1)
    shares = unknown_pieces / max(pieces, 1), equal / max(sum(cut.values()), 1)
    if max(shares) > DOUBTFUL_SHARE:
        warnings.warn(
            f"{split}: BERT {encoder.description['encoder']} does not know "
            f"{100 * shares[0]:.0f} % of the word pieces, and gives {100 * shares[1]:.0f} % of the "
            "different sentences the features of another; is it one for this language (--bert)?",
            stacklevel=2,
        )
    return shares[0]
