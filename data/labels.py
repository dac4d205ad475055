"""What the labels of a segment are: sentiment, then six emotions."""

from __future__ import annotations

import numpy as np

LABEL_LIMIT = 3  # labels lie in [-3, 3]
CLASS_NAMES = {
    value: f"{value:+d}" if value else "0" for value in range(-LABEL_LIMIT, LABEL_LIMIT + 1)
}


def sentiment_class(values: np.ndarray, limit: int = LABEL_LIMIT) -> np.ndarray:
    """Round to the nearest whole sentiment (halves to even) and clip to [-limit, limit]."""
    return np.clip(np.round(values), -limit, limit).astype(np.int8)
