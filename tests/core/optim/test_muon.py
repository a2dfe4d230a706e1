"""Muon against an exact singular value decomposition, and its bookkeeping."""

from __future__ import annotations

import pytest
import torch

from nanochat_cli.core.optim.groups import ParamGroup
from nanochat_cli.core.optim.muon import Muon, orthogonalize


def params(*shapes: tuple[int, int], seed: int = 0) -> dict[str, torch.nn.Parameter]:
    g = torch.Generator().manual_seed(seed)
    return {f"w{i}": torch.nn.Parameter(torch.randn(shape, generator=g)) for i, shape in enumerate(shapes)}


def polar(g: torch.Tensor) -> torch.Tensor:
    u, _, vh = torch.linalg.svd(g.double(), full_matrices=False)
    return u @ vh


@pytest.mark.parametrize("shape", [(32, 32), (24, 64), (64, 24), (128, 128), (512, 128)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_come_out_near_one(shape: tuple[int, int], dtype: torch.dtype) -> None:
    g = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(g, dtype).float())
    assert values.max() < 1.15
    relative = torch.linalg.svdvals(g) / g.norm(dim=(1, 2))[:, None]
    assert values[relative > 1e-3].min() > 0.85


def test_points_where_the_exact_polar_factor_points() -> None:
    g = torch.randn(1, 48, 96, generator=torch.Generator().manual_seed(0))
    found, want = orthogonalize(g, torch.float32)[0].double(), polar(g[0])
    assert (found * want).sum() / (found.norm() * want.norm()) > 0.99


def test_scale_does_not_matter_and_transposing_commutes() -> None:
    g = torch.randn(2, 16, 40, generator=torch.Generator().manual_seed(0))
    one = orthogonalize(g, torch.float32)
    assert torch.allclose(orthogonalize(g * 1e-4, torch.float32), one, atol=1e-2)
    assert torch.allclose(orthogonalize(g.mT, torch.float32).mT, one, atol=1e-5)


def test_zero_and_rank_one_gradients_are_safe() -> None:
    assert not orthogonalize(torch.zeros(1, 8, 8)).any()
    line = torch.outer(torch.arange(1.0, 9.0), torch.ones(8))[None]
    values = torch.linalg.svdvals(orthogonalize(line, torch.float32))[0]
    assert values[0] == pytest.approx(1.0, abs=0.15)
    assert values[1:].max() < 0.05


def test_a_step_equals_the_formula_matrix_by_matrix() -> None:
    weights = params((40, 16), (16, 40), (16, 16), (40, 16))
    group = ParamGroup.matrices(weights)
    muon = Muon(group, lr=0.1, dtype=torch.float32)
    want = {n: p.detach().clone() for n, p in weights.items()}
    buffers = {n: torch.zeros_like(p) for n, p in weights.items()}
    for step in range(3):
        g = torch.Generator().manual_seed(step)
        for name, p in weights.items():
            p.grad = torch.randn(p.shape, generator=g)
            buffers[name].lerp_(p.grad, 0.1)
            update = orthogonalize(p.grad.lerp(buffers[name], 0.9)[None], torch.float32)[0]
            rate = 0.1 * 0.5 * max(1.0, p.size(0) / p.size(1)) ** 0.5
            want[name] = want[name] * (1 - rate * 0.3) - rate * update
        muon.step(0.5, 0.9, 0.3)
    for name, p in weights.items():
        assert torch.allclose(p, want[name], atol=1e-5), name


def test_split_rows_are_updated_as_matrices_of_their_own() -> None:
    fused = params((48, 16))
    apart = {
        f"part{i}": torch.nn.Parameter(rows.clone()) for i, rows in enumerate(fused["w0"].detach().split((16, 24, 8)))
    }
    grad = torch.randn(48, 16, generator=torch.Generator().manual_seed(9))
    fused["w0"].grad = grad.clone()
    for p, rows in zip(apart.values(), grad.split((16, 24, 8)), strict=True):
        p.grad = rows.clone()
    Muon(ParamGroup.matrices(fused, {"w0": (16, 24, 8)}), 0.1, torch.float32).step(1.0, 0.9, 0.0)
    Muon(ParamGroup.matrices(apart), 0.1, torch.float32).step(1.0, 0.9, 0.0)
    assert torch.allclose(fused["w0"], torch.cat(list(apart.values())), atol=1e-6)


def test_gradients_are_left_as_they_are() -> None:
    weights = params((8, 8))
    weights["w0"].grad = torch.ones(8, 8)
    Muon(ParamGroup.matrices(weights), 0.1, torch.float32).step(1.0, 0.9, 0.0)
    assert torch.equal(weights["w0"].grad, torch.ones(8, 8))


def test_what_is_not_a_matrix_or_does_not_add_up_is_refused() -> None:
    with pytest.raises(ValueError, match="bias"):
        ParamGroup.matrices({"bias": torch.zeros(3)})
    with pytest.raises(ValueError, match="w0"):
        ParamGroup.matrices(params((8, 4)), {"w0": (4, 2)})
