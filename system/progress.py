"""Progress bars, the same for every long step."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

_DELAY = 1.0  # seconds; a shorter step shows no bar
# A terminal shows a moving bar, a log file a line from time to time.
_SECONDS_BETWEEN_UPDATES = {True: 0.1, False: 30.0}


def progress(iterable: Any = None, **options: Any) -> tqdm:
    """Wrap `iterable` in a bar on standard error; `options` are tqdm's own."""
    seconds = _SECONDS_BETWEEN_UPDATES[sys.stderr.isatty()]
    return tqdm(iterable, mininterval=seconds, delay=_DELAY, dynamic_ncols=True, **options)
