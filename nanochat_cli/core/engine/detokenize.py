"""Text from tokens as they come: a character appears when its last byte has come, never half."""

from __future__ import annotations

import codecs

from nanochat_cli.core.tokenizer.tokenizer import Tokenizer


class Detokenizer:
    """Decodes a stream of tokens as UTF-8. Bytes that cannot be text become U+FFFD; special tokens are left out."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._first_special = tokenizer.bos_id
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """Return the text that this token completes; empty while a character is unfinished."""
        if token >= self._first_special:
            return ""
        return self._decoder.decode(self._tokenizer.id_to_bytes(token))

    def flush(self) -> str:
        """Return what is left at the end of the stream."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
