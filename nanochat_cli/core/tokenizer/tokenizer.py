"""The tokenizer: text to ids and back, nine special tokens behind the learned ones, two readable files on disk.

    tokenizer.json    pattern, special tokens, sizes, hashes, facts about the training text
    ranks.tiktoken    one learned token per line: its bytes in base64, a space, its id

Ordinary text never produces a special token, whatever it spells: specials enter by id only.
"""

from __future__ import annotations

import base64
import binascii
import copy
import hashlib
import shutil
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nanochat_cli import _bpe
from nanochat_cli.core import files, machine
from nanochat_cli.core.errors import ConfigError, DamagedArtifact, DataError, MissingArtifact
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.tokenizer import patterns
from nanochat_cli.core.tokenizer.patterns import Encoding, Pattern
from nanochat_cli.core.tokenizer.training import (
    NUM_BYTES,
    ArrowArray,
    Batch,
    Options,
    Source,
    behind,
    in_batches,
    learn_tokens,
)
from nanochat_cli.core.tokenizer.unfinished import Unfinished

SPECIALS = (
    "bos",
    "user_start",
    "user_end",
    "assistant_start",
    "assistant_end",
    "python_start",
    "python_end",
    "output_start",
    "output_end",
)
MIN_VOCAB_SIZE = NUM_BYTES + len(SPECIALS)
DEFAULT_PATTERN = "nanochat"
NARROW = 1 << 16
"""Vocabularies up to this size have ids of two bytes."""
FORMAT = 1
INFO_FILE, RANKS_FILE = "tokenizer.json", "ranks.tiktoken"


