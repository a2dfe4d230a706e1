"""From a question of the bundle to token spans: worked examples in front, then the question with each of its answers.

Prompts, token boundaries and scoring follow the reference system (DCLM's CORE, arXiv 2406.11794), so that scores can be
compared. Worked examples come from the questions that are asked, as they do there: a known leak, the same for everyone.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from nanochat_cli.core import files, paths
from nanochat_cli.core.errors import DataError
from nanochat_cli.core.eval.bundle import IclTask, Item
from nanochat_cli.core.eval.nets import Codec
from nanochat_cli.core.eval.scoring import Span, common_prefix

_VERSION = 1
"""Of the spans: a cache of another version is not read."""


@dataclass(frozen=True, kw_only=True)
class Questions:
    """All questions of a task as spans, one per answer, and which answer is right (0 where there is but one).

    `unaligned` counts questions whose answer does not begin at a token boundary: one answer's tokens begin another's,
    or the last token of a prompt changes when its answer follows. They are scored from the nearest boundary before it.
    """

    spans: list[list[Span]]
    gold: list[int]
    unaligned: int


def prompts(task: IclTask, item: Item, examples: Sequence[Item]) -> list[str]:
    """The texts to score: one per choice or context; for language modelling the prompt without and with its answer."""
    shown = "".join(_answered(task, example) + "\n\n" for example in examples)
    if task.kind == "multiple_choice":
        return [f"{shown}{item['query']}{task.delimiter}{choice}" for choice in item["choices"]]
    if task.kind == "schema":
        return [f"{shown}{context}{task.delimiter}{item['continuation']}" for context in item["context_options"]]
    without = f"{shown}{item['context'].strip()}{task.delimiter}"
    # A space at the end of a prompt would be a token of its own, while with the answer it is that word's first byte.
    return [without.strip(), without + item["continuation"]]


def _answered(task: IclTask, item: Item) -> str:
    if task.kind == "multiple_choice":
        return f"{item['query']}{task.delimiter}{item['choices'][item['gold']]}"
    if task.kind == "schema":
        return f"{item['context_options'][item['gold']]}{task.delimiter}{item['continuation']}"
    return f"{item['context'].strip()}{task.delimiter}{item['continuation']}"


def to_spans(task: IclTask, rows: list[list[int]]) -> tuple[list[Span], bool]:
    """Spans of the tokenized `prompts` of a question, and whether they begin at a token boundary.

    Choices are scored from where they first differ, the end of a schema from where all are alike. Raises DataError for
    an answer without tokens.
    """
    aligned = True
    if task.kind == "multiple_choice":
        start = common_prefix(rows)
        aligned = start < min(map(len, rows))
        start = start if aligned else min(map(len, rows)) - 1
        starts = [start] * len(rows)
    elif task.kind == "schema":
        alike = common_prefix([row[::-1] for row in rows])
        starts = [len(row) - alike for row in rows]
    else:
        without, whole = rows
        start = common_prefix(rows)
        aligned = start == len(without)
        rows, starts = [whole], [start]
    spans = [Span(row, max(1, start)) for row, start in zip(rows, starts, strict=True)]
    if any(span.start >= len(span.ids) for span in spans):
        raise DataError(f"a question of task {task.label} has an answer without tokens of its own")
    return spans, aligned


def questions(task: IclTask, codec: Codec, limit: int | None = None, *, keep: bool = True) -> Questions:
    """All questions of a task as spans. With `keep` they are kept in the cache, by tokenizer and content."""
    key = {"version": _VERSION, "task": task.label, "shots": task.shots, "delimiter": task.delimiter}
    key |= {"data": files.sha256_file(task.path), "tokenizer": codec.hash, "bos": codec.bos, "limit": limit}
    cached = paths.cache_dir() / "core" / f"{task.label}-{files.sha256_json(key)[:16]}.npz"
    if keep and (found := _load(cached)):
        return found
    made = _tokenize(task, codec, limit)
    if keep and files.can_write(cached.parent):
        files.make_dir(cached.parent, "the cache")
        files.write_atomic(cached, _packed(made))
    return made


def _tokenize(task: IclTask, codec: Codec, limit: int | None) -> Questions:
    items = task.items(limit)
    bos = [] if codec.bos is None else [codec.bos]
    found, unaligned = [], 0
    for start in range(0, len(items), 256):
        texts = [prompts(task, items[i], task.draw(items, i)) for i in range(start, min(start + 256, len(items)))]
        rows = iter(codec.encode_all([text for group in texts for text in group]))
        for group in texts:
            spans, aligned = to_spans(task, [bos + next(rows) for _ in group])
            found.append(spans)
            unaligned += not aligned
    return Questions(spans=found, gold=[int(item.get("gold", 0)) for item in items], unaligned=unaligned)


# ---- cache -----------------------------------------------------------------------------------------------------------


def _packed(made: Questions) -> bytes:
    """Numbers only: per question its answers, what they share once, then the rest of each."""
    heads, tails, starts, counts, shared = [], [], [], [], []
    for spans in made.spans:
        common = common_prefix([span.ids for span in spans])
        heads.append(np.array(spans[0].ids[:common], dtype=np.uint32))
        tails += [np.array(span.ids[common:], dtype=np.uint32) for span in spans]
        starts += [span.start for span in spans]
        counts.append(len(spans))
        shared.append(common)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        heads=np.concatenate(heads),
        tails=np.concatenate(tails),
        tail_sizes=np.array([len(tail) for tail in tails]),
        starts=np.array(starts),
        counts=np.array(counts),
        shared=np.array(shared),
        gold=np.array(made.gold),
        unaligned=np.array(made.unaligned),
    )
    return buffer.getvalue()


def _load(path: Path) -> Questions | None:
    """What `_packed` wrote, or None if that is not there or not whole."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            part = {name: stored[name].tolist() for name in stored.files}
        heads, tails = iter(part["heads"]), iter(part["tails"])
        sizes, starts = iter(part["tail_sizes"]), iter(part["starts"])
        spans = []
        for count, common in zip(part["counts"], part["shared"], strict=True):
            head = list(islice(heads, common))
            spans.append([Span(head + list(islice(tails, next(sizes))), next(starts)) for _ in range(count)])
        return Questions(spans=spans, gold=part["gold"], unaligned=part["unaligned"])
    except (OSError, ValueError, KeyError, StopIteration, zipfile.BadZipFile):
        return None
