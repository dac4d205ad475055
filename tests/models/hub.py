"""A stand-in for the Hugging Face hub on 127.0.0.1: one model's files, pushed and fetched."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "a" * 40


@contextmanager
def hub(files: dict[str, bytes]) -> Iterator[str]:
    """Serve one model whose `files` pushes write; gives the hub's address."""

    class Handler(_Handler):
        model_files = files

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model_files: dict[str, bytes]

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self._body()
        if "/preupload/" in self.path:  # what may come with the commit: all
            names = [file["path"] for file in json.loads(body)["files"]]
            ways = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self._answer({"files": [{"path": name, **ways} for name in names]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.model_files[line["value"]["path"]] = content
            self._answer(
                {"commitOid": COMMIT, "commitUrl": f"{self._url}/me/model/commit/{COMMIT}"}
            )
        else:  # making the model, and checking its card
            self._answer({"url": f"{self._url}/me/model"})

    def do_GET(self) -> None:
        content = self.model_files.get(self.path.rpartition("/")[2])
        if content is None:
            self._send(b"", 404, {"X-Error-Code": "EntryNotFound"})
        else:
            self._send(content, 200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'})

    do_HEAD = do_GET

    @property
    def _url(self) -> str:
        return f"http://{self.headers['Host']}"

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, content: Any) -> None:
        self._send(json.dumps(content).encode(), 200, {"Content-Type": "application/json"})

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "X-Repo-Commit": COMMIT}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
