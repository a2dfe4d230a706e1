"""One request to an OpenAI-compatible endpoint: what came back, and who may see the key.

Redirects are followed only within the endpoint's own origin, so that the key reaches no other server; a redirect
elsewhere is refused, and said.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nanochat_cli import __version__
from nanochat_cli.core.data.web import Refused, Transient, clean_url, may_see_token, origin, retry_after
from nanochat_cli.core.errors import ConfigError, MissingArtifact

KEY_VARIABLES = ("NANOCHAT_API_KEY", "OPENAI_API_KEY")
_PATH = "/chat/completions"
_MAX_BODY = 8 << 20
_MAX_HOPS = 3
_SHOWN = 200


class Unfit(Exception):
    """This one request is not answered, however often it is asked; others may be."""


@dataclass(frozen=True)
class Reply:
    """What the model wrote; `cut` if it ran into the limit. Token counts are None where the server tells none."""

    text: str
    cut: bool
    tokens_in: int | None
    tokens_out: int | None


def address(endpoint: str) -> str:
    """Return the URL that requests go to. Raises ConfigError for one that is none, or that carries a secret."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"an endpoint is an http or https address: {clean_url(endpoint)}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            f"an endpoint's address has no password, query or fragment: {clean_url(endpoint)}",
            hint=f"give the key in {KEY_VARIABLES[0]} or with --api-key-file",
        )
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path if path.endswith(_PATH) else path + _PATH}"


def find_key(key_file: str | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the key: the file's, else NANOCHAT_API_KEY, else OPENAI_API_KEY; None without any. Never logged."""
    if key_file is not None:
        path = Path(key_file).expanduser()
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise MissingArtifact(f"the key file cannot be read: {path}") from None
        if not text:
            raise ConfigError(f"the key file is empty: {path}")
        return _usable(text, str(path))
    for name in KEY_VARIABLES:
        if environ.get(name, "").strip():
            return _usable(environ[name].strip(), name)
    return None


def _usable(key: str, where: str) -> str:
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"not a key, it has characters that none has: {where}")
    return key


class Endpoint:
    """A client for all threads. `key` is sent to this endpoint's origin only, and not at all in the clear."""

    def __init__(self, endpoint: str, key: str | None, *, timeout_s: float = 120.0, workers: int = 8) -> None:
        import httpx

        self.url, self.timeout_s = address(endpoint), timeout_s
        self.key_withheld = key is not None and not may_see_token(self.url)
        self._key = None if self.key_withheld else key
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout_s, connect=min(20.0, timeout_s), pool=None),
            limits=httpx.Limits(max_connections=workers + 1),
            headers={"User-Agent": f"nanochat/{__version__}", "Accept": "application/json"},
            follow_redirects=False,
        )

    def close(self) -> None:
        """Let go of all connections."""
        self._client.close()

    def ask(self, body: Mapping[str, Any]) -> Reply:
        """Return the answer to one request.

        Raises Transient if another try may work, Unfit if only other requests may, Refused if none will.
        """
        import httpx

        try:
            status, headers, content = self._post(body)
        except httpx.TimeoutException:
            raise Transient(f"no answer within {self.timeout_s:g} s") from None
        except httpx.TransportError as problem:
            raise Transient(f"connection lost ({type(problem).__name__})") from None
        except (httpx.InvalidURL, httpx.DecodingError, ValueError) as problem:
            raise Transient(f"an answer that cannot be read ({type(problem).__name__})") from None
        if status != 200:
            said = self._said(content)
            if status in (408, 409, 425, 429) or status >= 500:
                raise Transient(f"HTTP {status}{said}", retry_after(headers.get("retry-after")))
            if status in (400, 413, 422):
                raise Unfit(f"HTTP {status}{said}")
            raise Refused(f"HTTP {status} from {clean_url(self.url)}{said}")
        return _reply(content)

    def _post(self, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        url, limit = self.url, time.monotonic() + self.timeout_s
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        raw = json.dumps(body, ensure_ascii=False).encode()
        for _ in range(_MAX_HOPS):
            with self._client.stream("POST", url, content=raw, headers=headers) as response:
                if response.status_code in (301, 302, 303, 307, 308):
                    target = str(response.url.join(response.headers.get("location", "")))
                    if origin(target) != origin(self.url):
                        raise Refused(f"a redirect to another server, which is not followed: {clean_url(target)}")
                    url = target
                    continue
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > _MAX_BODY:
                        raise Transient(f"an answer of more than {_MAX_BODY:,} bytes")
                    if time.monotonic() > limit:  # bytes that trickle in keep the reading alive for ever
                        raise Transient(f"no whole answer within {self.timeout_s:g} s")
                return response.status_code, response.headers, bytes(content)
        raise Refused(f"more than {_MAX_HOPS} redirects")

    def _said(self, content: bytes) -> str:
        """A server's own words about an error, shortened; should it quote the key, that is taken out."""
        text = content.decode("utf-8", "replace")
        try:
            error = json.loads(text).get("error")
            text = str(error.get("message", error) if isinstance(error, dict) else error or text)
        except (ValueError, AttributeError):
            pass
        if self._key:
            text = text.replace(self._key, "***")
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_SHOWN]
        return f": {text}" if text else ""


def _reply(content: bytes) -> Reply:
    try:
        value = json.loads(content)
        choice = value["choices"][0]
        text = choice["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise Transient("an answer that is no chat completion") from None
    if not isinstance(text, str):
        text = ""
    found = value.get("usage")
    usage: dict[str, Any] = found if isinstance(found, dict) else {}
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    known = [c if isinstance(c, int) and not isinstance(c, bool) and c >= 0 else None for c in counts]
    return Reply(text, choice.get("finish_reason") == "length", known[0], known[1])
