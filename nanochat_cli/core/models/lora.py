"""Low-rank adapters on the matrices of a model's blocks, which are trained in the matrices' place (arXiv 2106.09685).

A matrix W (M x N) computes as W + s * U D with D (R x N) and U (M x R) trained and W left alone; s = 1/sqrt(R) makes
steps equally large at any rank (arXiv 2312.03732). U starts at zero, so that the model begins as it was.

Seen from outside the model stays plain: `state_dict` holds W + s * U D under the names of the matrices and nothing
of the adapters, so every checkpoint loads anywhere. The adapters themselves go with the optimizer's state. Loading
weights leaves the adapted matrices alone: they are still those that training began with.

Tensor suffixes: M outputs, N inputs, R rank.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.models.base import LanguageModel, Linear
from nanochat_cli.core.optim.groups import ParamGroup

_RATE_SCALE = 0.25
"""Of the matrices' learning rate: AdamW moves each number by about the rate, Muon a whole matrix."""
_PREFIX = "lora."


class Adapter(nn.Module):
    """What is added to one matrix, R * (M + N) numbers."""

    def __init__(self, layer: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.scale = rank**-0.5
        down_RN = torch.empty(rank, layer.in_features).normal_(0, layer.in_features**-0.5, generator=generator)
        self.down_RN = nn.Parameter(down_RN.to(layer.weight.device))
        self.up_MR = nn.Parameter(torch.zeros(layer.out_features, rank, device=layer.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added to the layer's output, in the dtype of its input."""
        inner = F.linear(x, self.down_RN.to(x.dtype)) * self.scale
        return F.linear(inner, self.up_MR.to(x.dtype))

    def merged(self, weight_MN: Tensor) -> Tensor:
        """Return the one matrix that stands for both."""
        return torch.addmm(weight_MN, self.up_MR, self.down_RN, alpha=self.scale)


def attach(model: LanguageModel, rank: int, seed: int = 0) -> None:
    """Put adapters on the matrices of all blocks that are trained, and freeze those matrices.

    Those too small for the rank are only frozen. Raises ConfigError if no matrix is left to adapt.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = [layer for layer in model.blocks.modules() if isinstance(layer, Linear) and layer.weight.requires_grad]
    fitting = [layer for layer in layers if rank < min(layer.weight.shape)]
    if not fitting:
        raise ConfigError(f"no matrix of the trained blocks is large enough for --lora: {rank}")
    for param in model.blocks.parameters():
        param.requires_grad_(False)
    for layer in fitting:
        layer.lora = Adapter(layer, rank, generator)
    model.register_state_dict_post_hook(_merge)
    model.register_load_state_dict_pre_hook(_keep_adapted)


def adapters(model: nn.Module) -> dict[str, Tensor]:
    """Return the numbers of all adapters by name; none for a model without."""
    return {
        f"{_PREFIX}{name}.{key}": param
        for name, layer in model.named_modules()
        if isinstance(layer, Linear) and layer.lora is not None
        for key, param in layer.lora.named_parameters()
    }


def groups(model: nn.Module) -> list[ParamGroup]:
    """Return the optimizer's group of the adapters; none for a model without."""
    found = adapters(model)
    return [ParamGroup.of("matrix", found, _RATE_SCALE, betas=(0.9, 0.95))] if found else []


def _adapted(model: nn.Module) -> list[tuple[str, Linear, Adapter]]:
    return [
        (name, layer, layer.lora)
        for name, layer in model.named_modules()
        if isinstance(layer, Linear) and isinstance(layer.lora, Adapter)
    ]


@torch.no_grad()
def _merge(model: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    for name, layer, adapter in _adapted(model):
        state_dict[f"{prefix}{name}.weight"] = adapter.merged(layer.weight)
        for key, _ in adapter.named_parameters():
            del state_dict[f"{prefix}{name}.lora.{key}"]


def _keep_adapted(model: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    for name, layer, adapter in _adapted(model):
        state_dict[f"{prefix}{name}.weight"] = layer.weight.detach()
        for key, param in adapter.named_parameters():
            state_dict[f"{prefix}{name}.lora.{key}"] = param.detach()
