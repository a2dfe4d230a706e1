"""A tokenizer whose tokens are bytes, a log that remembers, and corpora made of a list."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.data.shards import CorpusWriter
from nanochat_cli.core.events import Event, Listener


class ByteTokenizer:
    """Each byte is a token, BOS is 256; `shift` makes a different tokenizer with a different hash."""

    bos_id = 256

    def __init__(self, vocab_size: int = 265, shift: int = 0) -> None:
        self.vocab_size, self.shift = vocab_size, shift
        self.hash = hashlib.sha256(f"bytes-{vocab_size}-{shift}".encode()).hexdigest()
        self.calls = 0

    def encode(self, text: str) -> list[int]:
        return [byte + self.shift for byte in text.encode()]

    def encode_batch(self, texts: Any, threads: int | None = None, bos: bool = False) -> tuple[np.ndarray, np.ndarray]:
        self.calls += 1
        rows = [self.encode(text) for text in (texts if isinstance(texts, list) else texts.to_pylist())]
        offsets = np.cumsum([0, *map(len, rows)])
        return np.array([i for row in rows for i in row], np.uint32), offsets.astype(np.int64)


class Recorder(Listener):
    """Keeps what was told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        super().__init__(self.events.append)

    def texts(self, kind: str) -> list[str]:
        return [event["text"] for event in self.events if event["kind"] == kind]


@pytest.fixture
def base(base_dir: Path) -> Path:
    return base_dir


@pytest.fixture
def tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture
def make_tokenizer() -> type[ByteTokenizer]:
    return ByteTokenizer


@pytest.fixture
def log() -> Recorder:
    return Recorder()


@pytest.fixture
def make_corpus():
    def make(texts: Sequence[str], name: str = "small", **options: object) -> Corpus:
        with CorpusWriter(name, **options) as writer:  # type: ignore[arg-type]
            for text in texts:
                writer.add(text)
        return writer.corpus

    return make


@pytest.fixture
def texts() -> list[str]:
    """300 different documents of 5 to 240 characters."""
    return [f"Document {i}: " + "süß words and more " * (i % 13) + "end." for i in range(300)]
