"""Sizes of the recipe, and what is estimated from them: memory that grows as it must, and speeds near public ones."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from nanochat_cli.core import devices, estimate
from nanochat_cli.core.estimate import GIB
from nanochat_cli.core.models import shape
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import ModelConfig

H100 = devices.named("h100")
H100_BYTES = H100.memory_gib * GIB


def recipe(depth: int, **rest: object) -> ModelConfig:
    return shape.from_depth(depth, **{"vocab_size": 32_768, "max_seq_len": 2048, "arch": "nanochat", **rest})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("depth", "scaling", "total", "flops"),
    [
        (8, 42e6, 126e6, 2.96e8),
        (12, 110e6, 286e6, 7.60e8),
        (16, 235e6, 537e6, 1.59e9),
        (20, 435e6, 897e6, 2.89e9),
        (24, 730e6, 1_384e6, 4.77e9),
        (26, 918e6, 1_682e6, 5.99e9),
    ],
)
def test_sizes_of_the_recipe(depth: int, scaling: float, total: float, flops: float) -> None:
    counts = shape.count_params(recipe(depth))
    assert counts.scaling == pytest.approx(scaling, rel=0.004)
    assert counts.total == pytest.approx(total, rel=0.002)
    assert shape.flops_per_token(recipe(depth)) == pytest.approx(flops, rel=0.003)


def total(depth: int = 12, **how: object) -> int:
    rest = {key: how.pop(key) for key in ("max_seq_len", "vocab_size") if key in how}
    return estimate.memory(recipe(depth, **rest), **{"device_batch_size": 8, **how}).total  # pyright: ignore[reportArgumentType]


def test_memory_grows_with_what_it_must() -> None:
    assert total() < total(device_batch_size=9) < total(device_batch_size=16)
    depths = [total(depth) for depth in range(2, 40)]
    assert depths == sorted(depths)
    assert total(max_seq_len=1024) < total()
    assert total(dtype="bf16") < total(dtype="fp32")
    assert total(compiled=True) < total(compiled=False)
    assert total(world=8) < total(world=2) < total()
    assert total(world=8, sharded=False) == total()
    assert total(on_gpu=False) == total() - (1 << 30)


def test_state_is_counted_to_the_byte() -> None:
    config = recipe(12)
    counts, need = shape.count_params(config), estimate.memory(config, device_batch_size=1, world=3)
    assert need.weights == need.gradients == 4 * counts.total
    rest = counts.total - counts.matrices
    assert need.optimizer == -(-(4 * counts.matrices + 8 * rest) // 3)
    assert need.total == sum(dataclasses.asdict(need).values())


def test_a_compiled_block_keeps_twelve_widths() -> None:
    config = recipe(12)
    without, with_embed = (estimate.activation_channels(config, layer, compiled=True) for layer in (0, 1))
    assert without == 12 * config.n_embd
    assert with_embed == 13 * config.n_embd
    shared = recipe(12, n_kv_head=1)
    assert estimate.activation_channels(shared, 0, compiled=True) < without


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("n_kv_head", [4, 1])
def test_activations_are_what_the_backward_pass_really_keeps(dtype: str, n_kv_head: int) -> None:
    """Counted on a model, storage by storage, against the formula for eager code."""
    config = shape.from_depth(4, vocab_size=64, max_seq_len=64, n_embd=64, n_head=4, n_kv_head=n_kv_head)
    model = build(config)
    model.set_precision(dtype)
    model.set_attention("fused")
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.hidden(torch.zeros(32, 64, dtype=torch.int64))
    counted = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
    need = estimate.memory(config, device_batch_size=32, dtype=dtype, compiled=False)
    blocks_cast = need.cast_weights - (2 * 64 * 64 if dtype == "bf16" else 0)  # the head's is not made here
    assert counted == pytest.approx(need.activations + blocks_cast, rel=0.05)


def test_logits_are_never_all_held() -> None:
    few, many = (estimate.memory(recipe(12), device_batch_size=rows) for rows in (16, 64))
    added = 48 * 2048 * 768 * 2  # the gradient of the stream alone
    assert many.loss - few.loss == added
    assert many.loss < 64 * 2048 * 32_768 * 2 / 4


def test_near_a_public_measurement() -> None:
    """24 layers, 16 rows on each of 8 H100: 52.9 GB, of which about 8 were logits and their gradients."""
    need = estimate.memory(recipe(24), device_batch_size=16, world=8)
    assert 40e9 < need.total < 52.9e9


@pytest.mark.parametrize("world", [1, 8])
def test_24_layers_fit_on_80_gb(world: int) -> None:
    most = estimate.largest_device_batch(recipe(24), H100_BYTES, world=world)
    assert most >= 16
    assert estimate.memory(recipe(24), device_batch_size=most, world=world).total <= estimate.usable(H100_BYTES)
    assert estimate.memory(recipe(24), device_batch_size=most + 1, world=world).total > estimate.usable(H100_BYTES)


def test_34_layers_do_not_fit_with_a_large_batch() -> None:
    assert estimate.memory(recipe(34), device_batch_size=32, world=8).total > H100_BYTES
    assert 0 < estimate.largest_device_batch(recipe(34), H100_BYTES, world=8) < 16
    assert estimate.largest_device_batch(recipe(34), 24 * GIB) == 0


def test_the_largest_divisor_is_taken() -> None:
    assert estimate.dividing_batch(31, 64) == 16
    assert estimate.dividing_batch(100, 12) == 12
    assert estimate.dividing_batch(5, 12) == 4
    assert estimate.dividing_batch(0, 12) == 0


@pytest.mark.parametrize(
    ("depth", "gpus", "fp8", "published"),
    [(12, 1, False, 546_000), (24, 8, False, 800_000), (24, 8, True, 984_000), (26, 8, False, 630_000)],
)
def test_speeds_near_published_ones(depth: int, gpus: int, fp8: bool, published: float) -> None:
    assumed = estimate.assumed_mfu(depth, H100, fp8=fp8)
    flops = shape.flops_per_token(recipe(depth))
    assert estimate.tokens_per_s(flops, H100, gpus, assumed.mfu) == pytest.approx(published, rel=0.05)


def test_every_device_has_an_assumption_with_its_ground() -> None:
    for device in devices.DEVICES:
        for depth in (1, 12, 20, 40):
            assumed = estimate.assumed_mfu(depth, device, fp8=device.fp8_tflops is not None)
            assert 0.2 < assumed.mfu < 0.75
            assert assumed.source
    between = estimate.assumed_mfu(14, H100).mfu
    assert estimate.assumed_mfu(12, H100).mfu < between < estimate.assumed_mfu(16, H100).mfu


def test_fp8_where_it_pays() -> None:
    assert estimate.uses_fp8("auto", 20, H100)
    assert not estimate.uses_fp8("auto", 19, H100)
    assert estimate.uses_fp8("on", 4, H100)
    assert not estimate.uses_fp8("off", 26, H100)
    assert not estimate.uses_fp8("on", 26, devices.named("a100"))
    assert not estimate.uses_fp8("on", 26, None)
