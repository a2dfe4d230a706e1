"""What a GPU's spare memory is good for in training: logits that are kept need not be computed twice."""

from __future__ import annotations

import torch

from nanochat_cli.core import estimate
from nanochat_cli.core.estimate import BYTES
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.shape import ModelConfig


def kept_logits_bytes(
    config: ModelConfig, memory_bytes: int, *, device_batch_size: int, world: int, dtype: str, compiled: bool
) -> int | None:
    """Return the size of a micro-batch's logits if they and their gradient fit beside all the rest, else None.

    Computing them again in the backward pass is a third more work for the head, about 6 % of a step at depth 12.
    """
    told = estimate.memory(
        config, device_batch_size=device_batch_size, world=world, dtype=dtype, compiled=compiled, on_gpu=True
    )
    logits = device_batch_size * config.max_seq_len * config.vocab_size * BYTES[dtype]
    return logits if told.total + 2 * logits <= estimate.usable(memory_bytes) else None


def use(model: LanguageModel, *, device_batch_size: int, world: int, dtype: str, compiled: bool) -> None:
    """Let a model's loss keep its logits where its GPU has room for them. Must come before anything is compiled."""
    if model.device.type != "cuda":
        return
    model.kept_logits_bytes = kept_logits_bytes(
        model.config,
        torch.cuda.get_device_properties(model.device).total_memory,
        device_batch_size=device_batch_size,
        world=world,
        dtype=dtype,
        compiled=compiled,
    )
