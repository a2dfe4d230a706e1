"""What is measured on the way: bits per byte on held-out rows, and samples of what the model writes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nanochat_cli.core.data.packing import PackedRows
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.engine.generate import generate
from nanochat_cli.core.eval import bpb
from nanochat_cli.core.events import Log
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.settings import EvalSection
from nanochat_cli.core.tokenizer.conversation import Conversation, render_prompt
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import device_batch
from nanochat_cli.core.train.data import ChatRows, TextRows
from nanochat_cli.core.train.loop import Hook

_SAMPLE_TOKENS = 48


class Bpb:
    """Bits per byte over rows of the validation split, always the same ones."""

    name = "validation"

    def __init__(
        self,
        model: LanguageModel,
        rows: PackedRows,
        tokenizer: Tokenizer,
        dist: Dist,
        *,
        every: int | None,
        max_tokens: int,
        batch_size: int,
    ) -> None:
        self.every, self.at_start = every, every is not None
        self._model, self._rows, self._dist = model, rows, dist
        self._token_bytes = tokenizer.token_bytes()
        self._limit = max(1, max_tokens // (rows.row_len - 1))
        self._batch_size = batch_size

    def run(self, step: int, log: Log) -> dict[str, float]:
        dist = self._dist
        batches = bpb.row_batches(
            self._rows, self._batch_size, limit=self._limit, rank=dist.rank, world=dist.world, device=dist.device
        )
        found = bpb.measure(device_batch.Fitting(self._model), batches, self._token_bytes, dist)
        log.emit("eval", step=step, metric="val_bpb", value=found.bpb, bytes=found.bytes, val_loss=found.nats_per_token)
        return {"val_bpb": found.bpb}


class Samples:
    """Greedy continuations of a few prompts, so that a person sees the model learn."""

    name = "sampling"
    at_start = False

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        dist: Dist,
        *,
        every: int | None,
        prompts: Sequence[tuple[str, list[int]]],
        stop_ids: Sequence[int],
    ) -> None:
        self.every = every
        self._model, self._tokenizer, self._dist = model, tokenizer, dist
        self._prompts, self._stop_ids = list(prompts), set(stop_ids)

    def run(self, step: int, log: Log) -> dict[str, float]:
        if not self._dist.is_main:
            return {}
        try:
            replies = self._continued()
        except Exception as problem:
            if not device_batch.is_oom(problem):
                raise
            # Said here: the other processes do not wait for samples, so this is no reason for all of them to end.
            log.warning(f"no memory to write samples at step {step}, training goes on")
            return {}
        finally:
            device_batch.release(self._dist.device)  # the cache of keys and values, whose memory the next step needs
        for (prompt, _), ids in zip(self._prompts, replies, strict=True):
            body = [token for token in ids if token not in self._stop_ids]
            log.emit("sample", step=step, prompt=prompt, text=self._tokenizer.decode(body))
        return {}

    def _continued(self) -> list[list[int]]:
        with torch.no_grad():
            return generate(
                self._model,
                [ids for _, ids in self._prompts],
                max_new_tokens=_SAMPLE_TOKENS,
                stop_ids=self._stop_ids,
                tools=self._tokenizer,
            )


def for_text(
    cfg: EvalSection, model: LanguageModel, tokenizer: Tokenizer, rows: TextRows, dist: Dist, batch_size: int
) -> list[Hook]:
    """Measurements for a base model: it reads held-out documents, and continues the beginnings of some."""
    hooks: list[Hook] = [
        Bpb(model, rows.val, tokenizer, dist, every=cfg.eval_every, max_tokens=cfg.eval_tokens, batch_size=batch_size)
    ]
    prompts = [(text, [tokenizer.bos_id, *tokenizer.encode(text)]) for text in rows.beginnings]
    hooks.append(Samples(model, tokenizer, dist, every=cfg.sample_every, prompts=prompts, stop_ids=[tokenizer.bos_id]))
    return hooks


def for_chat(
    cfg: EvalSection, model: LanguageModel, tokenizer: Tokenizer, rows: ChatRows, dist: Dist, batch_size: int
) -> list[Hook]:
    """Measurements for a chat model: the loss on held-out conversations, and its answers to some."""
    hooks: list[Hook] = []
    if rows.val is not None:
        tokens = cfg.eval_tokens
        hooks.append(
            Bpb(model, rows.val, tokenizer, dist, every=cfg.eval_every, max_tokens=tokens, batch_size=batch_size)
        )
    prompts = [(_last_question(c), render_prompt(tokenizer, c)) for c in rows.questions]
    stops = [tokenizer.special("assistant_end"), tokenizer.bos_id]
    hooks.append(Samples(model, tokenizer, dist, every=cfg.sample_every, prompts=prompts, stop_ids=stops))
    return hooks


def _last_question(conversation: Conversation) -> str:
    return next(message.text for message in reversed(conversation.messages) if message.role == "user")
