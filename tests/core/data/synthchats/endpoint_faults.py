"""A chat endpoint on this machine that answers as scripted: well, late, wrongly, or not at all."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one request meets."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None  # the whole answer
    content: str | None = None  # what the model says
    finish: str = "stop"
    usage: tuple[int, int] | None = (100, 50)
    wait_s: float = 0.0
    hang_up: bool = False


@dataclass(frozen=True)
class Seen:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


def talk(number: int, turns: int = 2) -> str:
    """A good conversation; those of different numbers share few words."""
    words = " ".join(f"{chr(97 + number % 26) * 3}{number * 7919 + k * 104729:x}" for k in range(12))
    messages = [{"role": ("user", "assistant")[k % 2], "content": f"{words} {k}"} for k in range(turns)]
    return json.dumps({"messages": messages})


class Server:
    """Answers request number n (from 0, in the order of arrival) by `steps[n]`, else by `default(n)`."""

    def __init__(self) -> None:
        self.steps: dict[int, Step] = {}
        self.default: Callable[[int], Step] = lambda n: Step(content=talk(n))
        self.seen: list[Seen] = []
        self.lock = threading.Lock()
        self.at_once = self.most_at_once = 0
        self.url = ""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        ours: Server = self.server.ours
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with ours.lock:
            number = len(ours.seen)
            ours.seen.append(Seen(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            ours.at_once += 1
            ours.most_at_once = max(ours.most_at_once, ours.at_once)
        step = ours.steps.get(number) or ours.default(number)
        time.sleep(step.wait_s)
        with ours.lock:
            ours.at_once -= 1
        if step.hang_up:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        raw = step.body
        if raw is None:
            choice = {"message": {"role": "assistant", "content": step.content}, "finish_reason": step.finish}
            value: dict[str, Any] = {"choices": [choice]}
            if step.usage is not None:
                value["usage"] = {"prompt_tokens": step.usage[0], "completion_tokens": step.usage[1]}
            raw = json.dumps(value).encode()
        with contextlib.suppress(OSError):
            self.send_response(step.status)
            for name, text in {"Content-Length": str(len(raw)), **step.headers}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(raw)


class _Http(http.server.ThreadingHTTPServer):
    daemon_threads = True
    ours: Server


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    ours = Server()
    http_server = _Http(("127.0.0.1", 0), _Handler)
    http_server.ours = ours
    ours.url = f"http://127.0.0.1:{http_server.server_port}/v1"
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield ours
    finally:
        http_server.shutdown()
        http_server.server_close()
        thread.join()
