"""Rows to train on: documents of a corpus for pretraining, conversations for the chat stages."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanochat_cli.core import files
from nanochat_cli.core.data import packing, tokens
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.data.packing import PackedRows, Packing
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import DataError
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.tasks.base import is_file
from nanochat_cli.core.tokenizer.conversation import Conversation, Rendered, render
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import mixture
from nanochat_cli.core.train.mixture import Part
from nanochat_cli.core.units import many

_MAX_HELD_OUT = 2_000
_SAMPLES = 4
_TOLD_EVERY = 5_000
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


@dataclass(frozen=True, slots=True)
class Ids:
    """A rendered conversation, kept small: a mixture has hundreds of thousands. int32 and bool, one per token."""

    ids: np.ndarray
    mask: np.ndarray
    truncated: bool = False


def chat_rows(
    sources: Sequence[str],
    tokenizer: Tokenizer,
    seq_len: int,
    log: Log,
    *,
    tasks: Sequence[str] = (),
    seed: int = 0,
    all_tokens: bool = False,
    without: Set[str] = frozenset(),
) -> ChatRows:
    """Return the conversations of files (`PATH[:weight]`) and tasks as rows of `seq_len` + 1 tokens.

    `all_tokens` makes every token a target, as in pretraining; otherwise only what the assistant says is one. Of a
    source with a share as weight, `seed` picks. Questions `without` are not trained on, as `mixture.asked` gives them.
    Raises ConfigError, MissingArtifact or DataError.
    """
    parts = [mixture.without(part, without) for part in mixture.open_parts(sources, tasks, seed)]
    train: list[Ids] = []
    facts: list[dict[str, Any]] = []
    for part in parts:
        found = _rendered(part, tokenizer, log)
        train += found
        facts.append(_facts(part, found, seq_len, seed))
        _tell(facts[-1], len(part.train), seq_len, log)
    if not train:
        raise DataError("there is no conversation to train on", hint="name a chat file with --data FILE")
    rows = packing.pack_conversations(train, seq_len + 1, log, all_tokens=all_tokens)
    held = [_ids(render(tokenizer, talk)) for talk in mixture.held_of(parts, _MAX_HELD_OUT)]
    held = [item for item in held if item.mask[: seq_len + 1].any()]
    return ChatRows(
        train=rows,
        val=packing.pack_conversations(held, seq_len + 1, NULL, all_tokens=all_tokens) if held else None,
        questions=mixture.one_of_each(parts, _SAMPLES),
        facts={
            "fingerprint": files.sha256_json([fact.pop("identity") for fact in facts]),
            "sources": facts,
            "conversations": len(train),
            "rows": rows.num_rows,
            "padding": round(rows.padding_fraction, 4),
            "truncated": rows.truncated_items,
            "dropped": rows.dropped_items,
        },
    )


def _rendered(part: Part, tokenizer: Tokenizer, log: Log) -> list[Ids]:
    """The conversations that an epoch sees of a source; what is repeated is rendered once."""
    numbers, places = np.unique(part.chosen, return_inverse=True)
    found = []
    for number in numbers.tolist():
        found.append(_ids(render(tokenizer, part.train[number])))
        if len(found) % _TOLD_EVERY == 0:
            log.progress(f"reading {part.wanted.name}", len(found), len(numbers), "conversations")
    return [found[place] for place in places.ravel().tolist()]


def _ids(rendered: Rendered) -> Ids:
    return Ids(np.array(rendered.ids, np.int32), np.array(rendered.mask, bool))


def _facts(part: Part, found: list[Ids], seq_len: int, seed: int) -> dict[str, Any]:
    """What is recorded about a source; `identity` is what must be the same for a resume to go on with it."""
    wanted, counts = part.wanted, np.array([len(item.ids) for item in found])
    if part.sha256 is None:
        digest = hashlib.sha256()
        for item in found:
            digest.update(len(item.ids).to_bytes(8, "little") + item.ids.tobytes() + item.mask.tobytes())
        named, identity = {"task": wanted.name}, [digest.hexdigest()]
        if is_file(wanted.name):  # so that an evaluation can tell that it was trained on
            named["sha256"] = files.sha256_file(Path(wanted.name))
    else:
        named = {"file": wanted.name, "sha256": part.sha256}
        identity = [part.sha256, wanted.weight] + ([seed] if wanted.weight % 1 else [])
    here = len(part.train) + (len(part.val) if part.sha256 else 0)
    how = {"weight": wanted.weight} if wanted.count is None else {"count": wanted.count}
    lengths = vars(mixture.lengths_of(counts, seq_len)) if len(counts) else {}
    return {**named, **how, "conversations": here, "per_epoch": len(found), **lengths, "identity": identity}


def _tell(fact: dict[str, Any], here: int, seq_len: int, log: Log) -> None:
    if not fact["per_epoch"]:
        return
    name = fact.get("task") or Path(fact["file"]).name
    log.note(
        f"{name}: {fact['per_epoch']:,} conversations an epoch, of {here:,}; {fact['mean_tokens']:,.0f} tokens on "
        f"average, 95 % up to {fact['p95_tokens']:,}, {fact['longer_share']:.1%} longer than the context of {seq_len:,}"
    )
