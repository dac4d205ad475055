"""Opening an HDF5 file, with a one-line error if it cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from system.errors import InputError, first_line, refuse_if_out_of_memory
from system.file_kind import kind_of_file
from system.files import not_a_file

_CACHE_BYTES = 256 * 1024


def open_hdf5(path: Path) -> h5py.File:
    """Open a computational sequence for reading; raises InputError if it is none, or damaged."""
    if not path.is_file():
        raise InputError(f"{not_a_file(path)}; expected a computational sequence (.csd).")
    try:
        file = _open_for_reading(path)
        # A small metadata cache: each entry is opened only once.
        settings = file.id.get_mdc_config()
        settings.set_initial_size = True
        settings.initial_size = settings.min_size = settings.max_size = _CACHE_BYTES
        file.id.set_mdc_config(settings)
        return file
    except OSError as error:
        size = f"{path.stat().st_size:,} bytes"
        if "truncated" in str(error):
            raise InputError(
                f"{path} is truncated ({size}); delete it and run again to download it anew."
            ) from error
        # Where the system refuses to open any file, this raises its own error.
        found = kind_of_file(path) or f"not an HDF5 file ({size}); delete it"
        raise InputError(
            f"{path} is {found}; expected a computational sequence (.csd): if it is missing, the "
            "same command downloads it."
        ) from error


def _open_for_reading(path: Path) -> h5py.File:
    """Open a file that other programs may read too, also on a drive without file locks."""
    try:
        return h5py.File(path, "r")
    except BlockingIOError as error:
        raise InputError(
            f"{path} is open in another program, which may be writing it; wait until that has "
            "ended, or close it there."
        ) from error
    except OSError as error:
        if "unable to lock file" not in str(error):
            raise
        return h5py.File(path, "r", locking=False)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn HDF5's errors about a damaged file into an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # damaged bytes can fail in any way
        refuse_if_out_of_memory(error, path)
        raise InputError(f"{path} is damaged: {first_line(error)}; download it again.") from error
