"""A real HTTP server on 127.0.0.1 that answers as a test says, with faults if it asks for them."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MAX_REQUESTS = 50
NOTHING_THERE = b"<p>The requested range is not satisfiable.</p>"


@dataclass(frozen=True)
class Answer:
    """How to answer one request for a file with this `content`."""

    content: bytes = b""
    status: int = 200
    reason: str | None = None  # beside the status; None: the usual one
    etag: str | None = None
    last_modified: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    heeds_range: bool = True
    heeds_if_range: bool = True
    says_length: bool = True
    at_most: int | None = None  # bytes announced in the answer to a range request
    cut_after: int | None = None  # body bytes sent, even if more were announced
    before_cut: Callable[[], object] = lambda: None
    reset: bool = False  # end by a TCP reset instead of an orderly close


@dataclass(frozen=True)
class Request:
    """A request's headers, and the number of body bytes that were sent for it."""

    path: str
    range: str | None
    if_range: str | None
    encoding: str | None
    sent: int


class Server:
    """Gives each request the next of `answers`, and then always the last; records `requests`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: list[Answer] = []
        self.requests: list[Request] = []

    def answer(self, *answers: Answer) -> None:
        """Set the answers to the next requests, and clear the recorded requests."""
        self.answers = list(answers)
        self.requests = []

    def next_answer(self) -> Answer:
        # With a limit, a client that never gives up fails its test instead of hanging it.
        if len(self.requests) >= MAX_REQUESTS:
            return Answer(status=404)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answer = self.server.script.next_answer()
        status, body, headers = _reply(answer, self.headers)
        sent = body if answer.cut_after is None else body[: answer.cut_after]
        values = [self.headers.get(name) for name in ("Range", "If-Range", "Accept-Encoding")]
        self.server.script.requests.append(Request(self.path, *values, len(sent)))
        self.send_response(status, answer.reason)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)
        if answer.cut_after is not None:
            answer.before_cut()
        if answer.reset:
            no_linger = struct.pack("ii", 1, 0)  # on, for 0 seconds
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
            self.connection.close()

    def log_message(self, *_arguments: object) -> None:
        pass


def _reply(answer: Answer, request: Mapping[str, str]) -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and headers, by RFC 9110 except for the faults in `answer`.

    `request` has the headers of the request.
    """
    validators = {"ETag": answer.etag, "Last-Modified": answer.last_modified}
    headers = {name: value for name, value in validators.items() if value is not None}
    status, body, size = answer.status, answer.content, len(answer.content)
    range_match = re.fullmatch(r"bytes=(\d+)-", request.get("Range") or "")
    is_same = request.get("If-Range") in (None, *headers.values()) or not answer.heeds_if_range
    if status == 200 and range_match and answer.heeds_range and is_same:
        start = int(range_match[1])
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
    """Run a server on a free port until the block ends."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as http:
        http.script = Server(f"http://127.0.0.1:{http.server_port}")
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield http.script
        http.shutdown()
        thread.join()


def address_of_nobody() -> str:
    """Return an address on this machine where no server listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"
