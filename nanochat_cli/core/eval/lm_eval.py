"""Our models in EleutherAI's lm-evaluation-harness: its tasks and grading, our scoring and engine.

The harness is an extra and imported only when it is asked for. Written against lm-eval 0.4.9 to 0.4.13.
"""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from nanochat_cli.core.engine.generate import generate
from nanochat_cli.core.errors import ConfigError, DataError, EnvironmentLacks
from nanochat_cli.core.eval.nets import OwnNet
from nanochat_cli.core.eval.scoring import Result, Span, score
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

DEFAULT_REPLY = 256
"""Tokens of a reply where a task names no number."""
_CHUNK = 512
"""Requests between two progress events."""


def run(
    model: LanguageModel,
    tokenizer: Tokenizer,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int = 64,
    log: Log = NULL,
) -> dict[str, Any]:
    """Evaluate on tasks of the harness (names, groups, patterns or YAML files) and return what is stored.

    Raises EnvironmentLacks without the package, ConfigError for a task it does not know, DataError if its data fails.
    """
    package = _package("lm_eval")
    if not tasks:
        raise ConfigError("lm-eval needs to know what to ask", hint="nanochat eval lm-eval -t arc_easy -t hellaswag")
    manager = _package("lm_eval.tasks").TaskManager()
    chosen: list[Any] = []
    for name in tasks:
        matched = [name] if Path(name).is_file() else manager.match_tasks([name])
        if not matched:
            raise ConfigError(f"lm-eval has no task: {name}", hint="its tasks: lm_eval ls tasks")
        chosen += matched
    lm = wrap(model, tokenizer, batch_size=batch_size, log=log)
    try:
        found = package.simple_evaluate(model=lm, tasks=chosen, limit=limit, log_samples=False, task_manager=manager)
    except (OSError, ValueError, KeyError, ImportError) as problem:
        first = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        raise DataError(f"lm-eval failed: {first}", hint="it fetches the data of its tasks by itself") from problem
    return summarise(found or {}, version=package.__version__, limit=limit) | {"cropped": dict(lm.cropped)}


def summarise(found: dict[str, Any], *, version: str, limit: int | None) -> dict[str, Any]:
    """What is stored of the harness's results: its metrics by task, with their standard errors and question counts."""
    counted = found.get("n-samples") or {}
    tasks = {}
    for name, values in (found.get("results") or {}).items():
        metrics = {
            key: value
            for key, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        }
        tasks[name] = {"metrics": metrics, "questions": (counted.get(name) or {}).get("effective")}
    return {"package": f"lm-eval {version}", "limit": limit, "tasks": tasks}


def _package(module: str) -> Any:
    """A module of the harness. Raises EnvironmentLacks if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as problem:
        raise EnvironmentLacks(
            "this needs the package lm-eval", hint='install it with: uv pip install "nanochat[eval]"'
        ) from problem


def wrap(model: LanguageModel, tokenizer: Tokenizer, *, batch_size: int = 64, log: Log = NULL) -> Any:
    """One of our models as the harness's `LM`. Raises EnvironmentLacks without the package."""
    base: Any = _package("lm_eval.api.model").LM

    class NanochatLM(base):
        """Answers the three kinds of request that the harness knows."""

        def __init__(self) -> None:
            super().__init__()
            self._device = model.device
            self.cropped: Counter[str] = Counter()

        @property
        def tokenizer_name(self) -> str:
            return f"nanochat-{tokenizer.hash[:16]}"

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            spans = [pair_span(tokenizer, *request.args) for request in requests]
            found = score_spans(model, spans, log, "lm-eval, likelihoods")
            self._count("likelihoods", len(_too_long(model, spans)))
            return [(0.0, True) if r is None else (-r.nats, r.greedy) for r in found]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            windows = [rolling_spans(tokenizer, model.config.max_seq_len, request.args[0]) for request in requests]
            flat = score_spans(model, [span for spans in windows for span in spans], log, "lm-eval, texts")
            parts = iter(flat)
            return [-sum(r.nats for _ in spans if (r := next(parts)) is not None) for spans in windows]

        def generate_until(self, requests: list[Any]) -> list[str]:
            replies, cropped = _replies(model, tokenizer, [request.args for request in requests], batch_size, log)
            self._count("replies", cropped)
            return replies

        def _count(self, kind: str, number: int) -> None:
            if number:
                self.cropped[kind] += number

    return NanochatLM()


# ---- likelihoods -----------------------------------------------------------------------------------------------------


def pair_span(tokenizer: Tokenizer, context: str, continuation: str) -> Span | None:
    """The continuation as a span behind its context; None if it has no tokens of its own.

    As the harness does it: spaces at the end of the context belong to the continuation, and both are cut into tokens
    together. The first token is always bos, which all our models were trained to start from.
    """
    stripped = context.rstrip()
    whole = tokenizer.encode(context + continuation)
    start = len(tokenizer.encode(stripped)) if stripped else 0
    return Span([tokenizer.bos_id, *whole], 1 + start) if start < len(whole) else None


