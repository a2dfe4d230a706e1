"""FP8 products: how exact they are, what odd numbers do, which layers take part, and that evaluation does not."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch

from nanochat_cli.core.models import fp8
from nanochat_cli.core.models.base import LanguageModel, Linear
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import from_depth

CPU = torch.device("cpu")


def kernels() -> list[fp8.Kernel]:
    """Torch's own kernel runs on some CPUs, too."""
    try:
        one = fp8.quantise(torch.ones(16, 16), fp8.E4M3)
        fp8._product(one, one, torch.float32, "native", fast=True)
    except (RuntimeError, NotImplementedError):
        return ["reference"]
    return ["reference", "native"]


@pytest.fixture(params=kernels())
def kernel(request: pytest.FixtureRequest) -> fp8.Kernel:
    return request.param


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors are so small here that a second thread is only waited for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Root of the mean squared error, as a share of that of the numbers."""
    return float((found.double() - exact).detach().norm() / exact.detach().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_and_gradients_are_close_to_exact(kernel: fp8.Kernel, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 64, 256, generator=g).to(dtype).requires_grad_()
    weight = (torch.randn(384, 256, generator=g) * 0.02).requires_grad_()
    grad = (torch.randn(2, 64, 384, generator=g) * 1e-6).to(dtype)
    y = fp8.linear(x, weight, kernel)
    found = torch.autograd.grad(y, (x, weight), grad)
    exact_x, exact_weight = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    exact_y = exact_x @ exact_weight.T
    exact = torch.autograd.grad(exact_y, (exact_x, exact_weight), grad.double())
    assert y.dtype == found[0].dtype == dtype and found[1].dtype == torch.float32
    # e4m3 rounds to 2^-4, e5m2 to 2^-3 at most: uniformly spread, a relative error of about 2.6 and 5.2 percent each
    assert error(y, exact_y) < 0.04
    assert error(found[0], exact[0]) < 0.07 and error(found[1], exact[1]) < 0.07
    assert error(y, exact_y) > 0.005  # it is FP8


def test_quantising_uses_the_whole_range() -> None:
    x = torch.tensor([[-3.0, 0.5, 0.0, 1e-9]])
    for dtype, largest, coarse in ((fp8.E4M3, 448.0, 2**-4), (fp8.E5M2, 57_344.0, 2**-3)):
        q, factor = fp8.quantise(x, dtype)
        assert q.dtype == dtype and q.float()[0, 0] == -largest and q.float()[0, 2] == 0
        assert torch.allclose(q.float() * factor, x, rtol=coarse, atol=1e-6)
        assert factor.dtype == torch.float32 and factor == torch.tensor(3.0, dtype=torch.float64).div(largest).float()


def test_zeros_stay_zeros(kernel: fp8.Kernel) -> None:
    x, weight = torch.zeros(16, 128, requires_grad=True), torch.randn(128, 128, requires_grad=True)
    y = fp8.linear(x, weight, kernel)
    y.backward(torch.zeros_like(y))
    assert not y.any() and x.grad is not None and weight.grad is not None
    assert not x.grad.any() and not weight.grad.any()


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-15, 1e15, 1e30])
def test_tiny_and_huge_numbers_keep_their_scale(kernel: fp8.Kernel, size: float) -> None:
    weight = torch.eye(128)
    x = torch.rand(16, 128, generator=torch.Generator().manual_seed(0)) * size
    y = fp8.linear(x, weight, kernel)
    assert y.isfinite().all()
    if size >= 1e-30:
        assert torch.allclose(y, x, rtol=0.07, atol=0.01 * size)


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_what_is_no_number_is_not_hidden(kernel: fp8.Kernel, bad: float) -> None:
    x = torch.ones(16, 128)
    x[3, 5] = bad
    assert not fp8.linear(x, torch.ones(128, 128), kernel).isfinite().all()
    assert not fp8.linear(torch.ones(16, 128), x.repeat(8, 1), kernel).isfinite().all()


def test_a_token_count_that_does_not_fit_is_computed_as_without(kernel: fp8.Kernel) -> None:
    layer = Linear(128, 128)
    x = torch.randn(1, 17, 128)
    want = layer(x)
    layer.fp8 = kernel
    assert torch.equal(layer(x), want)
    assert not torch.equal(layer(x[:, :16]), want[:, :16])


@pytest.mark.parametrize(
    ("fan_in", "fan_out", "fit"),
    [(128, 128, True), (768, 3072, True), (112, 768, False), (768, 12, False), (136, 768, False), (768, 130, False)],
)
def test_which_shapes_take_part(fan_in: int, fan_out: int, fit: bool) -> None:
    assert fp8.fits(Linear(fan_in, fan_out)) == fit


def model_of(n_embd: int = 128) -> LanguageModel:
    model = build(from_depth(2, vocab_size=256, max_seq_len=16, n_embd=n_embd, n_head=2))
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(
                torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * weight.size(-1) ** -0.5
            )
    return model


def test_only_the_blocks_projections_are_converted_and_the_head_is_not(kernel: fp8.Kernel) -> None:
    model = model_of()
    names = fp8.convert(model, kernel)
    assert len(names) == 8 and all(name.startswith("blocks.") for name in names)
    assert model.head.fp8 is None
    assert fp8.convert(model_of(96), kernel) == []


def test_training_uses_it_and_evaluation_does_not(kernel: fp8.Kernel) -> None:
    plain = model_of()
    model = copy.deepcopy(plain)
    fp8.convert(model, kernel)
    idx = torch.randint(256, (2, 16), generator=torch.Generator().manual_seed(0))
    trained, exact = model.losses(idx, idx), plain.losses(idx, idx)
    assert not torch.equal(trained, exact) and torch.allclose(trained, exact, atol=0.3)
    with torch.no_grad():  # as sampling does in the middle of training
        assert torch.equal(model.losses(idx, idx), plain.losses(idx, idx))
        assert torch.equal(model(idx), plain(idx))
    model.eval()
    assert torch.equal(model.losses(idx, idx), exact)
    model.train()
    assert model.state_dict().keys() == plain.state_dict().keys()
    fp8.convert(model, None)
    assert torch.equal(model.losses(idx, idx), exact)


def test_a_model_learns_in_it(kernel: fp8.Kernel) -> None:
    idx = torch.randint(256, (4, 16), generator=torch.Generator().manual_seed(0))
    ends = {}
    for how in (None, kernel):
        model = model_of()
        fp8.convert(model, how)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(12):
            optimizer.zero_grad()
            model.losses(idx, idx.roll(-1, 1)).mean().backward()
            optimizer.step()
        ends[how] = float(model.losses(idx, idx.roll(-1, 1)).mean().detach())
    assert ends[kernel] < 1.0 and abs(ends[kernel] - ends[None]) < 0.3


def test_it_traces_into_one_graph(kernel: fp8.Kernel) -> None:
    torch._dynamo.reset()
    layer = Linear(128, 128)
    layer.fp8 = kernel
    x = torch.randn(16, 128, requires_grad=True)
    want = torch.autograd.grad(layer(x).square().sum(), (x, layer.weight))
    traced = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=False)
    for got, ref in zip(torch.autograd.grad(traced(x).square().sum(), (x, layer.weight)), want, strict=True):
        assert torch.allclose(got, ref, rtol=1e-4, atol=1e-4)


# ---- where it can be had ---------------------------------------------------------------------------------------------


def test_a_cpu_lacks_it() -> None:
    assert fp8.lacking(CPU) == "FP8 needs an NVIDIA GPU of compute capability 8.9 or more: cpu"


def test_older_gpus_and_builds_lack_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    gpu = torch.device("cuda", 0)
    assert str(fp8.lacking(gpu)).endswith("8.9 or more: 8.6")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *size, device=None: ones(*size))
    if "native" in kernels():
        assert fp8.lacking(gpu) is None

    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("no such kernel\nmore")

    monkeypatch.setattr(torch, "_scaled_mm", broken)
    assert fp8.lacking(gpu) == "torch cannot multiply in FP8 here: no such kernel"
    monkeypatch.setattr(torch.version, "hip", "6.0")
    assert str(fp8.lacking(gpu)).endswith("AMD")
