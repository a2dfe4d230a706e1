"""A server on this machine that does to downloads what networks do: breaks off, trickles, lies, moves and refuses.

`Server.files` maps a path to its bytes; `Server.script` maps a path to what its next requests meet, one step each;
after the last step all is well. Ranges, If-Range and strong ETags work as they should unless a step says otherwise.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one request meets."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # bytes of the body, then the connection breaks off
    claim: int | None = None  # a Content-Length that is not true
    body: bytes | None = None  # other bytes than those of the file
    trickle_s: float | None = None  # wait so long after every byte
    ignore_range: bool = False
    etag: str | None = None
    no_etag: bool = False
    redirect: str | None = None


@dataclass(frozen=True)
class Seen:
    """One request."""

    path: str
    headers: dict[str, str]


class Server:
    """Start with `serving`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.script: dict[str, list[Step]] = {}
        self.always: dict[str, Step] = {}
        self.seen: list[Seen] = []
        self.sent: Counter[str] = Counter()
        self.chance: Any = None  # called with the path and the bytes to send: where to cut, or None
        self.lock = threading.Lock()
        self.url = ""

    def requests(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path == path]

    def step(self, path: str) -> Step:
        with self.lock:
            waiting = self.script.get(path)
            return waiting.pop(0) if waiting else self.always.get(path, Step())


def etag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        ours = self.server.ours
        path = self.path.partition("?")[0]
        with ours.lock:
            ours.seen.append(Seen(path, {name.lower(): value for name, value in self.headers.items()}))
        step = ours.step(path)
        if step.redirect is not None:
            self._head(302, {"Location": step.redirect, "Content-Length": "0", **step.headers})
        elif step.status is not None:
            self._head(step.status, {"Content-Length": "0", **step.headers})
        elif (content := ours.files.get(path)) is None:
            self._head(404, {"Content-Length": "0"})
        else:
            self._file(path, content if step.body is None else step.body, step)

    def _file(self, path: str, content: bytes, step: Step) -> None:
        etag = step.etag or etag_of(content)
        first = 0
        wanted = self.headers.get("Range")
        if wanted and not step.ignore_range and self.headers.get("If-Range", etag) == etag:
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if first >= len(content):
                self._head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
                return
        body = content[first:]
        headers = {"Content-Length": str(len(body) if step.claim is None else step.claim), **step.headers}
        if not step.no_etag:
            headers["ETag"] = etag
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self._head(206 if first else 200, headers)
        cut = step.cut_after
        if self.server.ours.chance is not None:
            cut = self.server.ours.chance(path, len(body))
        self._send(path, body if cut is None else body[:cut], step.trickle_s)
        if cut is not None or step.claim is not None:
            self.close_connection = True
        if cut is not None:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, path: str, body: bytes, trickle_s: float | None) -> None:
        size = 1 if trickle_s is not None else 16_384
        with contextlib.suppress(OSError):
            for at in range(0, len(body), size):
                self.wfile.write(body[at : at + size])
                with self.server.ours.lock:
                    self.server.ours.sent[path] += len(body[at : at + size])
                if trickle_s is not None:
                    time.sleep(trickle_s)


class _Http(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, ours: Server) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.ours = ours

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away is what some tests are about


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Yield a running server on a free port of this machine."""
    ours = Server()
    http_server = _Http(ours)
    ours.url = f"http://127.0.0.1:{http_server.server_address[1]}"
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield ours
    finally:
        http_server.shutdown()
        http_server.server_close()
        thread.join()
