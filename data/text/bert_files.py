"""Finding the files of a BERT: in a folder, or by name on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from system.errors import InputError, explain_reading, first_line, shown
from system.files import read_json, whole_digest

# In each layout's order of preference.
CONFIG_FILES = ("config.json", "bert_config.json")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
VOCABULARY_FILES = ("vocab.txt", "tokenizer.json")

_MAX_PIECES = 10_000_000  # far more than any vocabulary has


def find_bert(
    name_or_folder: str,
    option: str = "--bert",
    commit: str | None = None,
    with_weights: bool = True,
) -> tuple[Path, str | None]:
    """Return the folder that holds the BERT, and its commit if it is from the Hugging Face hub.

    `option` is the command-line option that named it, for messages. `commit` is the requested
    commit of a hub name (None: the latest). Without `with_weights`, only the tokenizer is needed.
    Raises InputError when it cannot be found or fetched.
    """
    local = _local_folder(name_or_folder, option)
    if local is not None:
        return local, None
    needed = (VOCABULARY_FILES, WEIGHT_FILES) if with_weights else (VOCABULARY_FILES,)
    folder = _fetch(name_or_folder, option, commit, needed)
    return folder, folder.name


def check_bert(name_or_folder: str) -> None:
    """Raise InputError if a BERT's folder is missing or lacks a file; hub names all pass."""
    folder = _local_folder(name_or_folder, "--bert")
    if folder is not None:
        for names in (CONFIG_FILES, VOCABULARY_FILES, WEIGHT_FILES):
            first_existing(folder, names)


def _local_folder(name_or_folder: str, option: str) -> Path | None:
    """Return a BERT's folder, None for a hub name; raises InputError for another path."""
    folder = Path(name_or_folder)
    if folder.is_dir():
        return folder
    if folder.exists() or folder.is_absolute() or name_or_folder.startswith("."):
        raise InputError(f"{option} {name_or_folder} is not a folder; give a folder or a hub name.")
    return None


def find_local_bert(name_or_folder: str, commit: str | None) -> Path | None:
    """Return the folder of a BERT, None if it is not on this machine; fetches nothing."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(name_or_folder).is_dir():
        return Path(name_or_folder)
    try:
        config = try_to_load_from_cache(name_or_folder, CONFIG_FILES[0], revision=commit)
    except HFValidationError:  # the path of a folder that no longer exists
        return None
    return Path(config).parent if isinstance(config, str) else None


def _fetch(name: str, option: str, commit: str | None, needed: Sequence[tuple[str, ...]]) -> Path:
    """Fetch the files not yet cached: the configuration, and one of each group in `needed`."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # its names have moved
        EntryNotFoundError,
        LocalEntryNotFoundError,
        logging,
    )

    # Do not print its retries; the last error is reported below.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it has no type
    try:
        config = Path(hf_hub_download(name, CONFIG_FILES[0], revision=commit))
        commit = config.parent.name  # all files must be of the same commit
        for files in needed:
            cached = (try_to_load_from_cache(name, file, revision=commit) for file in files)
            if any(isinstance(path, str) for path in cached):
                continue
            try:
                hf_hub_download(name, files[0], revision=commit)
            except LocalEntryNotFoundError:  # no connection, as opposed to no such file
                raise
            except EntryNotFoundError:
                hf_hub_download(name, files[1], revision=commit)
    # A broken connection raises an error of the hub's HTTP library, which differs from version
    # to version.
    except Exception as error:
        reason = first_line(error)
        raise InputError(
            f"BERT {name!r} could not be fetched from the Hugging Face hub ({reason}); check the "
            f"name and the connection, or give {option} a folder with config.json, vocab.txt and "
            "model.safetensors."
        ) from error
    return config.parent


def first_existing(folder: Path, names: tuple[str, ...]) -> Path:
    """Return the first of `names` that is in `folder`; raises InputError when none is."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"BERT folder {folder} has no {' or '.join(names)}{_named_kind(folder)}.")


def _named_kind(folder: Path) -> str:
    """Return the end of a message, where the folder's configuration names no BERT, or ""."""
    path = folder / CONFIG_FILES[0]
    values = read_json(path) if path.is_file() else None
    kind = values.get("model_type", "bert") if isinstance(values, dict) else "bert"
    return "" if kind == "bert" else f": it is a {shown(kind)} model, but a 'bert' is needed"


def read_vocabulary(path: Path) -> list[str]:
    """Read the pieces of a vocabulary in order of their numbers, "" for gaps.

    The file is a vocab.txt, or a WordPiece tokenizer.json. Raises InputError when it is something
    else.
    """
    if path.suffix == ".json":
        pieces = _pieces_in_json(path)
    else:
        try:
            with explain_reading(path):
                pieces = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 text: {error}.") from error
    # As a tokenizer has them, which reads a text file.
    pieces = [piece.encode(errors="replace").decode().strip() for piece in pieces]
    return [piece.replace("\n", " ").replace("\r", " ") for piece in pieces]


def _pieces_in_json(path: Path) -> list[str]:
    try:
        model = read_json(path)["model"]
        pieces, kind = model["vocab"], model.get("type", "WordPiece")
        prefix = model.get("continuing_subword_prefix", "##")
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} describes no tokenizer with a vocabulary ({first_line(error)})."
        ) from error
    if (kind, prefix) != ("WordPiece", "##") or not isinstance(pieces, dict):
        raise InputError(
            f"{path} has type {kind}, prefix {prefix!r} and a {type(pieces).__name__} of pieces; "
            f"expected WordPiece, '##' and a dict{_named_kind(path.parent)}."
        )
    numbers = list(pieces.values())
    are_whole = all(type(number) is int and number >= 0 for number in numbers)
    if not are_whole or len(set(numbers)) < len(numbers) or max(numbers, default=0) >= _MAX_PIECES:
        raise InputError(
            f"{path}: the numbers of its pieces must be different whole numbers below "
            f"{_MAX_PIECES:,}; use a BERT vocabulary."
        )
    by_number = {number: piece for piece, number in pieces.items()}
    return [by_number.get(number, "") for number in range(max(numbers, default=-1) + 1)]


def read_config(path: Path) -> dict[str, Any]:
    """Read a BERT's configuration; raises InputError when the file is something else."""
    values = read_json(path)
    if not isinstance(values, dict) or "vocab_size" not in values:
        raise InputError(f"{path} is no BERT configuration: vocab_size is missing.")
    return values


def hidden_size(name_or_folder: str) -> int | None:
    """Return the width of a BERT's features, from its configuration; None for a hub name."""
    folder = Path(name_or_folder)
    if not folder.is_dir():
        return None
    size = read_config(first_existing(folder, CONFIG_FILES)).get("hidden_size")
    return size if isinstance(size, int) else None


def weights_facts(name_or_folder: str) -> dict[str, Any] | None:
    """Return name and SHA-256 of a folder's weights; None for a hub name, which identifies them."""
    folder = Path(name_or_folder)
    if not folder.is_dir():
        return None
    path = first_existing(folder, WEIGHT_FILES)
    return {"name": path.name, "sha256": whole_digest(path)}
