"""The same tokenizer in tiktoken: an independent way to the same ids, to check ours or to compare speeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import tiktoken

from nanochat_cli.core.tokenizer.export import refuse_custom, special_tokens
from nanochat_cli.core.tokenizer.regexes import texts_of
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer


def encoding(tokenizer: Tokenizer) -> tiktoken.Encoding:
    """A tiktoken encoding with the same tokens, pattern and specials."""
    return tiktoken.Encoding(
        f"nanochat-{tokenizer.hash[:12]}",
        pat_str=tokenizer.pattern.regex,
        mergeable_ranks={token: id for id, token in enumerate(tokenizer.ordinary)},
        special_tokens=special_tokens(tokenizer),
    )


def on_tiktoken(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer with tiktoken doing the encoding. Raises ConfigError for a split pattern of one's own."""
    refuse_custom(tokenizer)
    return tokenizer.encoded_by(TiktokenEncoder(encoding(tokenizer)))


class TiktokenEncoder:
    """Encodes text with tiktoken; the same to its user as `_bpe.Encoder`."""

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding

    def encode(self, text: str) -> list[int]:
        """Ids of one text. ValueError for a lone surrogate, which tiktoken by itself would replace."""
        text.encode()
        return self._encoding.encode_ordinary(text)

    def encode_batch(
        self, texts: list[str], threads: int, first: int | None = None, narrow: bool = False
    ) -> tuple[bytearray, bytearray]:
        """Ids of all texts end to end, and how many belong to each."""
        for text in texts:
            text.encode()
        opening = [] if first is None else [first]
        found = [opening + ids for ids in self._encoding.encode_ordinary_batch(texts, num_threads=threads)]
        flat = np.fromiter((id for ids in found for id in ids), np.uint16 if narrow else np.uint32)
        return bytearray(flat.tobytes()), bytearray(np.array([len(ids) for ids in found], np.uint64).tobytes())

    def encode_arrow(
        self, array: Any, threads: int, first: int | None = None, narrow: bool = False
    ) -> tuple[bytearray, bytearray]:
        """The same for the texts of an Arrow array; nulls are left out."""
        return self.encode_batch(texts_of(array), threads, first, narrow)
