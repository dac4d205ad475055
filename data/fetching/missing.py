"""Downloading the .csd files that are missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data.fetching.download import download
from data.fetching.server import SequenceFile
from data.formats.csd import check_csd
from data.layout import DOWNLOAD_LOCK
from system.console import print_line
from system.files import make_folder
from system.locks import lock_folder


def download_missing(missing: Mapping[Path, SequenceFile], host: str) -> None:
    """Download files of one folder from `host`; raises FolderInUse while another process does."""
    csd_dir = next(iter(missing)).parent
    make_folder(csd_dir)
    with lock_folder(csd_dir, DOWNLOAD_LOCK, "Another preparation is downloading into", "--csd"):
        for path, file in missing.items():
            if not path.is_file():  # another preparation may have ended just now
                print_line(f"Downloading {file.name}")
                download(f"{host}/{file.server_path}", path, check_csd)
