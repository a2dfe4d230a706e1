"""From a config to a model with starting weights."""

from __future__ import annotations

import torch

from nanochat_cli.core import models, registry
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.shape import ModelConfig, check


def build(config: ModelConfig, *, seed: int = 0, device: str | torch.device = "cpu") -> LanguageModel:
    """Return a new model of `config.arch`; the same seed gives the same weights on every device.

    Raises ConfigError for an unknown architecture or for sizes that do not fit together.
    """
    check(config)
    architecture: type[LanguageModel] = registry.load(models, config.arch, "architecture").ARCH
    with torch.random.fork_rng(devices=[]):  # torch's layers draw weights of their own, which are replaced below
        model = architecture(config)
    with torch.no_grad():
        model.init_weights(torch.Generator().manual_seed(seed))
    return model.to(device)
