"""The likeliest of a few tokens after each prompt: how multiple choice is answered without writing anything.

Only the allowed tokens are compared, at the position behind the prompt, so a model need not have learnt to stop, or not
to say more, for its knowledge to be measured.

Tensor suffixes: B prompts, T positions, E embedding, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nanochat_cli.core.models.base import LanguageModel

TOKENS_AT_A_TIME = 131_072


@torch.no_grad()
def likeliest(
    model: LanguageModel, prompts: Sequence[Sequence[int]], allowed: Sequence[Sequence[int]], *, batch_size: int = 256
) -> list[int | None]:
    """Return for each prompt which of its `allowed` tokens the model expects next, as an index into them.

    None for a prompt longer than the context: cutting it would ask something else. Equal scores go to the first.
    """
    scores = next_scores(model, prompts, allowed, batch_size=batch_size)
    return [None if row is None else max(range(len(row)), key=row.__getitem__) for row in scores]


@torch.no_grad()
def next_scores(
    model: LanguageModel, prompts: Sequence[Sequence[int]], allowed: Sequence[Sequence[int]], *, batch_size: int = 256
) -> list[list[float] | None]:
    """Return the logits of each prompt's allowed tokens; None for a prompt longer than the context.

    Prompts of like length are read together, padded on the right, where a causal model does not look.
    """
    room = model.config.max_seq_len
    found: list[list[float] | None] = [None] * len(prompts)
    order = sorted((i for i, prompt in enumerate(prompts) if 0 < len(prompt) <= room), key=lambda i: len(prompts[i]))
    at = 0
    while at < len(order):
        longest = len(prompts[order[min(at + batch_size, len(order)) - 1]])
        rows = order[at : at + max(1, min(batch_size, TOKENS_AT_A_TIME // longest))]
        at += len(rows)
        lengths = [len(prompts[i]) for i in rows]
        idx_BT = torch.zeros(len(rows), max(lengths), dtype=torch.int64)
        for row, i in enumerate(rows):
            idx_BT[row, : lengths[row]] = torch.as_tensor(prompts[i])
        x_BTE = model.hidden(idx_BT.to(model.device))
        last_B = torch.tensor(lengths, device=x_BTE.device) - 1
        logits_BV = model.logits(x_BTE[torch.arange(len(rows), device=x_BTE.device), last_B]).cpu()
        for row, i in enumerate(rows):
            found[i] = logits_BV[row, list(allowed[i])].tolist()
    return found