def rolling_spans(tokenizer: Tokenizer, context: int, text: str) -> list[Span]:
    """Spans that together ask for every token of a text once; each but the first sees as much before it as fits."""
    ids = [tokenizer.bos_id, *tokenizer.encode(text)]
    spans, done = [], 1
    while done < len(ids):
        until = min(len(ids), done + context)
        first = max(0, until - context - 1)
        spans.append(Span(ids[first:until], done - first))
        done = until
    return spans


def score_spans(model: LanguageModel, spans: Sequence[Span | None], log: Log, label: str) -> list[Result | None]:
    """The result of each span, in their order; None for None. What is longer than the context loses its beginning."""
    limit = model.config.max_seq_len + 1  # the last token is asked for, not read
    places = [place for place, span in enumerate(spans) if span is not None]
    found: list[Result | None] = [None] * len(spans)
    cut = [span.cropped(limit) for span in spans if span is not None]
    if long := _too_long(model, spans):
        log.note(f"{label}: {len(long)} of {len(cut)} were longer than the model's context and lost their beginning")
    groups = _same_beginning(cut)
    done = 0
    for batch in score(OwnNet(model), [[cut[k] for k in group] for group in groups]):
        for number, results in batch:
            for k, result in zip(groups[number], results, strict=True):
                found[places[k]] = result
            done += len(results)
        log.progress(label, done, len(cut), "requests")
    return found


def _too_long(model: LanguageModel, spans: Sequence[Span | None]) -> list[Span]:
    """The spans that the context does not hold; the last token is asked for, not read."""
    return [span for span in spans if span is not None and len(span.ids) > model.config.max_seq_len + 1]


def _same_beginning(spans: Sequence[Span]) -> list[list[int]]:
    """Numbers of spans, those that follow each other with the same context together: choices of one question."""
    groups: list[list[int]] = []
    before: Any = None
    for number, span in enumerate(spans):
        context = tuple(span.ids[: span.start])
        if groups and context == before and len(groups[-1]) < 16:
            groups[-1].append(number)
        else:
            groups.append([number])
        before = context
    return groups


# ---- replies ---------------------------------------------------------------------------------------------------------


def _replies(
    model: LanguageModel, tokenizer: Tokenizer, asked: Sequence[tuple[str, dict[str, Any]]], batch_size: int, log: Log
) -> tuple[list[str], int]:
    """The reply to each context, cut before the first of its stop texts; and how many contexts lost their beginning."""
    found = [""] * len(asked)
    done = cropped = 0
    for how, numbers in _alike(asked).items():
        longest, temperature, top_k = how
        room = max(1, min(longest, model.config.max_seq_len // 2))
        for start in range(0, len(numbers), _CHUNK):
            part = numbers[start : start + _CHUNK]
            prompts = []
            for number in part:
                ids = tokenizer.encode(asked[number][0])
                lost = max(0, len(ids) + 1 + room - model.config.max_seq_len)
                cropped += lost > 0
                prompts.append([tokenizer.bos_id, *ids[lost:]])
            with torch.no_grad():
                written = generate(
                    model,
                    prompts,
                    max_new_tokens=room,
                    stop_ids={tokenizer.bos_id},
                    temperature=temperature,
                    top_k=top_k,
                    seeds=part if temperature > 0 else None,
                    batch_size=batch_size,
                )
            for number, ids in zip(part, written, strict=True):
                reply = tokenizer.decode(id for id in ids if id != tokenizer.bos_id)
                found[number] = until(reply, _stops(asked[number][1]))
            done += len(part)
            log.progress("lm-eval, replies", done, len(asked), "requests")
    if cropped:
        log.note(f"lm-eval, replies: {cropped} of {len(asked)} contexts left too little room and lost their beginning")
    return found, cropped


def _alike(asked: Sequence[tuple[str, dict[str, Any]]]) -> dict[tuple[int, float, int | None], list[int]]:
    """Numbers of requests by (longest reply, temperature, top k)."""
    groups: dict[tuple[int, float, int | None], list[int]] = {}
    for number, (_, how) in enumerate(asked):
        longest = next((how[key] for key in ("max_gen_toks", "max_new_tokens", "max_tokens") if how.get(key)), None)
        temperature = float(how.get("temperature") or 0.0) if how.get("do_sample", True) else 0.0
        key = int(longest or DEFAULT_REPLY), temperature, how.get("top_k")
        groups.setdefault(key, []).append(number)
    return groups


def _stops(how: dict[str, Any]) -> list[str]:
    given = how.get("until") or []
    return [given] if isinstance(given, str) else list(given)


def until(reply: str, stops: Iterable[str]) -> str:
    """The reply as far as the first stop text in it."""
    ends = [place for stop in stops if stop and (place := reply.find(stop)) >= 0]
    return reply[: min(ends)] if ends else reply
