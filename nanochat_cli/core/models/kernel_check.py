"""Whether an attention kernel computes what it should on this device: looked at before it may train anything.

Kernels that were wrong without a word are no theory: some saw later tokens on some devices, some gave other gradients.
Tensor suffixes: B batch, R chosen queries, T time, S positions, H heads, K key-value heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from nanochat_cli.core.errors import EnvironmentLacks
from nanochat_cli.core.models import flash, kernels
from nanochat_cli.core.models.kernel_parts import Call, Sizes, first_line, torch_version

_MARK = 1000.0  # value of marked tokens: one of them shows, however many there are beside it
_TOLERANCE = {torch.float32: 0.005, torch.bfloat16: 0.03, torch.float16: 0.01}  # fp32 may mean TF32
_LONGEST_ON_CPU = 128  # where no kernel is made for one length
_NUM_MARKED = 6
_GAUGE = Sizes(context=256, windows=(64,), n_head=4, n_kv_head=2, head_dim=64)


@lru_cache(maxsize=64)
def fault(form: str, sizes: Sizes, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return what is wrong with a form on this device and in this dtype; None if it computes as it should."""
    try:
        kernel = kernels.resolve(form, sizes, device)
        if (wrong := examine(kernel.call, sizes, device, dtype)) is not None:
            flash.withdraw(kernel)
        return wrong
    except EnvironmentLacks as problem:
        return str(problem)
    except (torch.OutOfMemoryError, MemoryError):
        return "takes more memory than there is"
    except Exception as problem:
        return first_line(problem)


def forget() -> None:
    """Look at every kernel anew when asked again."""
    kernels.forget()
    fault.cache_clear()


