"""Fetch large files over HTTP from servers that cut connections and are often down.

When a transfer breaks, `data.fetching.part` keeps the received bytes, so that the next attempt, in
this run or a later one, requests only the rest (RFC 9110, sections 13.1.5 and 14).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import sleep
from urllib.parse import urlsplit

import requests
import validators
from urllib3.exceptions import HTTPError, InvalidHeader
from urllib3.util.retry import Retry

from data.fetching.part import Part, Version
from data.fetching.server import CMU_HOST, SequenceFile
from data.formats.csd import check_csd
from data.layout import DOWNLOAD_LOCK
from system.console import print_line, print_note
from system.errors import InputError
from system.files import make_folder
from system.locks import lock_folder
from system.progress import progress

_CONNECT_AND_READ_SECONDS = (10.0, 60.0)
_MAX_PAUSE_SECONDS = 60.0
# A broken connection loses at most one chunk.
_CHUNK_BYTES = 1 << 16

_ALTERNATIVES = (
    "name another host with --mirror URL, a folder that has the files with --csd DIR, "
    "or a processed pickle of MMSA or MulT with --from FILE"
)


class _BrokenTransfer(Exception):
    """A failed attempt that may succeed if it is repeated, after `wait_seconds` at least."""

    def __init__(self, reason: str, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


def checked_host(url: str) -> str:
    """Return `url` without trailing slashes if it can be the start of a file's address.

    Raises InputError if it is not an http or https address, or has a query or a fragment.
    """
    valid = validators.url(url, simple_host=True, validate_scheme=("http", "https").__contains__)
    if not valid or "?" in url or "#" in url:
        raise InputError(
            f"the mirror {url!r} is not an http or https address; "
            f"write it like {CMU_HOST} or http://localhost:8000/path"
        )
    return url.rstrip("/")


def download_missing(missing: Mapping[Path, SequenceFile], host: str) -> None:
    """Download files of one folder from `host`; raises FolderInUse while another process does."""
    csd_dir = next(iter(missing)).parent
    make_folder(csd_dir)
    with lock_folder(csd_dir, DOWNLOAD_LOCK, "Another preparation is downloading into", "--csd"):
        for path, file in missing.items():
            if not path.is_file():  # another preparation may have ended just now
                print_line(f"Downloading {file.name}")
                download(f"{host}/{file.server_path}", path, check_csd)


def download(
    url: str,
    target: Path,
    check: Callable[[Path], object],
    *,
    attempts: int = 5,
    first_pause: float = 2.0,
) -> None:
    """Fetch `url` to `target`, which is created or replaced only when complete and checked.

    An earlier call's part is resumed if the file is still the same on the server. Broken
    connections, timeouts, short bodies and answers 429 and 5xx are tried again.

    `check` is called with the path of the complete part, and raises InputError if that is not the
    expected file; the part is then removed. It gives up after `attempts` failures in a row; one at
    which the part has grown counts as the first of a new row. After the first failure it pauses
    for `first_pause` seconds, and twice as long each further time; a server's Retry-After can
    lengthen the pause. A pause is a minute at most.

    Raises InputError if the server cannot be reached, keeps breaking the connection, refuses the
    file or sends another one; OSError if the file cannot be written, as on a full disk. The bytes
    received so far are kept then.
    """
    make_folder(target.parent)
    part = Part(target)
    largest_size = failures = 0
    while (broken := _attempt(url, part)) is not None:
        # A transfer of hours may break any number of times, as long as the part grows.
        failures = 1 if part.size > largest_size else failures + 1
        largest_size = max(largest_size, part.size)
        if failures >= attempts:
            raise InputError(
                f"{_host(url)} does not deliver {url} ({broken}); run the same command again "
                f"later, which resumes what it can, or {_ALTERNATIVES}"
            )
        pause = max(first_pause * 2 ** (failures - 1), broken.wait_seconds)
        pause = min(pause, _MAX_PAUSE_SECONDS)
        print_note(f"{_host(url)}: {broken}; next attempt in {pause:.0f} s")
        sleep(pause)
    _check(url, part, check)
    part.finish()


def _check(url: str, part: Part, check: Callable[[Path], object]) -> None:
    """Run the caller's check; if it fails, remove the part and report what was sent."""
    try:
        check(part.path)
    except InputError as error:
        with part.path.open("rb") as file:
            start = file.read(40)
        # Without its advice, which is about a file that stays.
        reason = str(error).replace(str(part.path), part.target.name).partition("; ")[0]
        message = (
            f"{url} is not the expected file: {reason.removesuffix('.')}. The server sent "
            f"{part.size:,} bytes that start with {start!r}, now removed; {_ALTERNATIVES}"
        )
        part.path.unlink()
        part.forget_version()
        raise InputError(message) from error


