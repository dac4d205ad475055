"""A partly downloaded file: its bytes so far, and the version that they belong to.

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

    def is_continued_by(self, answer: Version) -> bool:
        """Tell whether the bytes of a partial answer may be appended to bytes of this version.

        The request had If-Range, but not every server respects it. A partial answer may leave
        out the validator and the length.
        """
        return answer.validator in (None, self.validator) and (
            None in (self.length, answer.length) or self.length == answer.length
        )


class Part:
    """The bytes of a file so far, and the version that they belong to."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._version_path = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        """The number of bytes on disk."""
        return self.path.stat().st_size if self.path.exists() else 0

    def version_to_resume(self, url: str) -> Version | None:
        """Return the version of which `url` can send the rest, or None if it has to start over."""
        try:
            version = Version(**json.loads(self._version_path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError, RecursionError):
            return None
        return version if self.size and version.validator and version.url == url else None

    def start_over(self, version: Version) -> None:
        """Drop the bytes, and only then record the version of those to come."""
        self.path.open("wb").close()
        write_json(self._version_path, asdict(version))

    def forget_version(self) -> None:
        """Make the next attempt start over; the bytes are kept until a server sends new ones."""
        self._version_path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Flush the bytes to the disk, then rename the part to the target."""
        flush_file(self.path)
        self.path.replace(self.target)
        flush_folder(self.target.parent)
        self.forget_version()
