"""Sentences to BERT features: the encoder's last hidden layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy_format

from data.text.bert import fuse, load_bert
from data.text.bert_files import find_bert, weights_facts
from system.devices import pick_device
from system.errors import InputError
from system.files import atomic_write
from system.processes import Processes
from system.progress import progress

TEXT_LENGTH = 50  # positions: [CLS], at most 48 word pieces, [SEP], padding; or words

# Input ids and attention mask of one sentence that was cut into pieces elsewhere.
WordPieces = tuple[tuple[int, ...], tuple[int, ...]]

_BATCH_SIZE = {"cpu": 32, "cuda": 512}
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TextEncoder:
    """A BERT that turns sentences into features.

    `name_or_folder` is a folder or a name on the Hugging Face hub; see `data.text.bert`.
    `precision` is what it computes in, float32 or bfloat16. `by_word` gives one vector a word
    instead of one a position. Raises InputError when the BERT cannot be had or is not whole.
    """

    def __init__(
        self,
        name_or_folder: str,
        device: str,
        precision: str = "float32",
        by_word: bool = False,
    ) -> None:
        self._device = pick_device(device)
        self._by_word = by_word
        self.tokenizer, model = load_bert(find_bert(name_or_folder))
        self._positions = model.config.max_position_embeddings
        if self._positions < TEXT_LENGTH:
            raise InputError(
                f"BERT {name_or_folder} has {self._positions} positions, expected at least "
                f"{TEXT_LENGTH}."
            )
        self.width: int = model.config.hidden_size
        self._model = fuse(model, _PRECISIONS[precision]).to(self._device)
        self.batch_size = _BATCH_SIZE[self._device.type]
        self.description = {
            "encoder": name_or_folder,
            "weights": weights_facts(name_or_folder),
            "precision": precision,
            "per": "word" if by_word else "position",
            "width": self.width,
            "length": TEXT_LENGTH,
            "batch_size": self.batch_size,
        }

    def pieces(self, sentence: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a sentence's input ids and attention mask, each `(TEXT_LENGTH,)` int64."""
        return self._padded(self.tokenizer.tokenize(sentence)[: TEXT_LENGTH - 2], TEXT_LENGTH)

    def _padded(self, pieces: list[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        ids = self.tokenizer.convert_tokens_to_ids(["[CLS]", *pieces, "[SEP]"])
        padding = (0, length - len(ids))
        mask = np.pad(np.ones(len(ids), dtype=np.int64), padding)
        return np.pad(np.array(ids, dtype=np.int64), padding), mask

    def encode(self, sentences: Sequence[str] | Sequence[WordPieces]) -> np.ndarray:
        """Encode `n` sentences as one batch, `(n, TEXT_LENGTH, width)` float32.

        Sentences cut into pieces elsewhere keep their length.
        """
        if not isinstance(sentences[0], str):
            ids, masks = zip(*sentences, strict=True)
        elif self._by_word:
            return self._encode_words([sentence.split(" ") for sentence in sentences])
        else:
            ids, masks = zip(*map(self.pieces, sentences), strict=True)
        return self.encode_pieces(np.array(ids), np.array(masks))

    def _encode_words(self, sentences: list[list[str]]) -> np.ndarray:
        """Give each of a sentence's last words the mean of its pieces, zeros in front.

        A word without pieces stays zero.
        """
        cut = [
            [self.tokenizer.tokenize(word) for word in words[-TEXT_LENGTH:]] for words in sentences
        ]
        flat = [[piece for word in words for piece in word][: self._positions - 2] for words in cut]
        length = max(map(len, flat)) + 2
        ids, masks = zip(*(self._padded(pieces, length) for pieces in flat), strict=True)
        hidden = self.encode_pieces(np.stack(ids), np.stack(masks))
        features = np.zeros((len(sentences), TEXT_LENGTH, self.width), dtype=np.float32)
        for row, words in enumerate(cut):
            begin = 1  # after [CLS]
            for place, pieces in enumerate(words, start=TEXT_LENGTH - len(words)):
                vectors = hidden[row, begin : min(begin + len(pieces), len(flat[row]) + 1)]
                if len(vectors):
                    features[row, place] = vectors.mean(axis=0)
                begin += len(pieces)
        return features

    @torch.inference_mode()
    def encode_pieces(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Encode input ids and attention mask, both `(n, T)`, to `(n, T, width)` float32."""
        if ids.max() >= len(self.tokenizer.vocab):
            raise InputError(
                f"A word piece has number {ids.max()}, but BERT {self.description['encoder']} "
                f"knows {len(self.tokenizer.vocab)}; give --bert the one that cut the sentences."
            )
        if ids.shape[1] > self._positions:
            raise InputError(
                f"Sentences of {ids.shape[1]} word pieces, but BERT "
                f"{self.description['encoder']} has {self._positions} positions; give another "
                "with --bert."
            )
        on_device = [torch.from_numpy(array).to(self._device) for array in (ids, mask)]
        hidden, _ = self._model(
            on_device[0], attention_mask=on_device[1], output_all_encoded_layers=False
        )
        return hidden.float().cpu().numpy()


def write_text_features(
    path: Path,
    sentences: Sequence[str] | Sequence[WordPieces],
    encoder: TextEncoder,
    processes: Processes,
) -> None:
    """Write the features of `sentences` to `path`, `(n, TEXT_LENGTH, width)`, as they come.

    A file that is complete is left as it is.

    A sentence that occurs again is not encoded again. Batches that an earlier, interrupted
    call wrote are kept, and because the batches are always the same, so is the result, bit for
    bit. The batches are shared out over the processes; when the call returns in the first, the
    file is complete.
    """
    if processes.broadcast(path.is_file() and not _done_path(path).exists()):
        return
    first_row: dict[str | WordPieces, int] = {}
    for row, sentence in enumerate(sentences):
        first_row.setdefault(sentence, row)
    different, size = list(first_row), encoder.batch_size
    batches = [different[start : start + size] for start in range(0, len(different), size)]
    if processes.is_first:
        in_pieces = different and not isinstance(different[0], str)
        length = len(different[0][0]) if in_pieces else TEXT_LENGTH
        _FeatureFile.prepare(path, (len(sentences), length, encoder.width), len(batches))
    processes.broadcast(None)
    with _FeatureFile(path) as file:
        _encode_share(batches, first_row, file, encoder, processes)
        processes.broadcast(None)
        if processes.is_first:
            for row, sentence in enumerate(sentences):
                if first_row[sentence] != row:
                    file.write([row], file.read(first_row[sentence])[None])
    if processes.is_first:
        _done_path(path).unlink()


def _encode_share(
    batches: list[list[str | WordPieces]],
    first_row: dict[str | WordPieces, int],
    file: _FeatureFile,
    encoder: TextEncoder,
    processes: Processes,
) -> None:
    """Encode this process's share of the batches that are not done yet."""
    mine = range(processes.rank, len(batches), processes.count)
    bar = progress(
        total=sum(len(batches[number]) for number in mine),
        desc=f"BERT {file.path.parent.name}",
        unit="sentence",
        disable=not processes.is_first,
    )
    with bar:
        for number in mine:
            if not file.is_done(number):
                rows = [first_row[sentence] for sentence in batches[number]]
                file.write(rows, encoder.encode(batches[number]))
                file.mark_done(number)
            bar.update(len(batches[number]))


class _FeatureFile:
    """A .npy file of known size, written in any order by any number of processes.

    Beside it lies a file with a byte for each batch, set once the batch is written; without
    that file it is complete.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("r+b")
        npy_format.read_magic(self._file)
        shape, _, dtype = npy_format.read_array_header_1_0(self._file)
        self._begin = self._file.tell()
        self._row_shape, self._dtype = shape[1:], dtype
        self._row_bytes = int(np.prod(self._row_shape)) * dtype.itemsize
        self._done = _done_path(path).open("r+b", buffering=0)

    @staticmethod
    def prepare(path: Path, shape: tuple[int, ...], batches: int) -> None:
        """Make both files, unless an interrupted call left them, for the same sentences."""
        done = _done_path(path)
        if path.is_file() and done.stat().st_size == batches:
            with path.open("rb") as file:
                npy_format.read_magic(file)
                if npy_format.read_array_header_1_0(file)[0] == shape:
                    return
        path.unlink(missing_ok=True)
        done.write_bytes(bytes(batches))
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            npy_format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + 4 * int(np.prod(shape)))

    def __enter__(self) -> _FeatureFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._done.close()

    def is_done(self, batch: int) -> bool:
        """Tell whether a batch is written."""
        self._done.seek(batch)
        return self._done.read(1) == b"\1"

    def mark_done(self, batch: int) -> None:
        """Say that a batch is written: after this, no call writes it again."""
        self._file.flush()
        self._done.seek(batch)
        self._done.write(b"\1")

    def write(self, rows: Sequence[int], features: np.ndarray) -> None:
        """Write the features `(len(rows), *row_shape)` of some rows."""
        for row, values in zip(rows, np.ascontiguousarray(features, self._dtype), strict=True):
            self._file.seek(self._begin + row * self._row_bytes)
            self._file.write(values.data)

    def read(self, row: int) -> np.ndarray:
        """Return a row that is written."""
        self._file.flush()
        self._file.seek(self._begin + row * self._row_bytes)
        content = self._file.read(self._row_bytes)
        return np.frombuffer(content, self._dtype).reshape(self._row_shape)


def _done_path(path: Path) -> Path:
    return path.with_name(path.name + ".done")
