"""A real HTTP server on 127.0.0.1 that does what it is told, misbehaviour included."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MOST_REQUESTS = 50
NOTHING_THERE = b"<p>The requested range is not satisfiable.</p>"


@dataclass(frozen=True)
class Answer:
    """What to do with one request for a file that holds `content`."""

    content: bytes = b""
    status: int = 200
    etag: str | None = None
    last_modified: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    heeds_range: bool = True
    heeds_if_range: bool = True
    says_length: bool = True
    at_most: int | None = None  # bytes promised in one answer to a range
    cut_after: int | None = None  # body bytes sent, however many were promised
    before_cut: Callable[[], object] = lambda: None
    reset: bool = False  # cut by a reset instead of an orderly end


@dataclass(frozen=True)
class Request:
    """A request as it came, and the body bytes that were sent for it."""

    path: str
    range: str | None
    if_range: str | None
    encoding: str | None
    sent: int


class Server:
    """Gives `answers` one a request, the last of them from then on; keeps `requests`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: list[Answer] = []
        self.requests: list[Request] = []

    def answer(self, *answers: Answer) -> None:
        """Forget what was, and answer so from now on."""
        self.answers = list(answers)
        self.requests = []

    def next_answer(self) -> Answer:
        # A client that never gives up fails its test instead of hanging it.
        if len(self.requests) >= MOST_REQUESTS:
            return Answer(status=404)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answer = self.server.told.next_answer()
        status, body, headers = _reply(answer, self.headers)
        sent = body if answer.cut_after is None else body[: answer.cut_after]
        asked = [self.headers.get(name) for name in ("Range", "If-Range", "Accept-Encoding")]
        self.server.told.requests.append(Request(self.path, *asked, len(sent)))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)
        if answer.cut_after is not None:
            answer.before_cut()
        if answer.reset:
            linger_on_for_no_time = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_on_for_no_time)
            self.connection.close()

    def log_message(self, *_arguments: object) -> None:
        pass


def _reply(answer: Answer, asked: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers, as RFC 9110 has them but for what `answer` is to do wrong."""
    validators = {"ETag": answer.etag, "Last-Modified": answer.last_modified}
    headers = {name: value for name, value in validators.items() if value is not None}
    status, body, size = answer.status, answer.content, len(answer.content)
    wanted = re.fullmatch(r"bytes=(\d+)-", asked.get("Range") or "")
    same = asked.get("If-Range") in (None, *headers.values()) or not answer.heeds_if_range
    if status == 200 and wanted and answer.heeds_range and same:
        start = int(wanted[1])
        if start < size:
            status, body = 206, body[start:][: answer.at_most]
            headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{size}"
        else:
            status, body = 416, NOTHING_THERE
            headers["Content-Range"] = f"bytes */{size}"
    if answer.says_length:
        headers["Content-Length"] = str(len(body))
    return status, body, headers | answer.headers


@contextmanager
def running_server() -> Iterator[Server]:
    """A server on a free port, as long as the block runs."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as http:
        http.told = Server(f"http://127.0.0.1:{http.server_port}")
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield http.told
        http.shutdown()
        thread.join()


def address_of_nobody() -> str:
    """An address on this machine at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"
