"""The kind of a file whose name is wrong, by its first bytes."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from system.errors import InputError, first_line, refuse_if_out_of_memory

_LONGEST_START = 400  # bytes: enough for the name of a zip archive's first record
_ZIP = b"PK\x03\x04"
_OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # `torch.save` before PyTorch 1.6
_SAFETENSORS = ".safetensors"
_NPZ = (
    "NumPy arrays in an archive (.npz); give the pickle of the same data, or make one of these "
    "(numpy.load, pickle.dump)"
)
_KINDS = {
    b"\x1f\x8b": "compressed by gzip; unpack it first (gunzip)",
    b"BZh": "compressed by bzip2; unpack it first (bunzip2)",
    b"\xfd7zXZ": "compressed by xz; unpack it first (unxz)",
    **dict.fromkeys(
        (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda"),
        "compressed by zlib, perhaps by joblib; make it a pickle (joblib.load, pickle.dump)",
    ),
    b"\x28\xb5\x2f\xfd": "compressed by Zstandard; unpack it first (unzstd)",
    _ZIP: "a zip archive; unpack it first (unzip)",
    b"Rar!": "a rar archive; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"version https://git-lfs": "a Git-LFS pointer, not the file itself; fetch that (git lfs pull)",
    b"<!doctype html": "a web page (HTML); delete it and download the file itself",
    b"<html": "a web page (HTML); delete it and download the file itself",
    b"<?xml": "an XML page; delete it and download the file itself",
    b"\x89HDF": "an HDF5 file; .csd files go into --csd DIR",
    b"\x93NUMPY": "a NumPy array (.npy)",
    b"%PDF": "a PDF",
}


def kind_of_file(path: Path) -> str | None:
    """Return the kind of a file and what to do about it; None if the kind is unknown."""
    with path.open("rb") as file:
        start = file.read(_LONGEST_START)
    if b"/data.pkl" in start or start.startswith(_OLD_TORCH):  # else a damaged file of torch.save
        is_renamed = path.suffix == _SAFETENSORS
        return "a file of torch.save; rename it to end in .pth" if is_renamed else None
    header_bytes = int.from_bytes(start[:8], "little")
    if start[8:10] == b'{"' and path.suffix == _SAFETENSORS:
        return None  # a damaged one; the length of its header may be the mark of another kind
    if start[8:10] == b'{"' and header_bytes < path.stat().st_size:
        return f"a safetensors file; a checkpoint of this kind is to end in {_SAFETENSORS}"
    first_name = start[30 : 30 + int.from_bytes(start[26:28], "little")]  # in a zip archive
    # `numpy.savez` writes its arrays into no folder.
    if start.startswith(_ZIP) and first_name.endswith(b".npy") and b"/" not in first_name:
        return _NPZ
    if not start:
        return "an empty file; delete it and download it anew"
    if start[257:262] == b"ustar":  # the magic of a tar archive
        return "a tar archive; unpack it first (tar -xf)"
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next(
        (kind for begin, kind in _KINDS.items() if start.lower().startswith(begin.lower())), None
    )


def refuse_unread(error: Exception, path: Path, expected: str, advice: str) -> NoReturn:
    """Raise InputError, which says why `path` could not be read and ends with `advice`.

    The file is of another kind than `expected`, or damaged, or needs more memory than is free.
    """
    refuse_if_out_of_memory(error, path)
    kind = kind_of_file(path)
    if kind is not None:
        raise InputError(f"{path} is {kind}; expected {expected}: {advice}") from error
    raise InputError(
        f"{path} is not {expected}, or is damaged ({path.stat().st_size:,} bytes; "
        f"{first_line(error)}); {advice}"
    ) from error
