"""A file that has come in part: which bytes there are, and of which version.

The bytes are in `<name>.part` beside the target, with `<name>.part.json` saying which version of
which file they belong to.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from system.files import flush_file, flush_folder, write_json


@dataclass(frozen=True)
class Version:
    """Which content of which file a server sent: equal versions are the same bytes."""

    url: str
    validator: str | None  # for If-Range: a strong ETag, else the Last-Modified date
    length: int | None

    def is_continued_by(self, other: Version) -> bool:
        """Whether `other`, from a partial answer, may be joined to bytes of this version.

        The server was asked by If-Range already, but not every server heeds it. A partial
        answer may leave the validator and the length out.
        """
        return other.validator in (None, self.validator) and (
            None in (self.length, other.length) or self.length == other.length
        )


class Part:
    """The bytes of a file so far, and the version that they belong to."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._version_path = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size if self.path.exists() else 0

    def version_to_resume(self, url: str) -> Version | None:
        """The version to ask `url` for the rest of, or None if it has to start over."""
        try:
            version = Version(**json.loads(self._version_path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError, RecursionError):
            return None
        return version if self.size and version.validator and version.url == url else None

    def start_over(self, version: Version) -> None:
        """Drop the bytes and note the version of those to come, never the other way round."""
        self.path.open("wb").close()
        write_json(self._version_path, asdict(version))

    def forget_version(self) -> None:
        """Make the next attempt start over; the bytes stay until a server sends new ones."""
        self._version_path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Turn the part into the target, once its bytes are on the disk."""
        flush_file(self.path)
        self.path.replace(self.target)
        flush_folder(self.target.parent)
        self.forget_version()
