"""Muon's update as one compiled function: the eager one but for rounding, compiled once per shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from nanochat_cli.core import optim
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import from_depth
from nanochat_cli.core.optim.fused import Fused
from nanochat_cli.core.optim.groups import ParamGroup
from nanochat_cli.core.optim.muon import Muon, Variant
from nanochat_cli.core.settings import OptimSection
from nanochat_cli.core.train import stage
from nanochat_cli.core.train.probe import Execution

FULL = Variant(eq=True, plus=True, beta2=0.9, cautious=True, dtype=torch.float32)
PLAIN = Variant(dtype=torch.float32)
SPLITS = {"w0": (16, 24, 8)}


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    torch._dynamo.reset()


def weights() -> dict[str, torch.nn.Parameter]:
    g = torch.Generator().manual_seed(0)
    shapes = {"w0": (48, 16), "w1": (16, 16), "w2": (16, 40), "w3": (16, 40)}
    return {name: torch.nn.Parameter(torch.randn(shape, generator=g)) for name, shape in shapes.items()}


def run(muon: Muon, found: dict[str, torch.nn.Parameter], steps: int = 4) -> None:
    """Steps with another rate, momentum and decay each time."""
    for step in range(steps):
        g = torch.Generator().manual_seed(step + 7)
        for p in found.values():
            p.grad = torch.randn(p.shape, generator=g)
        muon.start()
        muon.collect()
        muon.update(1 - step / 10, 0.85 + step / 40, 0.3 - step / 10)
        muon.finish()


@pytest.mark.parametrize("variant", [PLAIN, FULL], ids=["plain", "full"])
def test_it_makes_the_steps_of_the_eager_one_without_compiling_twice(variant: Variant) -> None:
    one, other = weights(), weights()
    eager = Muon(ParamGroup.matrices(one, SPLITS), 0.1, variant, Dist())
    fused = Muon(
        ParamGroup.matrices(other, SPLITS), 0.1, variant, Dist(), Fused(variant, backend="eager", fullgraph=True)
    )
    run(eager, one)
    counts: list[int] = []
    for steps in (1, 4):  # the second time from the beginning, with nothing left to compile
        for name, p in weights().items():
            other[name].data.copy_(p)
        for stack in fused.stacks:
            stack.momentum.zero_()
            if stack.size is not None:
                stack.size.zero_()
        run(fused, other, steps)
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert counts[0] == counts[1], "a number that changes from step to step was compiled in"
    for name, p in one.items():
        assert torch.allclose(p, other[name], atol=2e-5), name
    mine, theirs = eager.state_dict(), fused.state_dict()
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-5) for name in mine)


def test_gradients_are_left_as_they_are() -> None:
    found = weights()
    muon = Muon(ParamGroup.matrices(found, SPLITS), 0.1, FULL, Dist(), Fused(FULL, backend="eager"))
    run(muon, found, 1)
    want = torch.randn(48, 16, generator=torch.Generator().manual_seed(7))
    assert torch.equal(found["w0"].grad, want)  # pyright: ignore[reportArgumentType]


def test_a_compiler_that_fails_is_heard_of_once_and_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def fail(*args: Any) -> None:
            raise RuntimeError("ptxas said no\nand more")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    one, other = weights(), weights()
    fused = Muon(ParamGroup.matrices(other, SPLITS), 0.1, FULL, Dist(), Fused(FULL))
    with pytest.warns(UserWarning, match="compiling Muon failed.*RuntimeError: ptxas said no") as said:
        run(fused, other)
    assert len(said) == 1
    run(Muon(ParamGroup.matrices(one, SPLITS), 0.1, FULL, Dist()), one)
    assert all(torch.allclose(p, other[name], atol=2e-5) for name, p in one.items())


@pytest.mark.parametrize(
    ("device", "compiled", "fused"), [("cpu", True, False), ("cuda", True, True), ("cuda", False, False)]
)
def test_training_compiles_it_on_a_gpu_only(
    monkeypatch: pytest.MonkeyPatch, device: str, compiled: bool, fused: bool
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(optim, "build", lambda *args, **options: asked.append(options["fused"]))
    model = build(from_depth(1, vocab_size=20, max_seq_len=8, n_embd=16, n_head=2))
    how = Execution(dtype="bf16", attention="fused", compile=compiled)
    stage.optimizer_of(model, OptimSection(), Dist(device=torch.device(device)), how)
    assert asked == [fused]
