"""The fused loss against torch's own, its gradients, its memory, and targets that do not count."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from nanochat_cli.core.models import loss
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.loss import softcapped_cross_entropy
from nanochat_cli.core.models.shape import from_depth


def reference(x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, cap: float) -> torch.Tensor:
    logits = cap * torch.tanh(x @ weight.T / cap)
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-1, reduction="none").view_as(target)


def use_chunks(monkeypatch: pytest.MonkeyPatch, tokens: int, vocab: int, itemsize: int = 4) -> None:
    """Keep no logits, and make those of so many tokens at a time."""
    monkeypatch.setattr(loss, "KEPT_BYTES", 0)
    monkeypatch.setattr(loss, "_ROWS", 1)
    monkeypatch.setattr(loss, "LOGITS_BYTES", tokens * vocab * itemsize)


@pytest.fixture(params=["kept", "made again", "made again, last chunk smaller"])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "kept":
        use_chunks(monkeypatch, 11 if request.param == "made again" else 10, 97, 8)
    return request.param


@pytest.mark.parametrize("cap", [5.0, 15.0, 60.0])
@pytest.mark.parametrize("chunk_bytes", [1 << 19, 97 * 8 * 5], ids=["one sweep", "many sweeps"])
def test_equals_cross_entropy_with_gradients(
    cap: float, chunk_bytes: int, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "CHUNK_BYTES", chunk_bytes)
    g = torch.Generator().manual_seed(0)
    x = (torch.randn(3, 11, 16, generator=g, dtype=torch.float64) * 4).requires_grad_()
    weight = torch.randn(97, 16, generator=g, dtype=torch.float64).requires_grad_()
    target = torch.randint(97, (3, 11), generator=g)
    target[1, 4:] = -1
    mix = torch.rand(3, 11, generator=g, dtype=torch.float64)
    found = softcapped_cross_entropy(x, weight, target, cap)
    want = reference(x, weight, target, cap)
    assert found.dtype == torch.float64
    assert torch.allclose(found, want, atol=1e-11, rtol=1e-11)
    assert not found[1, 4:].any()
    for got, ref in zip(
        torch.autograd.grad((found * mix).sum(), (x, weight)),
        torch.autograd.grad((want * mix).sum(), (x, weight)),
        strict=True,
    ):
        assert torch.allclose(got, ref, atol=1e-11 * float(ref.abs().max()))


@pytest.mark.parametrize("words", [13, 10], ids=["all rows", "padded rows"])
def test_gradients_by_finite_differences(words: int, mode: str) -> None:
    if mode != "kept":  # 9 tokens in chunks of 4, 4 and 1
        loss.LOGITS_BYTES = 4 * words * 8  # put back by the fixture
    g = torch.Generator().manual_seed(1)
    x = torch.randn(3, 3, 5, generator=g, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(13, 5, generator=g, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[0, -1, 3], [9, 5, -1], [2, 2, 8]])
    assert torch.autograd.gradcheck(
        lambda x, w: softcapped_cross_entropy(x, w, target, 6.0, vocab_size=words), (x, weight)
    )


def test_rows_beyond_the_vocabulary_take_no_part(mode: str) -> None:
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(3, 11, 8, generator=g), torch.randn(128, 8, generator=g)
    target = torch.randint(97, (3, 11), generator=g)
    weight[97:] = 1e4
    found, grads = with_gradients(x, weight, target, vocab_size=97)
    want, (want_x, want_weight) = with_gradients(x, weight[:97], target)
    assert torch.equal(found, want) and torch.equal(grads[0], want_x)
    assert torch.equal(grads[1][:97], want_weight) and not grads[1][97:].any()


def with_gradients(
    x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, **options: Any
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    found = softcapped_cross_entropy(x, weight, target, 15.0, **options)
    share = torch.linspace(-1, 2, target.numel()).view_as(target)  # RL's tokens weigh differently, some negatively
    return found.detach(), torch.autograd.grad((found * share).sum(), (x, weight))


def problem(tokens: int = 70, vocab: int = 301) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, tokens // 2, 32, generator=g), torch.randn(vocab, 32, generator=g) * 0.5
    target = torch.randint(-1, vocab, (2, tokens // 2), generator=g)
    return x, weight, target


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_both_modes_agree(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, target = problem()
    kept, kept_grads = with_gradients(x.to(dtype), weight, target)
    use_chunks(monkeypatch, 16, 301, dtype.itemsize)
    again, again_grads = with_gradients(x.to(dtype), weight, target)
    exact, exact_grads = with_gradients(x.double(), weight.double(), target)
    close = 1e-6 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    assert kept.dtype == again.dtype == torch.float32 and again_grads[1].dtype == torch.float32
    assert (kept - again).abs().max() <= close * exact.max()
    for a, b, ref in zip(kept_grads, again_grads, exact_grads, strict=True):
        assert (a - b).abs().max() <= close * ref.abs().max()
        assert (b - ref).abs().max() <= max(1e-5, 4 * torch.finfo(dtype).eps) * ref.abs().max()


def test_the_weights_gradient_is_summed_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred equal contributions: a sum in bf16 would stop growing where they fall below its resolution."""
    x, weight = torch.ones(1, 600, 16, dtype=torch.bfloat16), torch.zeros(32, 16, requires_grad=True)
    use_chunks(monkeypatch, 1, 32, 2)
    softcapped_cross_entropy(x, weight, torch.zeros(1, 600, dtype=torch.int64), 15.0).sum().backward()
    assert weight.grad is not None
    assert torch.allclose(weight.grad[0], torch.tensor(-600 * 31 / 32), rtol=3e-3)
    assert torch.allclose(weight.grad[1:], torch.tensor(600 / 32), rtol=3e-3)


