"""Writing text features in batches, shared among processes, so that a run can be continued."""

from __future__ import annotations

import math
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.layout import TEXT_LENGTH
from data.npy import NpyReader, npy_header
from data.text.pieces import Sentence
from system.files import atomic_write, flush_folder, write_bytes
from system.processes import Processes
from system.progress import progress

if TYPE_CHECKING:
    from data.text.encoder import TextEncoder  # PyTorch, slow to import

# A killed process loses the batches encoded since the last flush.
_SECONDS_BETWEEN_FLUSHES = 2.0
_MARK_BYTES = 4  # a CRC-32


def write_text_features(
    path: Path, sentences: Sequence[Sentence], encoder: TextEncoder, processes: Processes
) -> None:
    """Write the features of `sentences` to `path`, `(n, TEXT_LENGTH, width)`, batch by batch.

    Repeated sentences are encoded once. Batches of an earlier, interrupted call are kept if
    their digests still match. Since the batches are always the same, so is the result, bit for
    bit. The batches are shared among the processes; when the call returns in the first, the
    file is complete and on the disk.
    """
    batches = _batches(sentences, encoder.batch_size)
    first_row: dict[Sentence, int] = {}
    for row, sentence in enumerate(sentences):
        first_row.setdefault(sentence, row)
    if processes.is_first:
        in_pieces = sentences and not isinstance(sentences[0], str)
        length = len(sentences[0][0]) if in_pieces else TEXT_LENGTH
        FeatureFile.prepare(path, (len(sentences), length, encoder.width), len(batches))
    processes.broadcast(None)
    with FeatureFile(path) as file:
        encode_share(batches, first_row, file, encoder, processes)
        processes.broadcast(None)
        if processes.is_first:
            for row, sentence in enumerate(sentences):
                if first_row[sentence] != row:
                    file.write([row], file.read(first_row[sentence])[None])
    if processes.is_first:
        flush_folder(path.parent)


def count_unencoded(path: Path, sentences: Sequence[Sentence], batch_size: int) -> int:
    """Count the sentences that `write_text_features` has yet to encode for `path`."""
    marks = _marks_of(path).read_bytes() if _marks_of(path).is_file() else b""
    batches = _batches(sentences, batch_size)
    return sum(
        len(batch)
        for number, batch in enumerate(batches)
        if not any(marks[number * _MARK_BYTES : (number + 1) * _MARK_BYTES])
    )


def _batches(sentences: Sequence[Sentence], size: int) -> list[list[Sentence]]:
    """Divide the different sentences into batches."""
    different = list(dict.fromkeys(sentences))
    return [different[start : start + size] for start in range(0, len(different), size)]


def encode_share(
    batches: list[list[Sentence]],
    first_row: dict[Sentence, int],
    file: FeatureFile,
    encoder: TextEncoder,
    processes: Processes,
) -> None:
    """Encode this process's share of the batches that are not done yet."""
    share = range(processes.rank, len(batches), processes.count)
    bar = progress(
        total=sum(len(batches[number]) for number in share),
        desc=f"BERT {file.path.parent.name}",
        unit="sentence",
        disable=not processes.is_first,
    )

    def unfinished() -> Iterator[tuple[int, list[int]]]:
        for number in share:
            rows = [first_row[sentence] for sentence in batches[number]]
            if file.is_done(number, rows):
                bar.update(len(rows))
            else:
                yield number, rows

    with bar:
        written, started = tee(unfinished())
        encoded = encoder.encode_batches(batches[number] for number, _ in started)
        for (number, rows), features in zip(written, encoded, strict=True):
            file.write(rows, features)
            file.mark_done(number, rows)
            bar.update(len(rows))
    file.flush()


class FeatureFile:
    """A .npy file of known size, written in any order by any number of processes.

    A file beside it has a digest of each batch, which is 0 until the batch is on the disk. Use
    it as a context manager.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._array = path, NpyReader(path)
        self._file = path.open("r+b")
        self._marks = _marks_of(path).open("r+b", buffering=0)
        self._unmarked: dict[int, int] = {}  # digests of batches perhaps not on the disk yet
        self._flushed_at = time.monotonic()

    @staticmethod
    def prepare(path: Path, shape: tuple[int, ...], batches: int) -> None:
        """Make both files, unless an interrupted call has left them."""
        header, marks, marks_size = npy_header(shape), _marks_of(path), batches * _MARK_BYTES
        size = len(header) + 4 * math.prod(shape)
        if _is_begun(path, header, size) and _is_begun(marks, b"", marks_size):
            return
        path.unlink(missing_ok=True)
        write_bytes(marks, bytes(marks_size))
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            file.write(header)
            file.truncate(size)

    def __enter__(self) -> FeatureFile:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file, self._marks:
            self.flush()

    def is_done(self, batch: int, rows: Sequence[int]) -> bool:
        """Tell whether an earlier call has put a batch on the disk, in these rows."""
        self._marks.seek(batch * _MARK_BYTES)
        mark = int.from_bytes(self._marks.read(_MARK_BYTES), "little")
        return mark != 0 and mark == self._digest(rows)

    def _digest(self, rows: Sequence[int]) -> int:
        digest = 0
        for row in rows:
            digest = zlib.crc32(self.read(row).data, digest)
        return digest or 1

    def mark_done(self, batch: int, rows: Sequence[int]) -> None:
        """Note that a batch is written; it is marked as done once it is on the disk."""
        self._unmarked[batch] = self._digest(rows)
        if time.monotonic() - self._flushed_at >= _SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def flush(self) -> None:
        """Put the written batches on the disk, and only then mark them as done."""
        self._file.flush()
        os.fsync(self._file.fileno())
        for batch, digest in self._unmarked.items():
            self._marks.seek(batch * _MARK_BYTES)
            self._marks.write(digest.to_bytes(_MARK_BYTES, "little"))
        os.fsync(self._marks.fileno())
        self._unmarked.clear()
        self._flushed_at = time.monotonic()

    def write(self, rows: Sequence[int], features: np.ndarray) -> None:
        """Write the features `(len(rows), *row_shape)` of some rows."""
        for row, values in zip(rows, np.ascontiguousarray(features, np.float32), strict=True):
            self._file.seek(self._array.offset + row * self._array.row_bytes)
            self._file.write(values.data)

    def read(self, row: int) -> np.ndarray:
        """Return a row that has been written."""
        self._file.flush()
        return self._array.read([row]).reshape(self._array.shape[1:])


def _is_begun(path: Path, header: bytes, size: int) -> bool:
    """Tell whether there is a file of this size that begins with `header`."""
    if not path.is_file() or path.stat().st_size != size:
        return False
    with path.open("rb") as file:
        return file.read(len(header)) == header


def _marks_of(path: Path) -> Path:
    return path.with_name(path.name + ".done")
