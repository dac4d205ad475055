"""Features that are there, and from which nothing can be learnt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from data.checking.summary import SplitSummary

_MOST = 0.5  # the share of a split that may be so
_ADVICE = "prepare again with a --bert for this language"


def useless_features(
    summary: SplitSummary, sentences: Sequence[str], unknown: float
) -> Iterator[str]:
    """Name the features that tell nothing in more than half of a split.

    `sentences` are those of the table, none without one; `unknown` is the share of word pieces
    that the text encoder did not know.
    """
    for kind, array in summary.arrays.items():
        share = array.zero_segments / max(array.shape[0], 1)
        if kind != "label" and share > _MOST:
            yield f"{array.file}: all zero in {100 * share:.0f} % of the segments; expected values."
    text = summary.arrays.get("text")
    if text is None:
        return
    if unknown > _MOST:
        yield (
            f"{text.file}: the text encoder did not know {100 * unknown:.0f} % of the word "
            f"pieces; {_ADVICE}."
        )
    equal = 0.0
    if len(sentences) == len(text.segment_hashes) > 0:
        hash_of = dict(zip(sentences, text.segment_hashes, strict=True))
        times = Counter(hash_of.values())
        equal = sum(count for count in times.values() if count > 1) / len(hash_of)
    if equal > _MOST:
        yield (
            f"{text.file}: {100 * equal:.0f} % of the different sentences have the features of "
            f"another; {_ADVICE}."
        )
