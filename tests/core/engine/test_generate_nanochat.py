"""The modern recipe decodes, in any batch and by any chunks, what reading everything again for each token would."""

from __future__ import annotations

import pytest
import torch

from nanochat_cli.core.engine.generate import generate, naive_generate, stream
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import from_depth

V = 61
PROMPTS = [[1, 2, 3], [5], [7, 8, 9, 10, 11, 12, 13], [4, 4], [20, 21, 22, 23]]


@pytest.fixture(params=[4, 2], ids=lambda n: f"kv{n}")
def model(request: pytest.FixtureRequest) -> LanguageModel:
    """All parts on, a window shorter than most prompts, and weights that say something."""
    config = from_depth(3, V, 32, n_embd=32, n_head=4, n_kv_head=request.param, arch="nanochat", short_window=3)
    net = build(config, seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in net.parameters():
            weight.normal_(0, 0.3, generator=generator)
    return net.eval()


def oracle(model: LanguageModel, stop_ids: tuple[int, ...] = ()) -> list[list[int]]:
    return [naive_generate(model, p, max_new_tokens=12, stop_ids=stop_ids) for p in PROMPTS]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("chunk", [None, 1, 2, 3])
def test_cached_equals_naive(model: LanguageModel, batch_size: int, chunk: int | None) -> None:
    want = oracle(model)
    assert len({token for ids in want for token in ids}) > 5
    assert generate(model, PROMPTS, max_new_tokens=12, batch_size=batch_size, prefill_chunk=chunk) == want


def test_streamed_and_stopped_rows_equal_naive(model: LanguageModel) -> None:
    assert [list(stream(model, p, max_new_tokens=12)) for p in PROMPTS] == oracle(model)
    stops = tuple({ids[3] for ids in oracle(model)})
    assert generate(model, PROMPTS, max_new_tokens=12, stop_ids=stops) == oracle(model, stops)


def test_a_row_does_not_depend_on_its_neighbours(model: LanguageModel) -> None:
    def sample(prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
        return generate(model, prompts, max_new_tokens=8, temperature=1.0, top_k=20, seeds=seeds)

    together = sample(PROMPTS, [1, 2, 3, 4, 5])
    assert together == [sample([p], [s])[0] for p, s in zip(PROMPTS, [1, 2, 3, 4, 5], strict=True)]
