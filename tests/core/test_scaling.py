"""The one dial against the table that the recipe was published with (vocabulary 32,768, context 2,048)."""

from __future__ import annotations

import pytest

from nanochat_cli.core import scaling
from nanochat_cli.core.models import shape


def at(depth: int, **rest: int) -> shape.ModelConfig:
    return shape.from_depth(depth, vocab_size=32_768, max_seq_len=2048, arch="nanochat", **rest)


@pytest.mark.parametrize(
    ("depth", "scaling_m", "total_m", "flops", "log2_batch", "decay", "steps"),
    [
        (8, 42, 126, 2.96e8, 18, 0.520, 1920),
        (12, 110, 286, 7.60e8, 19, 0.280, 2520),
        (16, 235, 537, 1.59e9, 19, 0.131, 5376),
        (20, 435, 897, 2.89e9, 20, 0.100, 4980),
        (24, 730, 1384, 4.77e9, 20, 0.060, 8352),
        (26, 918, 1682, 5.99e9, 20, 0.0475, 10510),
    ],
)
def test_the_published_table(
    depth: int, scaling_m: int, total_m: int, flops: float, log2_batch: int, decay: float, steps: int
) -> None:
    config = at(depth)
    counts = shape.count_params(config)
    batch = scaling.total_batch_size(config)
    assert round(counts.scaling / 1e6) == scaling_m
    assert round(counts.total / 1e6) == total_m
    assert shape.flops_per_token(config) == pytest.approx(flops, rel=3e-3)
    assert batch == 2**log2_batch
    assert scaling.weight_decay(config, batch) == pytest.approx(decay, rel=1e-2)
    assert 12 * counts.scaling // batch == pytest.approx(steps, abs=1)


def test_the_batch_grows_with_depth_up_to_its_cap() -> None:
    batches = [scaling.total_batch_size(at(depth)) for depth in range(2, 49, 2)]
    assert batches == sorted(batches)
    assert batches[-1] == scaling.LARGEST_BATCH
    assert scaling.total_batch_size(at(32), cap=2**30) == 2**21


def test_rates_follow_the_square_root_of_the_batch() -> None:
    assert scaling.rate_scale(2**19) == 1
    assert scaling.rate_scale(2**17) == 0.5


def test_heads_that_do_not_divide_the_reference_width_still_have_a_batch() -> None:
    odd = shape.from_depth(4, vocab_size=500, max_seq_len=64, n_embd=40, n_head=4, arch="nanochat")
    assert scaling.reference(odd).n_layer == 12
    assert scaling.total_batch_size(odd) >= 1
    assert scaling.reference(at(20, head_dim=64)).head_dim == 64
