"""From a topic to a set of chats: through an endpoint, with a journal to go on from, or from templates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_cli.core import paths
from nanochat_cli.core.data import journal
from nanochat_cli.core.data.synthchats import chatset, offline, request
from nanochat_cli.core.data.synthchats.alike import Seen
from nanochat_cli.core.data.synthchats.answer import Turn
from nanochat_cli.core.data.synthchats.budget import Limits, Meter
from nanochat_cli.core.data.synthchats.collect import Ask, Collector, Effort
from nanochat_cli.core.data.synthchats.request import Style
from nanochat_cli.core.data.synthchats.topic import Topic
from nanochat_cli.core.data.web import clean_url
from nanochat_cli.core.errors import NanochatError
from nanochat_cli.core.events import Log

PURPOSE = "synth-chats"
NEAR = 0.8
"""Overlap from which two conversations of a model count as one."""
_ROUNDS = 4
_MOST_REQUESTS = 2
"""Requests per conversation wanted, at most: what duplicates cost is asked for anew up to here."""
_LIKELY_SHARE = 0.4
"""Of the longest answer, for estimates of the cost."""


@dataclass(frozen=True)
class Made:
    """What was written, and what is told about it."""

    folder: Path
    facts: dict[str, Any]
    complete: bool


def plan(topic: Topic, style: Style, limits: Limits, number: int) -> dict[str, Any]:
    """Return what asking for `number` conversations takes, as far as it can be told without asking."""
    first = request.body(topic, style, 0)
    bodies = [request.body(topic, style, i) for i in range(min(number, 50))]
    tokens_in = number * sum(map(request.prompt_tokens, bodies)) / len(bodies)
    tokens_out = number * style.max_tokens * _LIKELY_SHARE
    cost = limits.cost(tokens_in, tokens_out)
    most = limits.cost(_MOST_REQUESTS * tokens_in, _MOST_REQUESTS * number * style.max_tokens)
    return {
        "requests": number,
        "tokens_in": round(tokens_in),
        "tokens_out": round(tokens_out),
        "cost": None if cost is None else round(cost, 4),
        "cost_at_most": None if most is None else round(min(most, limits.max_cost or most), 4),
        "example": "\n\n".join(message["content"] for message in first["messages"]),
    }


def from_endpoint(
    topic: Topic,
    name: str,
    *,
    ask: Ask,
    url: str,
    style: Style,
    limits: Limits,
    number: int,
    effort: Effort,
    near: float | None = NEAR,
    force: bool = False,
    log: Log,
) -> Made:
    """Ask until there are `number` different conversations, publish them as set `name` and return what was made.

    Where the limits of cost end it, what is there is published, and the same command with higher limits goes on.
    Interrupted or failed, the journal keeps what was paid for. Raises NanochatError.
    """
    chatset.check_free(name, topic, force=force)
    meter = Meter(limits)
    with journal.workspace(paths.corpus_dir(name), PURPOSE) as space:
        collector = Collector(lambda i: request.body(topic, style, i), ask, space, meter, effort, log)
        if collector.resumed:
            log.note(f"going on: {collector.resumed:,} answers are here from before")
        try:
            kept, doubles = _until_enough(collector, number, near)
        finally:
            collector.close()
        counts = collector.counts
        for why, times in sorted(counts.why.items(), key=lambda item: -item[1])[:3]:
            log.warning(f"answers that could not be used: {times:,} times {why}")
        complete = not counts.capped
        if not kept:
            what = "the limits of cost leave no room for a single request" if counts.capped else "no answer was usable"
            raise NanochatError(f"no conversation was made: {what}", hint="nothing was published")
        facts = {
            "made_by": "endpoint",
            "endpoint": clean_url(url),
            "model": style.model,
            "seed": style.seed,
            "wanted": number,
            "complete": complete,
            "requests": counts.asked,
            "unusable": counts.junk,
            "given_up": counts.given_up,
            **doubles,
            "tokens_in": meter.tokens_in,
            "tokens_out": meter.tokens_out,
            "tokens_estimated": meter.estimated,
            "cost": None if meter.cost is None else round(meter.cost, 6),
        }
        folder = chatset.publish(name, topic, kept, facts)
        space.finished = complete
    return Made(folder, {"conversations": len(kept), **facts}, complete)


def _until_enough(collector: Collector, number: int, near: float | None) -> tuple[list[list[Turn]], dict[str, int]]:
    """Ask for `number` conversations, and for more in the place of duplicates and of requests that were given up."""
    upto, most = number, _MOST_REQUESTS * number
    kept, doubles = [], {}
    for _ in range(_ROUNDS):
        collector.collect(range(upto), wanted=number)
        in_order = [collector.answers[i] for i in sorted(collector.answers) if i < upto]
        kept, doubles = distinct(in_order, near)
        missing = number - len(kept)
        if collector.counts.capped or missing <= 0 or upto >= most:
            break
        upto = min(most, upto + missing)
    return kept[:number], doubles


def distinct(found: Sequence[list[Turn]], near: float | None) -> tuple[list[list[Turn]], dict[str, int]]:
    """Return the conversations without duplicates, and how many of each kind there were."""
    seen, kept, doubles = Seen(near), [], {"duplicates": 0, "near_duplicates": 0}
    for turns in found:
        match seen.add(turns):
            case "new":
                kept.append(turns)
            case "same":
                doubles["duplicates"] += 1
            case "near":
                doubles["near_duplicates"] += 1
    return kept, doubles


def from_templates(topic: Topic, name: str, *, number: int, seed: int, force: bool = False, log: Log) -> Made:
    """Publish `number` conversations that need no endpoint, fewer if the facts do not yield so many."""
    chatset.check_free(name, topic, force=force)
    found = offline.conversations(topic, number=number, seed=seed, tell=_teller(log))
    if len(found) < number:
        log.warning(f"the topic yields {len(found):,} different conversations instead of {number:,}: add facts")
    facts = {"made_by": "offline", "generator": offline.VERSION, "seed": seed, "wanted": number, "complete": True}
    folder = chatset.publish(name, topic, found, facts)
    return Made(folder, {"conversations": len(found), **facts}, True)


def _teller(log: Log) -> Callable[[int, int], None]:
    return lambda done, total: log.progress("writing conversations", done, total, "conversations")
