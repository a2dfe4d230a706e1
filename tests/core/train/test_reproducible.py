"""The same seed gives the same weights, bit for bit, at the same number of threads: eager, compiled, and resumed."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nanochat_cli.core import optim
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import from_depth
from nanochat_cli.core.settings import OptimSection
from nanochat_cli.core.train import determinism

CONFIG = from_depth(2, vocab_size=64, max_seq_len=32, n_embd=64, n_head=2)
Wrap = Callable[..., Callable[[Tensor, Tensor], Tensor]]


def train(precision: str, form: str, wrap: Wrap, *, steps: int = 6, cut: int | None = None) -> dict[str, Tensor]:
    """Weights after some steps; with `cut`, by a second model that takes over the state at that step."""

    def fresh() -> tuple:
        model = build(CONFIG, seed=3)
        model.set_precision(precision)
        model.set_attention(form)
        return model, optim.build(model.param_groups(), OptimSection(), precision=precision), wrap(model.losses)

    model, optimizer, losses = fresh()
    for step in range(steps):
        if step == cut:
            weights, state = model.state_dict(), optimizer.state_dict()
            model, optimizer, losses = fresh()
            model.load_state_dict(weights)
            optimizer.load_state_dict(state)
        ids = torch.randint(64, (8, 33), generator=torch.Generator().manual_seed(step))
        (losses(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()).sum() / 256).backward()
        optimizer.clip(1.0)
        optimizer.step(1.0, 0.9, 0.01)
        optimizer.zero_grad()
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.fixture(autouse=True)
def two_threads() -> None:
    torch.set_num_threads(2)


def eager(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return function


@pytest.mark.parametrize("form", ["fused", "matmul"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_eager(precision: str, form: str) -> None:
    first = train(precision, form, eager)
    assert_same(first, train(precision, form, eager))
    assert_same(first, train(precision, form, eager, cut=3))


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="no C++ compiler")
@pytest.mark.parametrize(("precision", "form"), [("bf16", "matmul"), ("fp32", "fused")])
@pytest.mark.filterwarnings("default")
def test_compiled_and_without_compiling_twice(
    precision: str, form: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._dynamo

    def once(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        torch._dynamo.reset()
        return torch.compile(function, dynamic=False, fullgraph=True)

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
    determinism.ask(torch.device("cpu"), False)  # as every stage does: compiled sums are in no fixed order without it
    try:
        with torch._dynamo.config.patch(error_on_recompile=True):
            first = train(precision, form, once)
            assert_same(first, train(precision, form, once))
            assert_same(first, train(precision, form, once, cut=3))
            model = build(CONFIG)
            model.load_state_dict(first)
            model.set_precision(precision)
            model.set_attention(form)
            ids = torch.randint(64, (8, 32), generator=torch.Generator().manual_seed(99))
            assert torch.allclose(once(model.losses)(ids, ids), model.losses(ids, ids), atol=0.1)
    finally:
        torch.use_deterministic_algorithms(False)
