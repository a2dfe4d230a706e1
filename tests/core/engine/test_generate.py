"""Cached, chunked, batched and streamed decoding agree with reading everything again for each token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nanochat_cli.core.engine.generate import generate, naive_generate, stream
from nanochat_cli.core.engine.sampling import next_tokens, uniforms
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import ModelConfig

V = 61
PROMPTS = [[1, 2, 3], [5], [7, 8, 9, 10, 11, 12, 13], [4, 4], [20, 21, 22, 23]]


@pytest.fixture(params=[4, 2, 1], ids=lambda n: f"kv{n}")
def model(request: pytest.FixtureRequest) -> LanguageModel:
    config = ModelConfig(n_layer=2, n_head=4, n_kv_head=request.param, n_embd=32, vocab_size=V, max_seq_len=32)
    net = build(config, seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # a fresh head is all zero and would say the same token for ever
        for weight in net.parameters():
            weight.normal_(0, 0.3, generator=generator)
    return net.eval()


def oracle(model: LanguageModel, stop_ids: tuple[int, ...] = ()) -> list[list[int]]:
    return [naive_generate(model, p, max_new_tokens=12, stop_ids=stop_ids) for p in PROMPTS]


def test_the_oracle_is_not_trivial(model: LanguageModel) -> None:
    assert len({token for ids in oracle(model) for token in ids}) > 5


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_cached_equals_naive(model: LanguageModel, batch_size: int, chunk: int | None) -> None:
    got = generate(model, PROMPTS, max_new_tokens=12, batch_size=batch_size, prefill_chunk=chunk)
    assert got == oracle(model)


def test_streamed_equals_naive(model: LanguageModel) -> None:
    assert [list(stream(model, p, max_new_tokens=12)) for p in PROMPTS] == oracle(model)


def test_rows_end_at_their_stop_token_and_include_it(model: LanguageModel) -> None:
    stops = tuple({ids[3] for ids in oracle(model)})
    want = oracle(model, stops)
    assert len({len(ids) for ids in want}) > 1
    assert generate(model, PROMPTS, max_new_tokens=12, stop_ids=stops) == want


def test_a_sampled_row_does_not_depend_on_its_neighbours(model: LanguageModel) -> None:
    def sample(prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
        return generate(model, prompts, max_new_tokens=8, temperature=1.0, top_k=20, seeds=seeds)

    together = sample(PROMPTS, [1, 2, 3, 4, 5])
    assert together == [sample([p], [s])[0] for p, s in zip(PROMPTS, [1, 2, 3, 4, 5], strict=True)]
    assert together == [
        list(stream(model, p, max_new_tokens=8, temperature=1.0, top_k=20, seed=s))
        for p, s in zip(PROMPTS, [1, 2, 3, 4, 5], strict=True)
    ]
    same = sample([PROMPTS[0]] * 6, list(range(6)))
    assert len({tuple(ids) for ids in same}) > 1
    assert len({ids[0] for ids in same}) > 1, "samples of one prompt must differ from the first token on"


def test_draws_follow_the_distribution() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2, 0.0]])).repeat(20_000, 1)
    drawn = next_tokens(logits, temperature=1.0, top_k=None, seeds=np.arange(20_000, dtype=np.uint64), position=4)
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    assert torch.allclose(share, torch.tensor([0.5, 0.3, 0.2, 0.0]), atol=0.015)
    best = next_tokens(logits, temperature=1.0, top_k=1, seeds=np.arange(20_000, dtype=np.uint64), position=4)
    assert set(best.tolist()) == {0}


def test_uniforms_are_spread_over_seeds_and_positions() -> None:
    over_seeds = uniforms(np.arange(4096, dtype=np.uint64), 0)
    over_positions = np.array([uniforms(np.array([7], dtype=np.uint64), t)[0] for t in range(4096)])
    for drawn in (over_seeds, over_positions):
        assert abs(drawn.mean() - 0.5) < 0.03
        assert (np.histogram(drawn, bins=16, range=(0, 1))[0] > 180).all()
    assert abs(np.corrcoef(over_seeds[:-1], over_seeds[1:])[0, 1]) < 0.06


def test_no_seed_draws_an_edge_of_the_range() -> None:
    """Seed 0 is the default: its first draw once was zero, which chose a token that is nearly impossible."""
    draws = np.stack([uniforms(np.arange(64, dtype=np.uint64), position) for position in range(64)])
    assert draws.min() > 1e-6 and draws.max() < 1 - 1e-6
    assert len(np.unique(draws)) == draws.size


def test_an_empty_prompt_is_refused(model: LanguageModel) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        generate(model, [[1], []], max_new_tokens=2)
