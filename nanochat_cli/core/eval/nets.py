"""What scoring asks of a model, ours or another's: token ids in, scores of the vocabulary at chosen places out.

Tensor suffixes: B rows, T positions, E embedding, V vocabulary, N places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from nanochat_cli.core.engine.generate import prefill
from nanochat_cli.core.models.base import TABLE_MARGIN, LanguageModel
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

_CHUNK = 512
"""Tokens of a shared beginning that are read at a time: causal attention over a chunk skips what lies behind it."""


class Net(Protocol):
    """A network that reads rows. Scores are split in two so that only wanted places meet the vocabulary."""

    @property
    def device(self) -> torch.device:
        """Where ids are expected."""
        ...

    @property
    def context(self) -> int:
        """Most tokens that it reads at once."""
        ...

    @property
    def most_tokens(self) -> int | None:
        """Most tokens of a batch that it has memory for; None: no bound of its own."""
        ...

    @property
    def shares(self) -> bool:
        """Whether `after` is there: a beginning that several rows share is read once."""
        ...

    def read(self, idx_BT: Tensor) -> Tensor:
        """Return x_BTE for rows that are padded on the right; only `logits` knows what it means."""
        ...

    def after(self, beginnings: Sequence[Sequence[int]], owner_B: Tensor, idx_BT: Tensor) -> Tensor:
        """Return x_BTE for rows that go on, each after the beginning `owner_B` names, padded on the right."""
        ...

    def logits(self, x_NE: Tensor) -> Tensor:
        """Return fp32 scores of the vocabulary, NV."""
        ...


class Codec(Protocol):
    """The part of a tokenizer that scoring uses."""

    @property
    def hash(self) -> str:
        """Names the vocabulary and the way text is cut."""
        ...

    @property
    def bos(self) -> int | None:
        """What every text begins with; None where the vocabulary has no such token."""
        ...

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, without special tokens."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids."""
        ...


class OwnNet:
    """One of our own models."""

    shares = True

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def context(self) -> int:
        """As far as positions are tabulated, which is beyond the context of training: a prompt is asked as it is."""
        return TABLE_MARGIN * self.model.config.max_seq_len

    @property
    def most_tokens(self) -> int | None:
        return None

    def read(self, idx_BT: Tensor) -> Tensor:
        return self.model.hidden(idx_BT)

    def after(self, beginnings: Sequence[Sequence[int]], owner_B: Tensor, idx_BT: Tensor) -> Tensor:
        room = max(map(len, beginnings)) + idx_BT.size(1)
        state, _ = prefill(self.model, beginnings, room, chunk=_CHUNK)
        return self.model.hidden(idx_BT, state.select(owner_B))

    def logits(self, x_NE: Tensor) -> Tensor:
        return self.model.logits(x_NE)


class OwnCodec:
    """One of our own tokenizers."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @property
    def hash(self) -> str:
        return self.tokenizer.hash

    @property
    def bos(self) -> int | None:
        return self.tokenizer.bos_id

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        flat, starts = self.tokenizer.encode_batch(texts)
        ids: list[Any] = flat.tolist()
        return [ids[a:b] for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)
