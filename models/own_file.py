"""Running the file of a user's own model, which can import the modules beside it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from system.errors import InputError, described

_neighbours: dict[str, Path] = {}  # the folder of each module that such a file imported from there


def import_file(path: Path) -> Any:
    """Return the module of a file, which is run anew at each call; raises InputError.

    PyTorch's random generator is left as it was: a file that seeds it would otherwise give every
    training the same initial weights.
    """
    if not path.is_file():
        raise InputError(f"--model: there is no file {path}; give FILE.py:CLASS.")
    spec = importlib.util.spec_from_file_location(f"model_of_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # as of every .py file
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        with torch.random.fork_rng(devices=[]), _finding_modules_in(path.resolve().parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's own code can fail in any way
        reason = described(error)
        raise InputError(f"--model: {path} cannot be imported ({reason}).") from error
    return module


@contextmanager
def _finding_modules_in(folder: Path) -> Iterator[None]:
    """Let imports find the modules in `folder`, after all others of these names."""
    _forget_neighbours_of_others(folder)
    entry = str(folder)
    if entry in sys.path:
        yield
        return
    loaded = set(sys.modules)
    sys.path.append(entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)
        new = {name for name in sys.modules.keys() - loaded if "." not in name}
        _neighbours.update({name: folder for name in new if _is_in(folder, sys.modules[name])})


def _is_in(folder: Path, module: Any) -> bool:
    """Return whether a module or package lies directly in `folder`."""
    attributes = getattr(module, "__dict__", {})  # a file may put any object into sys.modules
    places = [attributes.get("__file__"), *attributes.get("__path__", ())]
    return any(Path(place).parent == folder for place in places if place is not None)


def _forget_neighbours_of_others(folder: Path) -> None:
    """Let a name stand for the module in `folder`, not for one beside another model's file."""
    forgotten = {name for name, other in _neighbours.items() if other != folder}
    for name in forgotten:
        del _neighbours[name]
    for name in list(sys.modules):
        if name.partition(".")[0] in forgotten:
            del sys.modules[name]