class Tokenizer:
    """A trained byte-pair vocabulary; immutable, and safe to share between threads."""

    def __init__(self, tokens: Sequence[bytes], pattern: Pattern, training: dict[str, Any] | None = None) -> None:
        """Build from the bytes of the learned tokens, by id.

        Each is a single byte or joins two earlier tokens: `check` makes sure, and so does the first text to encode.
        """
        self.pattern = pattern
        self.training = dict(training or {})
        """Facts about the training text: documents, bytes, distinct pieces, tokens. Not part of the hash."""
        self._ordinary = list(tokens)
        self._other_encoder: Encoding | None = None
        self._special_ids = {name: len(self._ordinary) + i for i, name in enumerate(SPECIALS)}
        self._bytes = [*self._ordinary, *(f"<|{name}|>".encode() for name in SPECIALS)]
        self.hash = _identity(self._ordinary, pattern)
        """SHA-256 in hex over pattern, learned tokens and specials: equal hashes mean equal ids for every text."""

    @cached_property
    def _encoders(self) -> tuple[_bpe.Encoder, Encoding]:
        return self.pattern.encoder(
            self._ordinary
        )  # not needed to train and save, where it would take a tenth of a second

    @property
    def _encoder(self) -> Encoding:
        return self._other_encoder or self._encoders[1]

    def check(self) -> None:
        """Raise ValueError if the tokens do not fit each other."""
        _ = self._encoders

    def encoded_by(self, encoding: Encoding) -> Tokenizer:
        """The same tokenizer with something else doing the encoding, which must give the same ids."""
        other = copy.copy(self)
        other._other_encoder = encoding
        return other

    # ---- training and files ----

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        pattern: str = DEFAULT_PATTERN,
        threads: int | None = None,
        log: Log = NULL,
    ) -> Tokenizer:
        """A tokenizer with `vocab_size` ids, the nine specials included, learned from `texts`.

        Deterministic: the order of the texts and the number of threads (None = one per core) change nothing.
        Raises ConfigError for a vocabulary below 265, DataError for one larger than the text supports.
        """
        return cls.train_on_batches(in_batches(texts), vocab_size, pattern=pattern, threads=threads, log=log)

    @classmethod
    def train_on_batches(
        cls,
        batches: Iterable[Batch] | Source,
        vocab_size: int,
        *,
        pattern: str | Pattern = DEFAULT_PATTERN,
        threads: int | None = None,
        options: Options | None = None,
        saved: Unfinished | None = None,
        log: Log = NULL,
    ) -> Tokenizer:
        """The same from lists of texts or Arrow arrays, which are read without a copy.

        `options` say more than `threads`. With `saved` an interrupted training goes on where it was; `batches` is then
        best a function that gives the documents behind the first n.
        """
        check_vocab_size(vocab_size)
        chosen = patterns.find(pattern) if isinstance(pattern, str) else pattern
        options = options or Options(threads or machine.usable_cores())
        saved = saved or Unfinished()
        source: Source = batches if callable(batches) else lambda rows: behind(batches, rows)
        tokens, facts = learn_tokens(source, vocab_size - len(SPECIALS), chosen, options, saved, log)
        return cls(tokens, chosen, facts)

    def save(self, folder: Path, *, replace: bool = False) -> None:
        """Publish the two files as `folder`, whole or not at all.

        Does nothing if the same tokenizer is there. Raises ConfigError if another one is, unless `replace`.
        """
        if folder.exists() and not replace:
            if _saved_hash(folder) == self.hash:
                return
            raise ConfigError(
                f"another tokenizer is here already: {folder}", hint="choose another --name, or replace it with --force"
            )
        staged = files.staging_dir(folder)
        try:
            ranks = ranks_text(self._ordinary)
            files.write_atomic(staged / RANKS_FILE, ranks)
            files.write_json(staged / INFO_FILE, self._info(hashlib.sha256(ranks).hexdigest()))
            if folder.exists():
                files.replace_dir(staged, folder)
            else:
                files.publish_dir(staged, folder)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """The tokenizer saved in `folder`. Raises MissingArtifact, or DamagedArtifact if a hash does not match."""
        files.restore_dir(folder)
        if not (folder / INFO_FILE).is_file():
            raise MissingArtifact(f"no tokenizer here: {folder}", hint="train one: nanochat tok train")
        info = files.read_json(folder / INFO_FILE, "the tokenizer's description")
        try:
            if info["format"] != FORMAT:
                raise ConfigError(f"tokenizer format {info['format']} is not known to this version: {folder}")
            pattern = patterns.from_info(info["pattern"])
            tokenizer = cls(_read_ranks(folder / RANKS_FILE, info["ranks_sha256"]), pattern, info.get("training"))
            tokenizer.check()
        except (KeyError, TypeError, ValueError) as problem:
            raise DamagedArtifact(f"the tokenizer is damaged: {folder}: {problem}") from problem
        if info != tokenizer._info(info["ranks_sha256"]):
            raise DamagedArtifact(f"the tokenizer does not match its hash: {folder / INFO_FILE}")
        return tokenizer

    def _info(self, ranks_sha256: str) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "vocab_size": self.vocab_size,
            "pattern": self.pattern.info(),
            "special_tokens": {f"<|{name}|>": id for name, id in self._special_ids.items()},
            "ranks": RANKS_FILE,
            "ranks_sha256": ranks_sha256,
            "hash": self.hash,
            "training": self.training,
        }

    # ---- sizes and names ----

    @property
    def vocab_size(self) -> int:
        """Number of ids, specials included."""
        return len(self._bytes)

    @property
    def bos_id(self) -> int:
        """Id of the token that every document and conversation starts with."""
        return self._special_ids["bos"]

    def special(self, name: str) -> int:
        """Id of a special token, by its name in SPECIALS. Raises ConfigError for another name."""
        if name not in self._special_ids:
            raise ConfigError(f"unknown special token: {name}", hint=f"choose one of: {', '.join(SPECIALS)}")
        return self._special_ids[name]

    @property
    def ordinary(self) -> list[bytes]:
        """Bytes of the learned tokens, in the order of their ids; the special tokens come behind them."""
        return list(self._ordinary)

    def merges(self) -> list[tuple[int, int]]:
        """The two tokens that each learned token joins, in the order of learning; the single bytes join none."""
        return self._encoders[0].merges()

    def is_special(self, id: int) -> bool:
        """True for the ids of special tokens."""
        return len(self._ordinary) <= id < len(self._bytes)

    # ---- text to ids ----

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without specials. Raises DataError for text that UTF-8 cannot hold."""
        try:
            return self._encoder.encode(text)
        except ValueError as problem:
            raise DataError(f"text that UTF-8 cannot hold: {problem}") from None

    def encode_batch(
        self, texts: list[str] | ArrowArray, threads: int | None = None, bos: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts end to end, and where each text starts and the last one ends (int64).

        Ids are uint16, or uint32 for a vocabulary beyond 65,536.
        With `bos`, each text starts with the bos token. Of an Arrow array the nulls are left out. Raises DataError
        naming the text that UTF-8 cannot hold.
        """
        encode = self._encoder.encode_batch if isinstance(texts, list) else self._encoder.encode_arrow
        try:
            flat, lengths = encode(
                texts,  # type: ignore[arg-type]
                threads or machine.usable_cores(),
                self.bos_id if bos else None,
                self.vocab_size <= NARROW,
            )
        except ValueError as problem:
            raise DataError(f"text that UTF-8 cannot hold: {problem}") from None
        counts = np.frombuffer(lengths, dtype=np.uint64)
        offsets = np.zeros(len(counts) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:], dtype=np.int64)
        return np.frombuffer(flat, dtype=np.uint16 if self.vocab_size <= NARROW else np.uint32), offsets

    def pieces(self, text: str) -> list[str]:
        """`text` as the split pattern cuts it, before any merging."""
        return self.pattern.split(text)

    # ---- ids to text ----

    def id_to_bytes(self, id: int) -> bytes:
        """Raw bytes of one token; a special token gives its spelling. Raises DataError outside the vocabulary."""
        if not 0 <= id < len(self._bytes):
            raise DataError(f"token id outside the vocabulary of {self.vocab_size}: {id}")
        return self._bytes[id]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Bytes of a sequence of tokens."""
        return b"".join(self.id_to_bytes(int(id)) for id in ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of a sequence of tokens; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def token_bytes(self) -> np.ndarray:
        """Length of each token in raw bytes (int32, one per id), 0 for specials: the denominator of bits per byte."""
        lengths = [len(token) for token in self._ordinary]
        return np.array(lengths + [0] * len(SPECIALS), dtype=np.int32)


def check_vocab_size(vocab_size: int) -> None:
    """Raises ConfigError unless there is room for the 256 bytes and the special tokens."""
    if vocab_size < MIN_VOCAB_SIZE:
        raise ConfigError(
            f"vocabulary smaller than {MIN_VOCAB_SIZE}, the 256 bytes and {len(SPECIALS)} special tokens: {vocab_size}",
            hint=f"use --vocab {MIN_VOCAB_SIZE} or more",
        )


def ranks_text(tokens: Sequence[bytes]) -> bytes:
    """A rank file as tiktoken reads it: per line a token in base64 and its id."""
    return b"".join(b"%s %d\n" % (base64.b64encode(token), id) for id, token in enumerate(tokens))


def _read_ranks(path: Path, sha256: str) -> list[bytes]:
    """Learned tokens in the order of their ids. Raises DamagedArtifact or ValueError."""
    if not path.is_file():
        raise DamagedArtifact(f"the tokenizer has lost a file: {path}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedArtifact(f"the tokenizer does not match its hash: {path}")
    tokens = []
    for line in content.splitlines():
        token, _, id = line.partition(b" ")
        if int(id) != len(tokens):
            raise ValueError(f"ids are not consecutive at {len(tokens)}")
        try:
            tokens.append(base64.b64decode(token, validate=True))
        except binascii.Error as problem:
            raise ValueError(f"token {int(id)} is not base64") from problem
    return tokens


def _identity(tokens: Sequence[bytes], pattern: Pattern) -> str:
    digest = hashlib.sha256(f"{pattern.regex}\n{' '.join(SPECIALS)}\n{pattern.unicode}\n".encode())
    digest.update(ranks_text(tokens))
    return digest.hexdigest()


def _saved_hash(folder: Path) -> str | None:
    try:
        return files.read_json(folder / INFO_FILE, "the tokenizer's description").get("hash")
    except (DamagedArtifact, MissingArtifact):
        return None
