"""A wrong kernel is found out, whatever is wrong with it, and a right one is not accused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat_cli.core.models import kernel_check, kernels
from nanochat_cli.core.models.kernel_parts import Call, Sizes
from tests.core.models.oracle import CPU, Flash, Gpu, gpu, oracle

__all__ = ["gpu"]
SIZES = Sizes(context=128, windows=(32,), n_head=4, n_kv_head=2, head_dim=16, qk_scale=1.2)


def examine(call: Call, sizes: Sizes = SIZES, dtype: torch.dtype = torch.bfloat16) -> str | None:
    return kernel_check.examine(call, sizes, CPU, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["fused", "matmul"])
@pytest.mark.parametrize("sizes", [SIZES, Sizes(8, (), 1, 1, 2), Sizes(300, (1, 150), 6, 1, 64)])
def test_ours_are_right(form: str, dtype: torch.dtype, sizes: Sizes) -> None:
    assert kernel_check.fault(form, sizes, CPU, dtype) is None


@pytest.mark.gpu
@pytest.mark.parametrize("form", kernels.FORMS)
def test_what_a_real_gpu_has_is_right(form: str) -> None:
    device, sizes = torch.device("cuda"), Sizes(1024, (256,), 6, 2, 128, qk_scale=1.2)
    if (reason := kernels.lacking(form, device, dtype=torch.bfloat16, head_dim=128)) is not None:
        pytest.skip(reason)
    assert kernel_check.fault(form, sizes, device, torch.bfloat16) is None


def changed(**change: Callable[[Any], Any]) -> Call:
    """The fused kernel with one of its arguments changed."""

    def call(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
        given: dict[str, Any] = {"q": q, "k": k, "v": v, "window": window}
        given |= {name: make(given[name]) for name, make in change.items()}
        return kernels.fused(given["q"], given["k"], given["v"], given["window"])

    return call


def sees_all(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2)


class Crooked(torch.autograd.Function):
    """Leaves values as they are and gives back a gradient that is too small."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 0.9


def wider(window: int | None) -> int | None:
    return None if window is None else window + 1


def narrower(window: int | None) -> int | None:
    return None if window is None else window - 1


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (sees_all, "lets a token see later ones"),
        (changed(window=wider), "lets a token see beyond its window"),
        (changed(window=lambda window: None), "lets a token see beyond its window"),
        (changed(window=narrower), "does not see its whole window"),
        (changed(window=lambda window: 100 if window is None else window), "does not see its whole window"),
        (changed(q=Crooked.apply), "gradient of the queries by 10."),
        (changed(q=lambda q: q * 1.1), "differs from plain attention in its result"),
        (changed(k=lambda k: k.flip(2)), "differs from plain attention in its result"),
        (changed(k=Crooked.apply), "gradient of the keys by 10."),
        (changed(v=Crooked.apply), "gradient of the values by 10."),
        (changed(q=lambda q: q * float("nan")), "later ones"),
    ],
)
def test_a_wrong_kernel_is_found_out(call: Call, told: str) -> None:
    assert told in (examine(call) or "nothing wrong")


def test_one_key_too_many_shows_in_a_long_window() -> None:
    sizes = Sizes(1024, (255,), 1, 1, 8)
    assert kernel_check._reach(changed(window=wider), sizes, 255, 1024, CPU, torch.bfloat16) is not None
    assert kernel_check._reach(kernels.fused, sizes, 255, 1024, CPU, torch.bfloat16) is None
    assert kernel_check._reach(changed(window=narrower), sizes, 255, 1024, CPU, torch.bfloat16) is not None


def test_the_yardstick_itself_is_right() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 9, n, 4, generator=generator, dtype=torch.float64) for n in (4, 2, 2))
    for window in (None, 3):
        assert torch.allclose(kernel_check.plain(q, k, v, window, torch.arange(9)), oracle(q, k, v, window))


def test_a_package_that_leaks_or_breaks_is_at_fault(gpu: Gpu) -> None:
    gpu.install("flash_attn", Flash(ahead=1))
    assert kernel_check.fault("fa2", SIZES, CPU, torch.bfloat16) == "lets a token see later ones"
    gpu.install("flash_attn", Flash(further=1))
    assert kernel_check.fault("fa2", SIZES, CPU, torch.bfloat16) == "lets a token see beyond its window"
    gpu.install("flash_attn", Flash(says="illegal instruction"))
    assert "illegal instruction" in (kernel_check.fault("fa2", SIZES, CPU, torch.bfloat16) or "")
    gpu.install("flash_attn")
    assert kernel_check.fault("fa2", SIZES, CPU, torch.bfloat16) is None


def test_the_survey_names_every_form(gpu: Gpu) -> None:
    gpu.install("flash_attn_interface", Flash(ahead=1))
    gpu.install("flash_attn")
    found = {f.form: f for f in kernel_check.survey(CPU)}
    assert list(found) == list(kernels.FORMS)
    assert (found["fa4"].reason, found["fa4"].there) == ("not installed", False)
    assert (found["fa3"].reason, found["fa3"].there) == ("lets a token see later ones", True)
    assert found["fa2"].identity == "flash-attn of unknown version"
    assert found["fused"].identity == f"torch {torch.__version__}"
