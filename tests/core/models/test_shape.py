"""Sizes follow from the depth, agree with published counts, and misfits are named."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.models import shape


@pytest.mark.parametrize(
    ("depth", "params"),
    [(4, 36_700_160), (12, 185_597_952), (20, 560_988_160), (26, 1_081_999_360), (32, 1_879_048_192)],
)
def test_parameter_counts_of_the_reference(depth: int, params: int) -> None:
    assert shape.num_params(shape.from_depth(depth, vocab_size=65536, max_seq_len=2048)) == params


@pytest.mark.parametrize(("depth", "flops"), [(20, 3.4918e9), (32, 1.2080e10)])
def test_flops_per_token_of_the_reference(depth: int, flops: float) -> None:
    config = shape.from_depth(depth, vocab_size=65536, max_seq_len=2048)
    assert shape.flops_per_token(config) == pytest.approx(flops, rel=1e-4)


@pytest.mark.parametrize("depth", range(1, 65))
def test_every_depth_has_a_shape(depth: int) -> None:
    config = shape.from_depth(depth, vocab_size=512, max_seq_len=64)
    assert config.n_embd == 64 * depth
    assert config.n_head * config.head_dim == config.n_embd
    assert config.head_dim % 2 == 0
    assert config.head_dim <= 128
    if depth % 2 == 0 or depth in (1, 3, 7, 15, 31):  # where the reference works, its head count is kept
        assert config.n_head == max(1, -(-config.n_embd // 128))


def test_given_sizes_override() -> None:
    config = shape.from_depth(4, 1024, 128, n_embd=128, n_head=4, n_kv_head=2, softcap=20.0)
    assert (config.n_embd, config.n_head, config.n_kv_head, config.head_dim) == (128, 4, 2, 32)
    assert config.softcap == 20.0
    assert shape.num_params(shape.from_depth(4, 1024, 128, n_embd=128, n_head=4)) == 1_048_576


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depth": 0}, ["depth", "0"]),
        ({"n_embd": 127}, ["n_embd", "127"]),
        ({"n_embd": 96, "n_head": 5}, ["n_embd 96", "n_head 5"]),
        ({"n_embd": 96, "n_head": 96}, ["n_embd 96", "n_head 96"]),
        ({"n_embd": 96, "n_head": 6, "n_kv_head": 4}, ["n_head 6", "n_kv_head: 4"]),
        ({"vocab_size": 0}, ["vocab_size", "0"]),
        ({"max_seq_len": 0}, ["max_seq_len", "0"]),
        ({"softcap": 0.0}, ["softcap", "0"]),
        ({"softcap": 61.0}, ["softcap", "61"]),
    ],
)
def test_misfits_are_named(change: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        shape.from_depth(**{"depth": 4, "vocab_size": 512, "max_seq_len": 64, **change})  # pyright: ignore[reportArgumentType]
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_misfit_hint_lists_values_that_work() -> None:
    with pytest.raises(ConfigError) as caught:
        shape.from_depth(4, 512, 64, n_embd=96, n_head=5)
    assert caught.value.hint == "n_head can be 1, 2, 3, 4, 6, 8, 12, 16, ..."


def test_saved_config_round_trip_and_unknown_keys() -> None:
    config = shape.from_depth(5, 777, 96, n_kv_head=1, rope_base=5e4)
    saved = dataclasses.asdict(config)
    assert shape.ModelConfig.from_dict(saved) == config
    with pytest.raises(ConfigError, match="n_codes"):
        shape.ModelConfig.from_dict({**saved, "n_codes": 4})
    saved.pop("n_head")
    with pytest.raises(ConfigError, match="n_head"):
        shape.ModelConfig.from_dict(saved)


def test_needs_no_torch() -> None:
    probe = (
        "import sys; from nanochat_cli.core.models import shape; print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", probe], text=True).split() == ["False", "False"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"head_dim": 7}, "head_dim must be even: 7"),
        ({"short_window": 300}, "short_window must be between 1 and the context of 256: 300"),
        ({"window_pattern": "SX"}, "made of S and L"),
        ({"head_dim": 96, "n_embd": 256}, "n_embd 256 is not a multiple of head_dim: 96"),
    ],
)
def test_heads_and_windows_that_do_not_fit_are_named(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        shape.from_depth(4, vocab_size=100, max_seq_len=256, arch="nanochat", **given)
