"""Small models whose every weight is drawn, so that no path through them is zero."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import ModelConfig

MakeModel = Callable[..., LanguageModel]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_model() -> MakeModel:
    def make(dtype: torch.dtype = torch.float32, **changes: Any) -> LanguageModel:
        sizes: dict[str, Any] = {
            "n_layer": 2,
            "n_head": 4,
            "n_kv_head": 4,
            "n_embd": 32,
            "vocab_size": 61,
            "max_seq_len": 24,
        }
        model = build(ModelConfig(**{**sizes, **changes})).to(dtype)
        model.precision = dtype
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_(0, 0.3, generator=generator)
        return model

    return make
