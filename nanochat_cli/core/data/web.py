"""Asking other machines for files: what to try again, how long to wait, and who may see the token.

Redirects are followed here and not by the library, so that the token goes to the one origin it belongs to, and what
Hugging Face says about a file on the way (its SHA-256 and size) is heard.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from nanochat_cli import __version__

if TYPE_CHECKING:
    import httpx

HUB = "https://huggingface.co"
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_HOPS = 6
_MAX_JSON = 64 << 20
JSON_TRIES = 4
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Transient(Exception):
    """This time it did not work; another try may. `after_s` is the wait that the server asked for."""

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class Refused(Exception):
    """This address will not give the file, however often it is asked."""


class Stopped(Exception):
    """The work was called off."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """When to wait, when to give up. A try that brought `worth_bytes` of new content does not count."""

    tries: int = 8
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    longest_asked_wait_s: float = 300.0
    connect_s: float = 20.0
    read_s: float = 30.0
    slowest_bytes_per_s: float = 2000.0
    window_s: float = 30.0
    worth_bytes: int = 1 << 20


@dataclass(frozen=True)
class Answer:
    """A reply whose body is still to be read; `sha256` and `size` are what a redirect told about the whole file."""

    response: httpx.Response
    sha256: str | None
    size: int | None

    @property
    def status(self) -> int:
        return self.response.status_code

    @property
    def etag(self) -> str | None:
        """The strong validator of the body, or None: a weak one does not promise equal bytes."""
        etag = self.response.headers.get("etag")
        return etag if etag and not etag.startswith("W/") else None


class Web:
    """One client for all threads. `stop` calls everything off; `sleep`, `clock` and `chance` are there for tests."""

    def __init__(
        self,
        *,
        token: str | None = None,
        token_origin: str = HUB,
        patience: Patience | None = None,
        workers: int = 8,
        stop: threading.Event | None = None,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        import httpx

        self.patience = patience or Patience()
        self.stop = stop or threading.Event()
        self.clock = clock
        self._sleep, self._chance = sleep or self.stop.wait, chance
        self._token = token if may_see_token(token_origin) else None
        self._token_origin = origin(token_origin)
        self._client = httpx.Client(
            timeout=httpx.Timeout(self.patience.read_s, connect=self.patience.connect_s, pool=None),
            limits=httpx.Limits(max_connections=workers + 2),
            headers={"User-Agent": f"nanochat/{__version__}", "Accept-Encoding": "identity"},
            follow_redirects=False,
        )

    def __enter__(self) -> Web:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @contextlib.contextmanager
    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[Answer]:
        """Yield the answer to a GET after all redirects: status 200, 206 or 416.

        Raises Transient or Refused, also for what goes wrong while the caller reads the body.
        """
        import httpx

        sha256 = size = None
        try:
            for _ in range(_MAX_HOPS):
                response = self._send(url, headers or {})
                try:
                    sha256, size = _linked(response, sha256, size)
                    if response.status_code in _REDIRECTS and "location" in response.headers:
                        url = _next_hop(response)
                        continue
                    _check_status(response, clean_url(url))
                    yield Answer(response, sha256, size)
                    return
                finally:
                    response.close()
            raise Refused(f"more than {_MAX_HOPS} redirects")
        except httpx.TimeoutException as problem:
            raise Transient("no answer in time") from problem
        except httpx.TransportError as problem:
            raise Transient(f"connection lost ({type(problem).__name__})") from problem
        except (httpx.InvalidURL, httpx.StreamError, ValueError) as problem:
            raise Refused(f"not an address that can be asked ({type(problem).__name__}): {clean_url(url)}") from problem

    def get_json(self, url: str) -> tuple[Any, str | None]:
        """Return the JSON at an address and the address of the next page, trying again as often as is worth it."""
        tries = min(self.patience.tries, JSON_TRIES)
        for turn in range(tries):
            try:
                with self.get(url) as answer:
                    body = b""
                    for chunk in answer.response.iter_bytes():
                        body += chunk
                        if len(body) > _MAX_JSON:
                            raise Refused(f"an answer of more than {_MAX_JSON} bytes")
                    following = answer.response.links.get("next", {}).get("url")
                return json.loads(body), following
            except Transient as problem:
                if turn + 1 == tries:
                    raise
                self.wait(turn, problem.after_s)
            except ValueError as problem:
                raise Refused("an answer that is not JSON") from problem
        raise AssertionError("unreachable")

    def wait(self, turn: int, asked_s: float | None = None) -> None:
        """Wait before try number `turn` + 1: what the server asked for, else a random share of a growing time."""
        p = self.patience
        grown = min(p.longest_wait_s, p.first_wait_s * 2**turn)
        self.pause(min(asked_s, p.longest_asked_wait_s) if asked_s is not None else grown * self._chance())

    def pause(self, seconds: float) -> None:
        """Wait, unless the work is called off; then raise Stopped."""
        self.check()
        self._sleep(seconds)
        self.check()

    def check(self) -> None:
        """Raise Stopped if the work was called off."""
        if self.stop.is_set():
            raise Stopped

    def _send(self, url: str, headers: Mapping[str, str]) -> httpx.Response:
        self.check()
        own = dict(headers)
        if self._token and origin(url) == self._token_origin:
            own["Authorization"] = f"Bearer {self._token}"
        return self._client.send(self._client.build_request("GET", url, headers=own), stream=True)


def _linked(response: httpx.Response, sha256: str | None, size: int | None) -> tuple[str | None, int | None]:
    """Hugging Face's redirect to its storage carries the file's own hash and size."""
    etag = response.headers.get("x-linked-etag", "").strip('"').lower()
    length = response.headers.get("x-linked-size", "")
    return (etag if _SHA256.fullmatch(etag) else sha256), (
        int(length) if length.isascii() and length.isdigit() else size
    )


def _next_hop(response: httpx.Response) -> str:
    target = response.url.join(response.headers["location"])
    if target.scheme not in ("http", "https") or (response.url.scheme == "https" and target.scheme == "http"):
        raise Refused(f"a redirect to an address that is not safe: {clean_url(str(target))}")
    return str(target)


def _check_status(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if status in (200, 206, 416):
        return
    if status in (408, 425, 429) or status >= 500:
        raise Transient(f"HTTP {status}", retry_after(response.headers.get("retry-after")))
    more = "; it may need HF_TOKEN, or its terms accepted on the web site" if status in (401, 403) else ""
    raise Refused(f"HTTP {status} from {url}{more}")


def retry_after(value: str | None, now: float | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for: a number, or a date. None if it says nothing."""
    if not value:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - (time.time() if now is None else now))
    except (ValueError, TypeError, OverflowError):
        return None


def origin(url: str) -> tuple[str, str, int]:
    """Return (scheme, host, port) of an address; two addresses with equal origins are the same server."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


def clean_url(url: str) -> str:
    """Return an address without user, password and query, fit to be shown and recorded."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # a password with a slash in it ends up here
    except ValueError:
        return "(unreadable address)"
    if not parts.netloc:  # no address of the web, but it may have been meant as one
        return url.partition("?")[0].rpartition("@")[2]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def may_see_token(url: str) -> bool:
    """Return whether a token may be sent there at all: encrypted, or not leaving this machine."""
    scheme, host, _ = origin(url)
    if scheme == "https":
        return True
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hub_endpoint() -> str:
    """Return Hugging Face's address: `HF_ENDPOINT`, else its own."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def hub_token() -> str | None:
    """Return the Hugging Face token from `HF_TOKEN`, else from the file that its own tools keep; None without one."""
    token = os.environ.get("HF_TOKEN", "")
    if not token:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface"
        home = Path(os.environ.get("HF_HOME") or cache).expanduser()
        path = Path(os.environ.get("HF_TOKEN_PATH") or home / "token").expanduser()
        try:
            token = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None
    token = token.strip()
    return token if token.isascii() and token.isprintable() and token else None