def examine(call: Call, sizes: Sizes, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return what is wrong with a kernel, by its reach and by its results; None if nothing is."""
    length, windows = sizes.context, set(sizes.windows)
    if device.type == "cpu":
        length = min(length, _LONGEST_ON_CPU)
        windows = {max(1, min(window, length // 4)) for window in windows}
    for window in (None, *sorted(windows)):
        wrong = _reach(call, sizes, window, length, device, dtype)
        wrong = wrong or _disagreement(call, sizes, window, length, device, dtype)
        if wrong is not None:
            return wrong
    return None


def _reach(
    call: Call, sizes: Sizes, window: int | None, length: int, device: torch.device, dtype: torch.dtype
) -> str | None:
    """What a query sees that it must not, or does not see that it must.

    With queries and keys of zero every token seen weighs the same, so that values which mark some tokens tell exactly
    whether those are among them: in turn all later ones, all before the window, and the two at its ends.
    """
    reach = length if window is None else window
    queries = (length // 2, max(length // 2, length - 2))
    marks, wanted = [], []
    for query in queries:
        first, position_T = max(0, query - reach), torch.arange(length)
        ends = (position_T == first) | (position_T == query)
        marks += [position_T > query, position_T < first, ends]
        wanted += [0.0, 0.0, _MARK * ends.sum().item() / (query - first + 1)]
    marks_BT = torch.stack(marks).to(device, dtype) * _MARK
    v_BTKD = marks_BT[:, :, None, None].repeat(1, 1, sizes.n_kv_head, sizes.head_dim).requires_grad_()
    q_BTHD, k_BTKD = (
        torch.zeros(len(marks), length, heads, sizes.head_dim, device=device, dtype=dtype)
        for heads in (sizes.n_head, sizes.n_kv_head)
    )
    y_BTHD = call(q_BTHD, k_BTKD, v_BTKD, window).detach().cpu().double()
    words = ("lets a token see later ones", "lets a token see beyond its window", "does not see its whole window")
    for row, want in enumerate(wanted):
        query = queries[row // 3]
        least = _MARK / (query + 2)  # what a single token that should not be seen would add
        off = (y_BTHD[row, query] - want).abs().max().item()
        if not off <= (0.5 * least if want == 0 else max(0.5 * least, 0.02 * want)):
            return words[row % 3]
    return None


def _disagreement(
    call: Call, sizes: Sizes, window: int | None, length: int, device: torch.device, dtype: torch.dtype
) -> str | None:
    """How far results and gradients of some queries are from those of plain attention in fp64."""
    generator = torch.Generator().manual_seed(3)

    def draw(heads: int, scale: float | None) -> Tensor:
        # As many rows as in the other test: some kernels are compiled for a number of rows.
        rows = 1 if device.type == "cpu" else _NUM_MARKED
        x = torch.randn(rows, length, heads, sizes.head_dim, generator=generator)
        x = x if scale is None else x * x.square().mean(-1, keepdim=True).rsqrt() * scale  # as query-key norm does
        return x.to(dtype)

    given = (draw(sizes.n_head, sizes.qk_scale), draw(sizes.n_kv_head, sizes.qk_scale), draw(sizes.n_kv_head, None))
    near = {0, 1, length // 3, length // 2, length - 2, length - 1} | ({window, window + 1} if window else set())
    row_R = torch.tensor(sorted(row for row in near if 0 <= row < length))
    ours = [x.to(device).detach().clone().requires_grad_() for x in given]
    exact = [x.double().requires_grad_() for x in given]
    y_BRHD = call(ours[0], ours[1], ours[2], window)[:, row_R.to(device)]
    want_BRHD = plain(exact[0], exact[1], exact[2], window, row_R)
    grad_BRHD = torch.randn(want_BRHD.shape, generator=generator).to(dtype)
    # Of the sum of products, which gives the same: for a gradient that comes from outside, torch imports sympy first,
    # which takes a second and more of every start.
    got = (y_BRHD, *torch.autograd.grad((y_BRHD * grad_BRHD.to(device)).sum(), ours))
    want = (want_BRHD, *torch.autograd.grad((want_BRHD * grad_BRHD.double()).sum(), exact))
    names = ("result", "gradient of the queries", "gradient of the keys", "gradient of the values")
    for name, x, true in zip(names, got, want, strict=True):
        off = ((x.detach().cpu().double() - true).norm() / true.norm().clamp(min=1e-9)).item()
        if not off <= _TOLERANCE[dtype]:
            return f"differs from plain attention in its {name} by {off:.1%}"
    return None


def plain(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int | None, row_R: Tensor) -> Tensor:
    """Return causal attention of the chosen queries, BRHD, written out."""
    share = q_BTHD.size(2) // k_BTKD.size(2)
    k_BTHD, v_BTHD = (x.repeat_interleave(share, dim=2) for x in (k_BTKD, v_BTKD))
    score_BHRS = torch.einsum("brhd,bshd->bhrs", q_BTHD[:, row_R], k_BTHD) * q_BTHD.size(-1) ** -0.5
    key_S = torch.arange(k_BTKD.size(1))
    unseen_RS = key_S > row_R[:, None]
    if window is not None:
        unseen_RS |= key_S < row_R[:, None] - window
    weight_BHRS = score_BHRS.masked_fill(unseen_RS, float("-inf")).softmax(-1)
    return torch.einsum("bhrs,bshd->brhd", weight_BHRS, v_BTHD)


@dataclass(frozen=True)
class Finding:
    """One form on one device: what it is if it can be used, else why not; with both, what was passed over for it."""

    form: str
    identity: str | None
    reason: str | None
    there: bool = True
    """False if it was not expected to be: not installed, or made for other devices."""


def survey(device: torch.device) -> list[Finding]:
    """Return every form, best first, tried out on a device in small; compiling FlexAttention would take too long."""
    findings: list[Finding] = []
    dtype = torch.float32 if kernels.capability(device) is None else torch.bfloat16
    for form in kernels.FORMS:
        reason = kernels.lacking(form, device, dtype=dtype, head_dim=_GAUGE.head_dim)
        if reason is not None:
            findings.append(Finding(form, None, reason, there=False))
        elif form == "flex":
            findings.append(Finding(form, torch_version(), None))
        elif (reason := fault(form, _GAUGE, device, dtype)) is not None:
            findings.append(Finding(form, None, reason))
        else:
            kernel = kernels.resolve(form, _GAUGE, device)
            findings.append(Finding(form, kernel.identity, kernel.passed_over or None))
    return findings
