"""Coverage-guided search for files that a reader does not refuse in one line.

    pip install atheris
    python -m tests.fuzz.guided pickle|npy|csd CORPUS_DIR [-max_total_time=600]

What comes after the reader's name goes to libFuzzer. A fresh corpus begins with the mutators'
files. It stops at the first error, and writes the input that led to it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import atheris
import numpy as np

from tests.csd_files import all_features

del sys.modules["pickle"]  # to be imported again, and followed
with atheris.instrument_imports(include=["data", "system", "pickle"]):
    from data.formats import safe_pickle
    from data.formats.csd import ComputationalSequence
    from data.npy import NpyReader
    from system.errors import InputError
    from tests.fuzz import arrays, csd, pickles


def read_csd(path: Path) -> None:
    """Read all of a computational sequence."""
    with ComputationalSequence(path) as sequence:
        for video in sequence.videos:
            all_features(sequence.read(video))


def read_npy(path: Path) -> None:
    """Read the header of an array, and its first segment."""
    reader = NpyReader(path)
    reader.read([0] if len(reader) else [])


def npy_files() -> Iterator[tuple[str, bytes]]:
    """Yield hostile arrays."""
    return arrays.cases(1, 200, {"a.npy": arrays.npy(np.zeros((2, 3, 4), np.float32))})


READERS: dict[str, tuple[Callable[[Path], object], Callable[[], Iterator[tuple[str, bytes]]]]] = {
    "pickle": (safe_pickle.load, lambda: pickles.cases(1, 200)),
    "npy": (read_npy, npy_files),
    "csd": (read_csd, lambda: csd.cases(1, 200)),
}


def main() -> None:
    """Search until the time is over."""
    name, corpus = sys.argv[1], Path(sys.argv[2])
    read, files = READERS[name]
    corpus.mkdir(exist_ok=True)
    if not any(corpus.iterdir()):
        for index, (_, content) in enumerate(files()):
            (corpus / str(index)).write_bytes(content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"

        def one(content: bytes) -> None:
            path.write_bytes(content)
            try:
                read(path)
            except InputError as error:
                assert "\n" not in str(error), error

        options = ["-timeout=30", "-rss_limit_mb=1500", "-max_len=60000"]
        atheris.Setup([sys.argv[0], *options, *sys.argv[2:]], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
