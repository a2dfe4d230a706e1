"""Fused attention kernels behind one signature, found by name once at the start and never looked for again.

`call(q_BTHD, k_BTKD, v_BTKD, window) -> y_BTHD` is causal, scales by 1/sqrt(D) and shares key-value heads; a query
sees itself and at most `window` tokens before it (None: all of them). The forms, best first where they run:

- "fa4", "fa3", "fa2": FlashAttention of an installed package, else as torch offers it; a window makes it cheaper
- "flex": FlexAttention of torch, compiled for the model's context and windows; a window makes it cheaper
- "fused": torch's own call (cuDNN, FlashAttention 2 or what it finds); windows go through a mask, slow on a GPU
- "matmul": plain products (`products`), the fastest for short sequences on a CPU

Nothing is ever downloaded. Tensor suffixes: B batch, T time, H heads, K key-value heads, D head width.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat_cli.core.errors import EnvironmentLacks, NanochatError
from nanochat_cli.core.models import flash, products
from nanochat_cli.core.models.kernel_parts import (
    Call,
    Kernel,
    Sizes,
    allow_variants,
    first_line,
    is_there,
    torch_version,
)

WINDOWED = (*flash.FORMS, "flex")
"""Forms that skip what lies outside a window."""
FORMS = (*WINDOWED, "fused", "matmul")

_FLEX_MAJOR = 8


def resolve(form: str, sizes: Sizes, device: torch.device) -> Kernel:
    """Return the kernel of a form; the same one whenever asked again. Raises EnvironmentLacks with the reason."""
    found = _attempt(form, sizes, device)
    if isinstance(found, str):
        raise EnvironmentLacks(
            f"attention kernel {form} cannot be used here: {found}", hint="--attention auto takes the best there is"
        )
    return found


def forget() -> None:
    """Look for every kernel anew when it is asked for again."""
    _attempt.cache_clear()


@lru_cache(maxsize=64)
def _attempt(form: str, sizes: Sizes, device: torch.device) -> Kernel | str:
    if (reason := lacking(form, device, head_dim=sizes.head_dim)) is not None:
        return reason
    if form == "matmul":
        return Kernel(form, products.attend, torch_version())
    if form == "fused":
        return Kernel(form, fused, torch_version())
    try:
        return Kernel(form, flex(sizes, device), torch_version()) if form == "flex" else flash.find(form, sizes, device)
    except NanochatError as problem:
        return str(problem)
    except Exception as problem:  # whatever a foreign package stumbles over, there are others
        return first_line(problem)


# ---- what a machine has ----------------------------------------------------------------------------------------------


def capability(device: torch.device) -> tuple[int, int] | None:
    """Return the compute capability of a GPU; None for any other device."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def lacking(
    form: str, device: torch.device, *, dtype: torch.dtype | None = None, head_dim: int | None = None
) -> str | None:
    """Return why a form is out of the question here, without importing or running anything; None if it is not."""
    if form not in WINDOWED:
        return None
    found = capability(device)
    if found is None:
        return f"needs a GPU that runs CUDA: {device.type}"
    if form == "flex":
        if found[0] < _FLEX_MAJOR:
            return f"needs compute capability {_FLEX_MAJOR}.0 or more: {found[0]}.{found[1]}"
        return None if is_there("triton") else "needs triton, which is not installed"
    return flash.lacking(form, found, dtype=dtype, head_dim=head_dim)


# ---- torch's own -----------------------------------------------------------------------------------------------------


def fused(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int | None) -> Tensor:
    """Return causal attention, BTHD, by torch's fused call."""
    num_tokens = q_BTHD.size(1)
    seen_TT = None if window is None else products.band(num_tokens, window, torch.bool, q_BTHD.device)
    y_BHTD = F.scaled_dot_product_attention(
        q_BTHD.transpose(1, 2),
        k_BTKD.transpose(1, 2),
        v_BTKD.transpose(1, 2),
        attn_mask=seen_TT,
        is_causal=seen_TT is None,
        enable_gqa=q_BTHD.size(2) != k_BTKD.size(2),
    )
    return y_BHTD.transpose(1, 2)


def flex(sizes: Sizes, device: torch.device, *, compiled: bool = True) -> Call:
    """Return FlexAttention for these sizes: its masks are made here. Sequences of other lengths take the fused call.

    It must be compiled to be of use: as it stands it writes out every score, and has no gradient on a CPU.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def mask(window: int | None) -> Any:
        def seen(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return key <= query if window is None else (key <= query) & (key >= query - window)

        return create_block_mask(seen, None, None, sizes.context, sizes.context, device=str(device))

    masks = {(sizes.context, window): mask(window) for window in (None, *sizes.windows)}
    if compiled:
        allow_variants()
    run: Any = torch.compile(flex_attention, dynamic=False, fullgraph=True) if compiled else flex_attention

    def call(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int | None) -> Tensor:
        block_mask = masks.get((q_BTHD.size(1), window))
        if block_mask is None:
            return fused(q_BTHD, k_BTKD, v_BTKD, window)
        parts = (x.transpose(1, 2) for x in (q_BTHD, k_BTKD, v_BTKD))
        y_BHTD = run(*parts, block_mask=block_mask, enable_gqa=q_BTHD.size(2) != k_BTKD.size(2))
        return y_BHTD.transpose(1, 2)

    return call