# ---- memory ----------------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Remembers the most elements that any tensor made under it has had; looks into our own operators, too."""

    bodies: ClassVar = {
        "nanochat::loss_in_chunks": loss.losses_in_chunks,
        "nanochat::loss_in_chunks_backward": loss.gradients_in_chunks,
    }

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        body = self.bodies.get(func.name())
        with self if body else contextlib.nullcontext():
            out = (body or func)(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_is_larger_than_a_chunk(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    vocab, tokens, rows = 301, 400, 50
    x, weight, target = problem(tokens, vocab)
    use_chunks(monkeypatch, rows, vocab, dtype.itemsize)
    allowed = max(rows * vocab, weight.numel(), x.numel())
    with Largest() as seen:
        with_gradients(x.to(dtype), weight, target)
    assert seen.elements == allowed == rows * vocab
    with Largest() as seen, torch.no_grad():
        softcapped_cross_entropy(x.to(dtype), weight, target, 15.0)
    assert seen.elements == allowed
    monkeypatch.setattr(loss, "KEPT_BYTES", 1 << 29)
    with Largest() as seen:
        with_gradients(x.to(dtype), weight, target)
    assert seen.elements == tokens * vocab  # this test can tell


def test_sizes_of_the_chunks() -> None:
    assert loss.chunk_rows(32 * 2048, 65_536, 2) == 2048  # 256 MiB of bf16
    assert loss.chunk_rows(16 * 2048, 50_304, 4) * 50_304 * 4 <= loss.LOGITS_BYTES
    assert loss.chunk_rows(10, 1 << 40, 2) == 1
    for tokens in (1, 63, 2047, 2049, 5000, 65_537):
        rows = loss.chunk_rows(tokens, 65_536, 2)
        chunks = -(-tokens // rows)
        assert rows <= 2048 and chunks == -(-tokens // 2048)


def test_a_model_uses_the_chunks_and_its_own_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(from_depth(1, vocab_size=50, max_seq_len=16, n_embd=32, n_head=2))
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    idx = torch.randint(50, (3, 16), generator=torch.Generator().manual_seed(0))
    kept = model.losses(idx, idx)
    use_chunks(monkeypatch, 7, 50)
    asked = []
    whole = loss._chunked
    monkeypatch.setattr(loss, "_chunked", lambda *args: asked.append(args[4:6]) or whole(*args))
    assert torch.allclose(model.losses(idx, idx), kept, atol=1e-6)
    assert asked == [(50, 7)]


# ---- compiled --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "made again"])
def test_traces_into_one_graph(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The eager backend: what is traced is what counts here, and no C++ compiler may be there."""
    monkeypatch.setattr(loss, "_compiled", lambda sweep: torch.compile(sweep, backend="eager", dynamic=False))
    x, weight, target = problem()
    want, want_grads = with_gradients(x, weight, target)
    if not kept:
        use_chunks(monkeypatch, 16, 301)
    torch._dynamo.reset()
    x, weight = x.requires_grad_(), weight.requires_grad_()
    traced = torch.compile(softcapped_cross_entropy, fullgraph=True, backend="aot_eager", dynamic=False)
    found = traced(x, weight, target, 15.0)
    assert torch.allclose(found, want, atol=2e-6)
    share = torch.linspace(-1, 2, target.numel()).view_as(target)
    for got, ref in zip(torch.autograd.grad((found * share).sum(), (x, weight)), want_grads, strict=True):
        assert torch.allclose(got, ref, atol=2e-6 * float(ref.abs().max()))


# ---- edges -----------------------------------------------------------------------------------------------------------


def test_extreme_scores_stay_finite(mode: str) -> None:
    x = torch.tensor([[[1e4], [-1e4], [0.0]]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    found = softcapped_cross_entropy(x, weight, torch.tensor([[1, 1, 2]]), 60.0)
    found.sum().backward()
    assert torch.allclose(found, torch.tensor([[120.0 + 0.6931472, 0.0, 1.0986123]]), atol=1e-3)
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_a_row_without_targets_has_no_gradient(mode: str) -> None:
    x, weight = torch.randn(1, 4, 8, requires_grad=True), torch.randn(9, 8, requires_grad=True)
    softcapped_cross_entropy(x, weight, torch.full((1, 4), -1), 15.0).sum().backward()
    assert x.grad is not None
    assert not x.grad.any()


def test_bf16_is_close_to_fp32(mode: str) -> None:
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(4, 32, 64, generator=g), torch.randn(512, 64, generator=g) * 0.1
    target = torch.randint(512, (4, 32), generator=g)
    low = softcapped_cross_entropy(x.bfloat16(), weight, target, 15.0)
    assert torch.allclose(low, softcapped_cross_entropy(x, weight, target, 15.0), atol=0.03)


def test_a_cap_that_could_overflow_is_refused() -> None:
    with pytest.raises(ValueError, match="61"):
        softcapped_cross_entropy(torch.zeros(1, 1, 2), torch.zeros(3, 2), torch.zeros(1, 1, dtype=torch.int64), 61.0)