def _attempt(url: str, part: Part) -> _BrokenTransfer | None:
    """Make one request and append its body; return the failure, None if the part is complete."""
    resumed = part.version_to_resume(url)
    # With compression, offsets and lengths would not be those of the file.
    headers = {"Accept-Encoding": "identity"}
    if resumed is not None:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": str(resumed.validator)}
    # An error that the caller is handling is not the cause of a new one.
    handled_before = sys.exc_info()[1]
    try:
        with requests.get(
            url, headers=headers, stream=True, timeout=_CONNECT_AND_READ_SECONDS
        ) as response:
            _refuse(url, response)
            _receive(url, response, part, resumed)
    except _BrokenTransfer as error:
        return error
    except (requests.RequestException, HTTPError) as error:
        return _BrokenTransfer(_root_reason(error, handled_before))
    return None


def _refuse(url: str, response: requests.Response) -> None:
    """Raise an error unless the answer can be the file or a part of it."""
    answer = f"{response.status_code} {response.reason}".strip()
    if response.status_code == 429 or response.status_code >= 500:
        raise _BrokenTransfer(f"it answered {answer}", _retry_after(response))
    if response.status_code not in (200, 206, 416):
        raise InputError(f"{_host(url)} answered {answer} for {url}; {_ALTERNATIVES}")
    # Some networks and servers answer any request with a web page: it must not replace a part
    # that took hours.
    if response.ok and response.headers.get("Content-Type", "").startswith("text/html"):
        raise InputError(f"{_host(url)} sent a web page (text/html) for {url}; {_ALTERNATIVES}")


def _receive(url: str, response: requests.Response, part: Part, resumed: Version | None) -> None:
    """Append the body to the part, or start over; raise _BrokenTransfer if the body is short."""
    start, version = _start_and_version(url, response)
    total = version.length
    if response.status_code == 200:
        part.start_over(version)
    elif resumed is not None and start == part.size and resumed.is_continued_by(version):
        total = resumed.length if total is None else total
    else:
        part.forget_version()
        raise _BrokenTransfer("the file on the server has changed, or it sent another part of it")
    if response.status_code != 416:
        _write(response, part, total)
    if total is not None and part.size != total:
        raise _BrokenTransfer(f"{part.size} of {total} bytes arrived")


def _start_and_version(url: str, response: requests.Response) -> tuple[int | None, Version]:
    """Return the body's start in the file, and the file's version, from the headers.

    The answer 416, that the file has no bytes after the part, counts as an empty body at the
    file's end.
    """
    headers = response.headers
    start: int | None = 0
    length = _number(headers.get("Content-Length"))
    if response.status_code != 200:
        content_range = headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\S+)", content_range)
        start, length = map(_number, match.groups()) if match else (None, None)
        start = length if response.status_code == 416 else start
    etag = headers.get("ETag", "")
    # RFC 9110, section 13.1.5: If-Range must not have a weak ETag.
    validator = etag if etag.startswith('"') else headers.get("Last-Modified")
    return start, Version(url, validator, length)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _write(response: requests.Response, part: Part, total: int | None) -> None:
    """Append the body to the part, with a progress bar that starts at the file's first byte."""
    bar = progress(
        desc=part.target.name,
        initial=part.size,
        total=total,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
    )
    with bar, part.path.open("ab") as file:
        # Undecoded, even if a server compresses against the request: lengths still agree, and
        # the check sees what was sent.
        for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
            file.write(chunk)
            bar.update(len(chunk))


def _retry_after(response: requests.Response) -> float:
    """Return the seconds that the server asks to wait; 0 if it does not, or the header is wrong."""
    try:
        return Retry().parse_retry_after(response.headers.get("Retry-After", "0"))
    except InvalidHeader:
        return 0.0


def _root_reason(error: BaseException, handled_before: BaseException | None) -> str:
    """Return the message of the error that caused all others."""
    while error.__context__ is not None and error.__context__ is not handled_before:
        error = error.__context__
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(reason.split())


def _host(url: str) -> str:
    return urlsplit(url).netloc
