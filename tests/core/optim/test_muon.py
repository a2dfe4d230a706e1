"""Muon against an exact singular value decomposition, and its bookkeeping."""

from __future__ import annotations

import pytest
import torch

from nanochat_cli.core.dist import Dist
from nanochat_cli.core.optim.groups import ParamGroup
from nanochat_cli.core.optim.muon import NEWTON_SCHULZ, Muon, Variant, apply, direction, orthogonalize

PLAIN = Variant(dtype=torch.float32)
FULL = Variant(eq=True, plus=True, beta2=0.9, cautious=True, dtype=torch.float32)


def step(muon: Muon, lr_mult: float, decay: float) -> None:
    muon.start()
    muon.collect()
    muon.update(lr_mult, 0.9, decay)
    muon.finish()


def one_step(group: ParamGroup, variant: Variant = PLAIN, *, decay: float = 0.0) -> Muon:
    muon = Muon(group, 0.1, variant, Dist())
    step(muon, 1.0, decay)
    return muon


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
    muon = Muon(group, 0.1, PLAIN, Dist())
    want = {n: p.detach().clone() for n, p in weights.items()}
    buffers = {n: torch.zeros_like(p) for n, p in weights.items()}
    for number in range(3):
        g = torch.Generator().manual_seed(number)
        for name, p in weights.items():
            p.grad = torch.randn(p.shape, generator=g)
            buffers[name].lerp_(p.grad, 0.1)
            update = orthogonalize(p.grad.lerp(buffers[name], 0.9)[None], torch.float32)[0]
            rate = 0.1 * 0.5 * max(1.0, p.size(0) / p.size(1)) ** 0.5
            want[name] = want[name] * (1 - rate * 0.3) - rate * update
        step(muon, 0.5, 0.3)
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
    one_step(ParamGroup.matrices(fused, {"w0": (16, 24, 8)}), FULL, decay=0.1)
    one_step(ParamGroup.matrices(apart), FULL, decay=0.1)
    assert torch.allclose(fused["w0"], torch.cat(list(apart.values())), atol=1e-6)


def test_gradients_are_left_as_they_are() -> None:
    weights = params((8, 8))
    weights["w0"].grad = torch.ones(8, 8)
    one_step(ParamGroup.matrices(weights))
    assert torch.equal(weights["w0"].grad, torch.ones(8, 8))


def test_what_is_not_a_matrix_or_does_not_add_up_is_refused() -> None:
    with pytest.raises(ValueError, match="bias"):
        ParamGroup.matrices({"bias": torch.zeros(3)})
    with pytest.raises(ValueError, match="w0"):
        ParamGroup.matrices(params((8, 4)), {"w0": (4, 2)})


# ---- refinements -----------------------------------------------------------------------------------------------------

SHAPES = [(32, 32), (24, 64), (64, 24)]


def gradients(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    rows = torch.logspace(0, -2, shape[0])[:, None]  # very different rows, as real gradients have
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed)) * rows


def sizes_of(shape: tuple[int, int]) -> torch.Tensor:
    return torch.zeros(2, shape[0], 1) if shape[0] >= shape[1] else torch.zeros(2, 1, shape[1])


def exact_direction(g: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """All refinements on one matrix in fp64, the orthogonal factor from a singular value decomposition."""
    g = g.double()
    num_rows, num_columns = g.shape
    x = polar(g / g.norm(dim=1, keepdim=True) * (g.norm() / num_rows**0.5))
    x = x * min(num_rows, num_columns) ** 0.5 / x.norm()
    size.lerp_(x.square().mean(dim=1 if num_rows >= num_columns else 0, keepdim=True), 0.1)
    scaled = x / size.sqrt()
    return scaled * x.norm() / scaled.norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_all_refinements_follow_an_exact_decomposition(shape: tuple[int, int]) -> None:
    size = sizes_of(shape)
    exact_sizes = [torch.zeros(size.shape[1:], dtype=torch.float64) for _ in range(2)]
    for step in range(3):
        g = gradients(shape, step)
        found = direction(g, size, FULL).double()
        for k in range(2):
            want = exact_direction(g[k], exact_sizes[k])
            assert (found[k] * want).sum() / (found[k].norm() * want.norm()) > 0.985
            assert float(found[k].norm()) == pytest.approx(float(want.norm()), rel=1e-4)
    assert torch.allclose(size.double(), torch.stack(exact_sizes), rtol=0.2)


@pytest.mark.parametrize("shape", SHAPES)
def test_plus_gives_every_step_the_norm_of_an_orthogonal_matrix(shape: tuple[int, int]) -> None:
    found = direction(gradients(shape), None, Variant(plus=True, coefficients=NEWTON_SCHULZ, dtype=torch.float32))
    assert found.norm(dim=(1, 2)).tolist() == pytest.approx([min(shape) ** 0.5] * 2, rel=1e-5)


def test_eq_makes_rows_count_alike() -> None:
    g = gradients((64, 24))
    plain, even = (direction(g, None, Variant(eq=eq, dtype=torch.float32)) for eq in (False, True))
    assert even.norm(dim=2).std() < 0.5 * plain.norm(dim=2).std()


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_tall_and_wide_matrices_are_mirrors_of_each_other(shape: tuple[int, int]) -> None:
    variant = Variant(plus=True, beta2=0.9, dtype=torch.float32)
    one = direction(gradients(shape), sizes_of(shape), variant)
    other = direction(gradients(shape).mT, sizes_of((shape[1], shape[0])), variant)
    assert torch.allclose(one.mT, other, atol=1e-4)


def test_zero_gradients_move_nothing_and_stay_finite() -> None:
    weights = params((8, 8), (8, 16))
    before = {name: p.detach().clone() for name, p in weights.items()}
    for p in weights.values():
        p.grad = torch.zeros_like(p)
    one_step(ParamGroup.matrices(weights), FULL)
    for name, p in weights.items():
        assert torch.equal(p, before[name])


def test_cautious_decay_pulls_only_where_the_step_does() -> None:
    weight = torch.tensor([[[1.0, 1.0, -1.0, -1.0, 2.0]]])
    step = torch.tensor([[[0.5, -0.5, -0.5, 0.5, 0.0]]])
    apply(weight, step, 0.1, 0.2, True)
    want = [1 - 0.1 * (0.5 + 0.2), 1 + 0.1 * 0.5, -1 + 0.1 * (0.5 + 0.2), -1 - 0.1 * 0.5, 2 - 0.1 * 0.2 * 2]
    assert weight.flatten().tolist() == pytest.approx(want)


def test_the_state_can_be_saved_and_restored() -> None:
    weights = params((48, 16), (16, 40))
    group = ParamGroup.matrices(weights, {"w0": (16, 24, 8)})
    for p in weights.values():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(3))
    first = one_step(group, FULL)
    state = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    assert state["w0.momentum"].shape == (48, 16)
    assert {name for name in state if "size" in name} == {"w0.size.0", "w0.size.16", "w0.size.40", "w1.size.0"}
    kept = {name: p.detach().clone() for name, p in weights.items()}
    second = Muon(group, 0.1, FULL, Dist())
    second.load_state_dict(state)
    ends = []
    for muon in (first, second):
        with torch.no_grad():
            for name, p in weights.items():
                p.copy_(kept[name])
        step(muon, 1.0, 0.1)
        ends.append({name: p.detach().clone() for name, p in weights.items()})
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in weights)
