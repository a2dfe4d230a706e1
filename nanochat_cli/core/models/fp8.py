"""Matrix products of training in FP8: one dynamic scale per tensor (arXiv 2209.05433 for the formats).

Inputs and weights are e4m3 (largest number 448), gradients of outputs e5m2 (57,344), accumulation fp32; what backward
keeps are the quantised operands, half the bytes of bf16. Only what is trained is computed so: without gradients (all
evaluation, all sampling) a projection computes in the model's own precision. The head stays out: its product lives in
the chunked loss, where bf16 logits decide about every gradient, and FP8 there gained 1 % in others' hands.

Tensor suffixes: M tokens, K inputs, N outputs.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE, LEAST_WIDTH = 16, 128
CAPABILITY = (8, 9)
_TINY = 2.0**-100  # smallest largest magnitude: its scale and the inverse of that are normal fp32 numbers

Kernel = Literal["native", "reference"]
"""`torch._scaled_mm`, or the same quantised numbers multiplied in fp32: slow, for tests and for comparison."""


def fits(layer: nn.Linear) -> bool:
    """Return whether FP8 kernels take this shape, and it is large enough to gain from them."""
    sizes = (layer.in_features, layer.out_features)
    return all(size % MULTIPLE == 0 for size in sizes) and min(sizes) >= LEAST_WIDTH


def convert(model: nn.Module, kernel: Kernel | None = "native") -> list[str]:
    """Let the projections of a model's blocks train in FP8 (None: no longer); return the names of those it concerns.

    Weights, their names and evaluation stay as they are.
    """
    concerned: list[str] = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and hasattr(layer, "fp8") and name != "head" and fits(layer):
            layer.fp8 = kernel  # pyright: ignore[reportArgumentType]
            concerned.append(name)
    return concerned


def lacking(device: torch.device) -> str | None:
    """Return why products in FP8 cannot be computed on this device; None if they can."""
    wanted = "FP8 needs an NVIDIA GPU of compute capability 8.9 or more"
    if device.type != "cuda" or torch.version.hip is not None:
        return f"{wanted}: {device.type if device.type != 'cuda' else 'AMD'}"
    found = torch.cuda.get_device_capability(device)
    if found < CAPABILITY:
        return f"{wanted}: {found[0]}.{found[1]}"
    try:
        for out in (E4M3, E5M2):
            one = torch.ones(MULTIPLE, MULTIPLE, device=device)
            _product(quantise(one, out), quantise(one, E4M3), torch.bfloat16, "native", fast=False)
    except (RuntimeError, AttributeError, TypeError) as problem:  # a build of torch without these kernels
        return f"torch cannot multiply in FP8 here: {str(problem).strip().splitlines()[0][:200]}"
    return None


def linear(x: Tensor, weight_NK: Tensor, kernel: Kernel) -> Tensor:
    """Return x @ weight.T in the dtype of x, computed in FP8, for any leading shape of x.

    A number of tokens that is no multiple of 16 is computed as without FP8.
    """
    x_MK = x.flatten(0, -2)
    if x_MK.size(0) % MULTIPLE:
        return F.linear(x, weight_NK.to(x.dtype))
    y_MN: Tensor = _Linear.apply(x_MK, weight_NK, kernel)
    return y_MN.unflatten(0, x.shape[:-1])


def quantise(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return a tensor in FP8 and the factor (fp32, a scalar) that brings its numbers back.

    The largest magnitude lands on the largest FP8 number; all zeros stay zeros. A NaN or an infinity makes the factor
    so, and with it the whole product: training must notice, not go on with something plausible.
    """
    largest = torch.finfo(dtype).max
    amax = x.abs().amax().double().clamp(min=_TINY)  # divided in fp64: the scale is the correctly rounded one
    scale = (largest / amax).float()
    return (x.float() * scale).clamp(-largest, largest).to(dtype), (amax / largest).float()


Quantised = tuple[Tensor, Tensor]


def _product(a_MK: Quantised, b_NK: Quantised, dtype: torch.dtype, kernel: str, *, fast: bool) -> Tensor:
    """Return a @ b.T; both operands lie with K contiguous, which is what the hardware reads."""
    (a, a_factor), (b, b_factor) = a_MK, b_NK
    if kernel == "reference":
        return ((a.float() @ b.float().T) * (a_factor * b_factor)).to(dtype)
    product = torch._scaled_mm  # pyright: ignore[reportPrivateImportUsage]
    return product(a, b.T, scale_a=a_factor, scale_b=b_factor, out_dtype=dtype, use_fast_accum=fast)


class _Linear(torch.autograd.Function):
    """Three products. Only the forward one accumulates in the hardware's fast, less exact way."""

    @staticmethod
    def forward(ctx: Any, x_MK: Tensor, weight_NK: Tensor, kernel: str) -> Tensor:
        x, weight = quantise(x_MK, E4M3), quantise(weight_NK, E4M3)
        ctx.save_for_backward(*x, *weight)
        ctx.kernel, ctx.dtypes = kernel, (x_MK.dtype, weight_NK.dtype)
        return _product(x, weight, x_MK.dtype, kernel, fast=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x_MK, x_factor, weight_NK, weight_factor = ctx.saved_tensors
        dtype, weight_dtype = ctx.dtypes
        grad_MN, factor = quantise(grads[0], E5M2)
        weight_KN = (weight_NK.T.contiguous(), weight_factor)
        grad_x_MK = _product((grad_MN.contiguous(), factor), weight_KN, dtype, ctx.kernel, fast=False)
        if not ctx.needs_input_grad[1]:
            return grad_x_MK, None, None
        grad_NM, x_KM = (grad_MN.T.contiguous(), factor), (x_MK.T.contiguous(), x_factor)
        grad_NK = _product(grad_NM, x_KM, dtype, ctx.kernel, fast=False)
        return grad_x_MK, grad_NK.to(weight_dtype), None
