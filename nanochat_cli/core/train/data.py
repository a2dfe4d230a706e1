"""Rows to train on: documents of a corpus for pretraining, conversations for the chat stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Any

from nanochat_cli.core import files, planning
from nanochat_cli.core.data import packing, tokens
from nanochat_cli.core.data.chats import read_chats
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.data.holdout import hold_out
from nanochat_cli.core.data.packing import PackedRows, Packing
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import DataError, MissingArtifact
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.tokenizer.conversation import Conversation, render
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.units import many

_MAX_HELD_OUT = 2_000
_SAMPLES = 4
_SAMPLE_PROMPT_TOKENS = 12


@dataclass(frozen=True, kw_only=True)
class TextRows:
    """Packed documents. `facts` is what a checkpoint records about them."""

    train: PackedRows
    val: PackedRows
    beginnings: list[str]
    facts: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ChatRows:
    """Packed conversations, a few of which are held out. `facts` is what a checkpoint records about them."""

    train: PackedRows
    val: PackedRows | None
    questions: list[Conversation]
    facts: dict[str, Any]


def text_rows(
    corpus: Corpus, tokenizer: Tokenizer, seq_len: int, dist: Dist, log: Log, *, packing_by: Packing = "whole"
) -> TextRows:
    """Return the corpus as rows of `seq_len` + 1 tokens.

    The main process tokenizes it if that was not done before, and then the first one of each machine that does not
    share the main one's disk. `packing_by` is for the training rows. Validation drops nothing, so that its losses
    compare whatever was trained on.
    """
    for my_turn in (dist.is_main, dist.is_first_here and not dist.is_main):
        if my_turn:
            tokens.ensure(corpus, tokenizer, log if dist.is_main else NULL)
        dist.barrier()
    token_set = tokens.ensure(corpus, tokenizer, log, verify=False)
    val = token_set.split("val")
    train = packing.pack_documents(token_set.split("train"), seq_len + 1, packing_by)
    log.note(
        f"{many(train.num_rows, 'row')}, packing {packing_by}: {train.dropped_fraction:.1%} of the tokens dropped, "
        f"{train.padding_fraction:.2%} of the slots padding"
    )
    return TextRows(
        train=train,
        val=packing.pack_documents(val, seq_len + 1),
        beginnings=_beginnings(val, tokenizer),
        facts={
            "corpus": corpus.name,
            "fingerprint": corpus.fingerprint,
            "train_tokens": token_set.split("train").num_tokens,
            "val_tokens": val.num_tokens,
            "packing": packing_by,
            "rows": train.num_rows,
            "dropped_tokens": train.dropped_tokens,
            "dropped_fraction": round(train.dropped_fraction, 4),
            "padding_fraction": round(train.padding_fraction, 4),
        },
    )


def _beginnings(split: tokens.TokenSplit, tokenizer: Tokenizer) -> list[str]:
    """The first words of a few held-out documents, spread over the split."""
    picks = sorted({split.num_docs * i // _SAMPLES for i in range(_SAMPLES)}) if split.num_docs else []
    texts = [tokenizer.decode(split.document(i)[:_SAMPLE_PROMPT_TOKENS]).rstrip("\ufffd") for i in picks]
    return [text for text in texts if text.strip()]


# ---- conversations ---------------------------------------------------------------------------------------------------


def chat_rows(
    sources: Sequence[str], tokenizer: Tokenizer, seq_len: int, log: Log, *, all_tokens: bool = False
) -> ChatRows:
    """Return the conversations of files named `PATH[:weight]` as rows of `seq_len` + 1 tokens.

    `all_tokens` makes every token a target, as in pretraining; otherwise only what the assistant says is one.
    Raises ConfigError, MissingArtifact or DataError.
    """
    train: list[Conversation] = []
    held: list[Conversation] = []
    facts = []
    for path, weight in map(_path_and_weight, sources):
        found = read_chats(path)
        kept, out = hold_out(found)
        train += _weigh(kept, weight)
        held += out
        facts.append(
            {"file": str(path), "sha256": files.sha256_file(path), "weight": weight, "conversations": len(found)}
        )
    if not train:
        raise DataError("there is no conversation to train on", hint="name a chat file with --data FILE")
    rows = _pack(train, tokenizer, seq_len, all_tokens, log)
    return ChatRows(
        train=rows,
        val=_pack(held[:_MAX_HELD_OUT], tokenizer, seq_len, all_tokens, NULL) if held else None,
        questions=(held or train)[:_SAMPLES],
        facts={
            "fingerprint": files.sha256_json([[f["sha256"], f["weight"]] for f in facts]),
            "sources": facts,
            "conversations": len(train),
            "rows": rows.num_rows,
            "padding": round(rows.padding_fraction, 4),
            "truncated": rows.truncated_items,
            "dropped": rows.dropped_items,
        },
    )


def _path_and_weight(source: str) -> tuple[Path, float]:
    """File and weight of `PATH[:weight]`. Raises ConfigError or MissingArtifact."""
    name, weight = planning.split_weight(source)
    path = Path(name)
    if not path.is_file():
        raise MissingArtifact(f"no chat file: {path}", hint="name a chat file with --data FILE")
    return path, weight


def _weigh(found: list[Conversation], weight: float) -> list[Conversation]:
    """Each conversation `weight` times: evenly spread repeats, or an evenly spread part of them."""
    return [c for i, c in enumerate(found) for _ in range(floor((i + 1) * weight) - floor(i * weight))]


def _pack(
    conversations: list[Conversation], tokenizer: Tokenizer, seq_len: int, all_tokens: bool, log: Log
) -> PackedRows:
    rendered = [render(tokenizer, conversation) for conversation in conversations]
    return packing.pack_conversations(rendered, seq_len + 1, log, all_tokens=all_tokens)
