"""How well a tokenizer compresses each kind of text, beside the well-known ones that tiktoken brings."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tiktoken

PEERS = ("gpt2", "cl100k_base")
_PATIENCE_S = 20.0
_SAMPLES = Path(__file__).parent / "samples"

CountTokens = Callable[[list[str]], int]


@dataclass(frozen=True)
class Compression:
    """One kind of text: its size, and into how many tokens each tokenizer turns it."""

    text: str
    num_bytes: int
    num_tokens: dict[str, int]

    def bytes_per_token(self, name: str) -> float:
        """How many bytes one token of this tokenizer stands for, on average."""
        return self.num_bytes / max(1, self.num_tokens[name])


def samples() -> dict[str, list[str]]:
    """A page of each kind of text that comes with the program."""
    return {path.stem: [path.read_text(encoding="utf-8")] for path in sorted(_SAMPLES.glob("*.txt"))}


def count_ours(tokenizer: Tokenizer) -> CountTokens:
    """Counts the tokens of this tokenizer."""
    return lambda texts: len(tokenizer.encode_batch(texts)[0])


def peers(names: Iterable[str], log: Log = NULL) -> dict[str, tuple[int, CountTokens]]:
    """Vocabulary size and token counter of encodings that tiktoken knows; it downloads each of them once.

    One that cannot be had, as on a machine without a network, is left out with a note. Raises ConfigError for a name
    that tiktoken does not know.
    """
    import tiktoken

    known = tiktoken.list_encoding_names()
    found: dict[str, tuple[int, CountTokens]] = {}
    for name in names:
        if name not in known:
            raise ConfigError(f"tiktoken knows no encoding {name}", hint=f"choose among: {', '.join(known)}")
        encoding = _fetched(name, log)
        if encoding is not None:
            found[name] = (encoding.n_vocab, _counter(encoding))
    return found


def _counter(encoding: tiktoken.Encoding) -> CountTokens:
    encode = encoding.encode_ordinary
    return lambda texts: sum(len(encode(text)) for text in texts)


def _fetched(name: str, log: Log) -> tiktoken.Encoding | None:
    """The encoding, or None after a note. tiktoken waits for the network without end, so that a thread waits for it."""
    import tiktoken

    result: list[tiktoken.Encoding | Exception] = []

    def fetch() -> None:
        try:
            result.append(tiktoken.get_encoding(name))
        except Exception as problem:  # requests and tiktoken have many for "no network"
            result.append(problem)

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    if not result:
        log.note(f"{name} is left out: no answer from the network within {_PATIENCE_S:.0f} s")
        return None
    if isinstance(result[0], Exception):
        log.note(f"{name} is left out: tiktoken could not fetch it ({type(result[0]).__name__})")
        return None
    return result[0]


def measure(texts: dict[str, list[str]], counters: dict[str, CountTokens]) -> list[Compression]:
    """What each tokenizer makes of each kind of text; kinds without text are left out."""
    return [
        Compression(
            kind,
            sum(len(text.encode()) for text in documents),
            {name: count(documents) for name, count in counters.items()},
        )
        for kind, documents in texts.items()
        if any(documents)
    ]
