"""Leaving the lower part of a network as it is: no gradient, no optimizer state, and nothing kept for a backward pass.

What lies below the trained blocks must be frozen whole: a single trained number there would need the gradient to travel
down through all frozen blocks, which is what freezing saves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.optim.groups import ParamGroup


def freeze(model: LanguageModel, num_layers: int) -> None:
    """Freeze the lowest `num_layers` blocks, all embeddings, and whatever else feeds the blocks.

    0 freezes the embeddings alone. Raises ConfigError if there are not so many blocks.
    """
    if not 0 <= num_layers <= model.config.n_layer:
        raise ConfigError(
            f"more blocks to freeze than the model has ({model.config.n_layer}): {num_layers}",
            hint=f"--freeze-layers takes 0 to {model.config.n_layer}",
        )
    for name, param in model.named_parameters():
        if not _is_above(name, model, num_layers):
            param.requires_grad_(False)


def _is_above(name: str, model: LanguageModel, num_layers: int) -> bool:
    """Whether no frozen block comes after a parameter on the way from the input to the loss."""
    if name.startswith("blocks."):
        return int(name.split(".")[1]) >= num_layers
    return name.startswith(model.after_blocks)


def trained(groups: Iterable[ParamGroup]) -> list[ParamGroup]:
    """Return optimizer groups without what is frozen, and without adapters; empty ones are left out."""
    found = []
    for group in groups:
        params = {n: p for n, p in group.params.items() if p.requires_grad and ".lora." not in n}
        if params:
            splits = {name: rows for name, rows in group.splits.items() if name in params}
            found.append(dataclasses.replace(group, params=params, splits=splits))
    return found
