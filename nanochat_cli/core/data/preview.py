"""A look at what is there: a few documents or conversations, and what a tokenizer makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from nanochat_cli.core.data.chats import read_chats
from nanochat_cli.core.data.corpus import Corpus, Split
from nanochat_cli.core.tokenizer.conversation import Rendered, render
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer


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


def spans(tokenizer: Tokenizer, item: Item) -> Iterator[tuple[str, bool]]:
    """Yield (text, whether it is trained on) for the stretches of an item; special tokens by their names."""
    return stretches(tokenizer, item.ids or [], item.mask or [])


def stretches(tokenizer: Tokenizer, ids: Sequence[int], mask: Sequence[int]) -> Iterator[tuple[str, bool]]:
    """Yield (text, whether it is trained on) for the stretches of some tokens; special tokens by their names."""
    for trained, run in groupby(zip(ids, mask, strict=True), key=lambda pair: bool(pair[1])):
        yield tokenizer.decode([id for id, _ in run]), trained
