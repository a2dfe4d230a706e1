"""Continuations of prompts with a cache: many prompts at a time, or one as a stream; and the slow oracle for tests.

Tensor suffixes: B batch, T time, E embedding, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from nanochat_cli.core import heartbeat
from nanochat_cli.core.engine.sampling import next_tokens
from nanochat_cli.core.engine.tools import Calls
from nanochat_cli.core.models.base import DecodeState, LanguageModel
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

_PAD = 0  # right of a prompt; never attended to, and overwritten by the first tokens of the reply


@torch.no_grad()
def prefill(
    model: LanguageModel, prompts: Sequence[Sequence[int]], max_len: int, *, chunk: int | None = None
) -> tuple[DecodeState, Tensor]:
    """Read prompts of any lengths into a new decode state; return it and the hidden state x_BE after each last token.

    `chunk` bounds the tokens per row that are read at a time. Raises ValueError for an empty prompt.
    """
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    if not len(lengths) or int(lengths.min()) == 0:
        raise ValueError("a prompt needs at least one token")
    longest = int(lengths.max())
    idx_BT = torch.full((len(prompts), longest), _PAD, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        idx_BT[row, : len(prompt)] = torch.as_tensor(prompt)
    idx_BT, lengths = idx_BT.to(model.device), lengths.to(model.device)
    state = model.new_state(len(prompts), max_len)
    last_BE: Tensor | None = None
    for start in range(0, longest, chunk or longest):
        x_BTE = model.hidden(idx_BT[:, start : start + (chunk or longest)], state)
        place_B = lengths - 1 - start
        here_B = (place_B >= 0) & (place_B < x_BTE.size(1))
        found_BE = x_BTE[torch.arange(len(prompts)), place_B.clamp(0, x_BTE.size(1) - 1)]
        last_BE = found_BE if last_BE is None else torch.where(here_B[:, None], found_BE, last_BE)
    assert last_BE is not None
    state.set_lengths(lengths)
    return state, last_BE


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    temperature: float = 0.0,
    top_k: int | None = None,
    seeds: Sequence[int] | None = None,
    batch_size: int = 64,
    prefill_chunk: int | None = None,
    tools: Tokenizer | None = None,
) -> list[list[int]]:
    """Return the continuation of each prompt, ending with the stop token if one was produced.

    `seeds` holds one number per prompt and is needed when the temperature is above 0; a prompt's continuation does not
    depend on the others. Prompts of similar length are read together. With `tools`, the calculator answers calls in a
    reply; what it says counts towards `max_new_tokens`.
    """
    found: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        written = _generate_batch(
            model,
            [prompts[i] for i in rows],
            max_new_tokens,
            frozenset(stop_ids),
            temperature,
            top_k,
            None if seeds is None else np.array([seeds[i] for i in rows], dtype=np.uint64),
            prefill_chunk,
            tools,
        )
        for i, ids in zip(rows, written, strict=True):
            found[i] = ids
    return found


def _generate_batch(
    model: LanguageModel,
    prompts: list[Sequence[int]],
    max_new_tokens: int,
    stop_ids: frozenset[int],
    temperature: float,
    top_k: int | None,
    seeds: np.ndarray | None,
    prefill_chunk: int | None,
    tools: Tokenizer | None,
) -> list[list[int]]:
    written: list[list[int]] = [[] for _ in prompts]
    if max_new_tokens < 1:
        return written
    state, x_BE = prefill(model, prompts, max(map(len, prompts)) + max_new_tokens, chunk=prefill_chunk)
    active = list(range(len(prompts)))  # which prompt each row of the state belongs to
    going = np.ones(len(prompts), dtype=bool)
    calls = [Calls(tools) for _ in prompts] if tools is not None else []
    coming: list[list[int]] = [[] for _ in prompts]  # forced, the next one last
    for position in range(max_new_tokens):
        heartbeat.alive()
        row_seeds = None if seeds is None else seeds[active]
        next_B = next_tokens(
            model.logits(x_BE), temperature=temperature, top_k=top_k, seeds=row_seeds, position=position
        )
        for row, token in enumerate(next_B.tolist()):
            i = active[row]
            if not going[i]:
                continue
            if coming[i]:
                token = next_B[row] = coming[i].pop()
            elif calls:
                coming[i] = calls[i].took(token)[::-1]
            written[i].append(int(token))
            going[i] = token not in stop_ids
        left = [row for row, i in enumerate(active) if going[i]]
        if not left or position == max_new_tokens - 1:
            break
        if len(left) <= len(active) * 3 // 4:  # finished rows cost as much as others: drop them now and then
            kept = torch.tensor(left, device=next_B.device)
            state, next_B, active = state.select(kept), next_B[kept], [active[row] for row in left]
        x_BE = model.hidden(next_B[:, None], state)[:, -1]
    return written


@torch.no_grad()
def stream(
    model: LanguageModel,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    tools: Tokenizer | None = None,
) -> Iterator[int]:
    """Yield the continuation of one prompt token by token, the stop token included; see `generate`."""
    if max_new_tokens < 1:
        return
    state, x_BE = prefill(model, [prompt], len(prompt) + max_new_tokens)
    seeds = np.array([seed], dtype=np.uint64)
    calls, coming = Calls(tools) if tools is not None else None, list[int]()
    for position in range(max_new_tokens):
        heartbeat.alive()
        next_B = next_tokens(model.logits(x_BE), temperature=temperature, top_k=top_k, seeds=seeds, position=position)
        if coming:
            next_B[0] = coming.pop()
        elif calls is not None:
            coming = calls.took(int(next_B))[::-1]
        token = int(next_B)
        yield token
        if token in stop_ids or position == max_new_tokens - 1:
            return
        x_BE = model.hidden(next_B[:, None], state)[:, -1]


@torch.no_grad()
def naive_generate(
    model: LanguageModel, prompt: Sequence[int], *, max_new_tokens: int, stop_ids: Collection[int] = ()
) -> list[int]:
    """Return the greedy continuation by reading everything again for each token: slow, without a cache, the oracle."""
    ids = list(prompt)
    for _ in range(max_new_tokens):
        heartbeat.alive()
        logits_1TV = model(torch.tensor([ids], device=model.device))
        ids.append(int(logits_1TV[0, -1].argmax()))
        if ids[-1] in stop_ids:
            break
    return ids[len(prompt) :]
