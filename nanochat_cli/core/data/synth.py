"""Writes the generated world as a corpus: documents for pretraining, and chats for the stages after it."""

from __future__ import annotations

from collections.abc import Iterator

from nanochat_cli.core.data import tinyworld
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.data.shards import CorpusWriter
from nanochat_cli.core.data.tinyworld.mixture import Stage
from nanochat_cli.core.events import NULL, Log

_TELL_EVERY = 2000


def write(
    name: str,
    *,
    documents: int,
    chats: int,
    seed: int = 0,
    val_fraction: float = 0.02,
    force: bool = False,
    log: Log = NULL,
) -> Corpus:
    """Publish the corpus `name` with `documents` texts and `chats` conversations for each chat stage, and return it.

    Everything is a pure function of the generator's version, the seed and the number of the document. Raises
    ConfigError if the corpus exists and `force` is not given.
    """
    source = {
        "kind": "generated",
        "generator": "tinyworld",
        "version": tinyworld.VERSION,
        "seed": seed,
        "documents": documents,
    }
    with CorpusWriter(name, val_fraction=val_fraction, seed=seed, force=force, source=source, log=log) as writer:
        for i in range(documents):
            writer.add(tinyworld.document(seed, i))
            if i % _TELL_EVERY == 0:
                log.progress("writing documents", i, documents, "documents")
        log.progress("writing documents", documents, documents, "documents")
        stages: tuple[Stage, ...] = ("mid", "sft")
        for stage in stages if chats else ():
            writer.write_chats(stage, _conversations(stage, chats, seed, log))
    return writer.corpus


def _conversations(stage: Stage, chats: int, seed: int, log: Log) -> Iterator[dict[str, object]]:
    for i in range(chats):
        yield tinyworld.chat(seed, i, stage).to_json()
        if i % _TELL_EVERY == 0:
            log.progress(f"writing {stage} chats", i, chats, "chats")
    log.progress(f"writing {stage} chats", chats, chats, "chats")
