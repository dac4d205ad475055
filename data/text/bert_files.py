"""Finding the files of a BERT: in a folder, or by name on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from system.errors import InputError, first_line
from system.files import read_json, whole_digest

# In each layout's order of preference.
CONFIG_FILES = ("config.json", "bert_config.json")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
VOCABULARY_FILES = ("vocab.txt", "tokenizer.json")

_MOST_PIECES = 10_000_000  # far more than any vocabulary has


def find_bert(
    name_or_folder: str,
    option: str = "--bert",
    commit: str | None = None,
    with_weights: bool = True,
) -> tuple[Path, str | None]:
    """Return the folder that holds the BERT, and the commit where it is the Hugging Face hub's.

    `option` is what gave its name. `commit` is the one that is wanted of a name (None: the latest).
    Without `with_weights`, the tokenizer is enough.

    The address built into pytorch_pretrained_bert is not to be relied on, so names are fetched
    (once, then kept) through huggingface_hub. Raises InputError when that fails.
    """
    folder = Path(name_or_folder)
    if folder.is_dir():
        return folder, None
    if folder.exists() or folder.is_absolute() or name_or_folder.startswith("."):
        raise InputError(
            f"{option} {name_or_folder} is not a folder; give a BERT folder or a name."
        )
    needed = (VOCABULARY_FILES, WEIGHT_FILES) if with_weights else (VOCABULARY_FILES,)
    folder = _fetch(name_or_folder, option, commit, needed)
    return folder, folder.name


def find_kept_bert(name_or_folder: str, commit: str | None) -> Path | None:
    """Return the folder of a BERT that is on this machine, None where it is not."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(name_or_folder).is_dir():
        return Path(name_or_folder)
    try:
        config = try_to_load_from_cache(name_or_folder, CONFIG_FILES[0], revision=commit)
    except HFValidationError:  # a folder that is no longer there
        return None
    return Path(config).parent if isinstance(config, str) else None


def _fetch(name: str, option: str, commit: str | None, needed: Sequence[tuple[str, ...]]) -> Path:
    """Fetch what is not yet here: the configuration, and of each of `needed` one."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # its names have moved
        EntryNotFoundError,
        LocalEntryNotFoundError,
        logging,
    )

    # Its retries are not shown; what went wrong in the end comes below.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it has no type
    try:
        config = Path(hf_hub_download(name, CONFIG_FILES[0], revision=commit))
        commit = config.parent.name  # of which all files are to be
        for files in needed:
            kept = (try_to_load_from_cache(name, file, revision=commit) for file in files)
            if any(isinstance(path, str) for path in kept):
                continue
            try:
                hf_hub_download(name, files[0], revision=commit)
            except LocalEntryNotFoundError:  # no connection, as opposed to no such file
                raise
            except EntryNotFoundError:
                hf_hub_download(name, files[1], revision=commit)
    # A connection that breaks off comes through as an error of the hub's HTTP library, which
    # is another one from version to version.
    except Exception as error:
        reason = first_line(error)
        raise InputError(
            f"BERT {name!r} could not be fetched from the Hugging Face hub ({reason}); check the "
            f"name and the connection, or give {option} a folder with config.json, vocab.txt and "
            "model.safetensors."
        ) from error
    return config.parent


def one_of(folder: Path, names: tuple[str, ...]) -> Path:
    """Return the first of `names` that is in `folder`; raises InputError when none is."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"BERT folder {folder} has no {' or '.join(names)}.")


def read_vocabulary(path: Path) -> list[str]:
    """Read a tokenizer.json of WordPiece: the pieces by number, "" where there is none.

    Raises InputError when it is something else.
    """
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
            f"{path} is of {kind} and {prefix!r}, expected BERT's, WordPiece and '##'."
        )
    numbers = list(pieces.values())
    are_whole = all(type(number) is int and number >= 0 for number in numbers)
    if not are_whole or len(set(numbers)) < len(numbers) or max(numbers, default=0) >= _MOST_PIECES:
        raise InputError(
            f"{path} does not number its pieces from 0 on, each once; it is no BERT vocabulary."
        )
    by_number = {number: piece for piece, number in pieces.items()}
    return [by_number.get(number, "") for number in range(max(numbers, default=-1) + 1)]


def read_config(path: Path) -> dict[str, Any]:
    """Read a BERT's configuration; raises InputError when it is something else."""
    values = read_json(path)
    if not isinstance(values, dict) or "vocab_size" not in values:
        raise InputError(f"{path} is no BERT configuration: vocab_size is missing.")
    return values


def hidden_size(name_or_folder: str) -> int | None:
    """Return the width of a BERT's features by its configuration; None for a name."""
    folder = Path(name_or_folder)
    if not folder.is_dir():
        return None
    size = read_config(one_of(folder, CONFIG_FILES)).get("hidden_size")
    return size if isinstance(size, int) else None


def weights_facts(name_or_folder: str) -> dict[str, Any] | None:
    """Return what tells a folder's weights from others; None for a name, which says it itself."""
    folder = Path(name_or_folder)
    if not folder.is_dir():
        return None
    path = one_of(folder, WEIGHT_FILES)
    return {"name": path.name, "sha256": whole_digest(path)}
