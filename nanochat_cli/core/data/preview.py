"""A look at what is trained on: a few documents or conversations, and what a tokenizer and a context make of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from nanochat_cli.core.data.chats import read_chats
from nanochat_cli.core.data.corpus import Corpus, Split
from nanochat_cli.core.data.packing import pack_conversations
from nanochat_cli.core.errors import DataError
from nanochat_cli.core.tokenizer.conversation import Conversation, Rendered, render
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

MEASURED = 5_000  # conversations that the summary is computed on, at most


@dataclass(frozen=True)
class Item:
    """One document or conversation; ids and mask (1 = trained on) are None without a tokenizer."""

    number: int
    text: str | None
    messages: list[dict[str, Any]] | None
    ids: list[int] | None
    mask: list[int] | None

    def to_json(self) -> dict[str, Any]:
        """The item as plain values, without what it does not have."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Summary:
    """Conversations within a context of `max_seq_len` tokens; shares are of 1, lengths in tokens."""

    conversations: int
    mean_tokens: float
    longest_tokens: int
    trained_share: float
    max_seq_len: int
    truncated_share: float
    padding_share: float


def documents(corpus: Corpus, split: Split, num: int, tokenizer: Tokenizer | None = None) -> list[Item]:
    """Return documents spread over a split, each with its ids after BOS if there is a tokenizer."""
    found = []
    for number, text in corpus.sample(split, num):
        ids = [tokenizer.bos_id, *tokenizer.encode(text)] if tokenizer else None
        found.append(Item(number, text, None, ids, [0] + [1] * (len(ids) - 1) if ids else None))
    return found


def chats(path: Path, num: int, tokenizer: Tokenizer | None = None) -> list[Item]:
    """Return the first conversations of a file, each with its ids and mask if there is a tokenizer."""
    found = []
    for number, conversation in enumerate(read_chats(path, num)):
        rendered = render(tokenizer, conversation) if tokenizer else Rendered()
        messages = conversation.to_json()["messages"]
        found.append(Item(number, None, messages, rendered.ids or None, rendered.mask or None))
    return found


def summary(path: Path, tokenizer: Tokenizer, max_seq_len: int) -> Summary:
    """Return what a context of `max_seq_len` tokens makes of a file's conversations (of the first 5,000)."""
    rendered = [render(tokenizer, conversation) for conversation in _measured(path)]
    lengths = [len(item.ids) for item in rendered]
    try:
        padding = pack_conversations(rendered, max_seq_len + 1).padding_fraction
    except DataError:  # not one fits: there is nothing to pack
        padding = 1.0
    return Summary(
        conversations=len(rendered),
        mean_tokens=sum(lengths) / len(lengths),
        longest_tokens=max(lengths),
        trained_share=sum(sum(item.mask) for item in rendered) / sum(lengths),
        max_seq_len=max_seq_len,
        truncated_share=sum(length > max_seq_len + 1 for length in lengths) / len(lengths),
        padding_share=padding,
    )


def _measured(path: Path) -> list[Conversation]:
    return read_chats(path, MEASURED)


def spans(tokenizer: Tokenizer, item: Item) -> Iterator[tuple[str, bool]]:
    """Yield (text, whether it is trained on) for the stretches of an item; special tokens by their names."""
    for trained, run in groupby(zip(item.ids or [], item.mask or [], strict=True), key=lambda pair: bool(pair[1])):
        yield tokenizer.decode([id for id, _ in run]), trained
