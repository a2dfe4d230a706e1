"""FlashAttention 2, 3 and 4: where their packages are, what they run on, and the ways to call them.

Nothing is ever downloaded. Tensor suffixes: B batch, T time, H heads, K key-value heads, D head width.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanochat_cli.core.errors import EnvironmentLacks
from nanochat_cli.core.models.kernel_parts import (
    Call,
    Kernel,
    Sizes,
    allow_variants,
    first_line,
    is_there,
    torch_version,
    version_of,
)

FORMS = ("fa4", "fa3", "fa2")

_MOST_HEAD_DIM = 256


@dataclass(frozen=True)
class _Package:
    modules: tuple[str, ...]
    distribution: str
    majors: range
    """First numbers of the compute capabilities it runs on."""
    impl: str | None = None
    """Name under which torch can put it behind its own calls."""
    needs: str | None = None
    """A module that has to be there as well: some builds of flash-attn bring files of version 4 that cannot run."""


_PACKAGES = {
    "fa4": _Package(("flash_attn.cute",), "flash-attn-4", range(9, 11), "FA4", "cutlass"),
    "fa3": _Package(("flash_attn_interface", "flash_attn_3.flash_attn_interface"), "flash-attn-3", range(9, 10), "FA3"),
    "fa2": _Package(("flash_attn",), "flash-attn", range(8, 100)),
}


def lacking(form: str, capability: tuple[int, int], *, dtype: torch.dtype | None, head_dim: int | None) -> str | None:
    """Return why a form is out of the question on such a GPU, without importing or running anything; None if not."""
    package = _PACKAGES[form]
    if torch.version.hip is not None and form != "fa2":
        return "not made for AMD GPUs"
    if capability[0] not in package.majors:
        return f"not made for compute capability {capability[0]}.{capability[1]}"
    if dtype == torch.float32:
        return "computes in bf16 and fp16 only"
    if head_dim is not None and (head_dim % 8 or head_dim > _MOST_HEAD_DIM):
        return f"heads must be a multiple of 8 channels wide, at most {_MOST_HEAD_DIM}: {head_dim}"
    installed = any(map(is_there, package.modules)) or (form == "fa2" and _varlen() is not None)
    if installed and package.needs is not None and not is_there(package.needs):
        return f"needs {package.needs}, which is not installed"
    return None if installed else "not installed"


def versions() -> dict[str, str]:
    """Return the versions of the FlashAttention packages that are installed."""
    found = {form: version_of(package.distribution) for form, package in _PACKAGES.items()}
    return {form: version for form, version in found.items() if version is not None}


@dataclass(frozen=True)
class _Route:
    """One way to the kernels of a form."""

    open: Callable[[], Call]
    identity: str
    replaces: bool = False


def find(form: str, sizes: Sizes, device: torch.device) -> Kernel:
    """Return the first way to a FlashAttention that runs and compiles in one graph, else the first that runs.

    Raises EnvironmentLacks with the reasons if none does.
    """
    reasons: list[str] = []
    in_pieces: Kernel | None = None
    for route in _routes(form):
        try:
            call = route.open()
            _run(call, sizes, device)
        except Exception as problem:
            reasons.append(f"{route.identity}: {first_line(problem)}")
            _undo(route.replaces)
            continue
        if _traces(call, sizes, device):
            return Kernel(form, call, route.identity, replaces=route.replaces, passed_over="; ".join(reasons))
        apart: Any = torch.compiler.disable(call)
        failed = "; ".join(reasons)
        in_pieces = in_pieces or Kernel(form, apart, route.identity, False, route.replaces, failed)
        reasons.append(f"{route.identity}: breaks compiled code into pieces")
        _undo(route.replaces)
    if in_pieces is None:
        raise EnvironmentLacks("; ".join(reasons) or "not installed")
    if in_pieces.replaces:
        _activate(_PACKAGES[form].impl or "")
    return in_pieces


def _routes(form: str) -> Iterator[_Route]:
    """The ways to a form's kernels: by its package, then by torch."""
    package = _PACKAGES[form]
    present = [module for module in package.modules if is_there(module)]
    for module in present:
        name = f"{package.distribution} {version_of(package.distribution) or 'of unknown version'}"
        yield _Route(lambda module=module: _from_package(module), name)
    active = getattr(torch.nn.attention, "current_flash_attention_impl", lambda: None)()
    if _varlen() is None or active is not None:  # one kernel only can be behind torch's calls
        return
    if package.impl is None:
        yield _Route(_from_torch, f"varlen_attn of {torch_version()}")
    elif present and package.impl in _torch_impls():
        yield _Route(
            lambda: _from_torch(package.impl), f"{package.distribution} through {torch_version()}", replaces=True
        )


def _from_package(module: str) -> Call:
    """Import a package and return its function in our signature. Raises whatever goes wrong in there."""
    function: Any = importlib.import_module(module).flash_attn_func

    def call(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int | None) -> Tensor:
        if window is None:
            found = function(q_BTHD, k_BTKD, v_BTKD, causal=True)
        else:
            found = function(q_BTHD, k_BTKD, v_BTKD, causal=True, window_size=(window, 0))
        return found[0] if isinstance(found, tuple) else found  # some versions add the log of the sums

    return call


def _from_torch(impl: str | None = None) -> Call:
    """Return torch's call for packed sequences, which knows windows; `impl` is first put behind it."""
    function: Any = _varlen()
    if impl is not None:
        _activate(impl)

    def call(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int | None) -> Tensor:
        rows, num_tokens, n_head = q_BTHD.shape[:3]
        ends = torch.arange(0, rows * num_tokens + 1, num_tokens, dtype=torch.int32, device=q_BTHD.device)
        packed = (x.flatten(0, 1) for x in (q_BTHD, k_BTKD, v_BTKD))
        back = -1 if window is None else window
        shared = n_head != k_BTKD.size(2)
        y = function(*packed, ends, ends, num_tokens, num_tokens, window_size=(back, 0), enable_gqa=shared)
        return y.unflatten(0, (rows, num_tokens))

    return call


def _varlen() -> Any:
    """Torch's attention over packed sequences, if it is new enough to know windows and shared heads; else None."""
    try:
        function = importlib.import_module("torch.nn.attention.varlen").varlen_attn
        known = inspect.signature(function).parameters
    except (ImportError, AttributeError, ValueError):
        return None
    return function if {"window_size", "enable_gqa"} <= set(known) else None


def _torch_impls() -> list[str]:
    listed = getattr(torch.nn.attention, "list_flash_attention_impls", None)
    return list(listed()) if listed is not None else []


def _activate(impl: str) -> None:
    torch.nn.attention.activate_flash_attention_impl(impl)  # type: ignore[attr-defined]


def withdraw(kernel: Kernel) -> None:
    """Give torch's own attention calls back to torch, if they run on this kernel."""
    _undo(kernel.replaces)


def _undo(replaces: bool) -> None:
    restore = getattr(torch.nn.attention, "restore_flash_attention_impl", None)
    if replaces and restore is not None:
        restore()


def _run(call: Call, sizes: Sizes, device: torch.device) -> None:
    """Compute once, forward and backward, with and without a window. Raises whatever goes wrong."""
    length = min(sizes.context, 128)
    for window in (None, length // 2):
        q, k, v = (
            torch.ones(1, length, heads, sizes.head_dim, dtype=torch.bfloat16, device=device, requires_grad=True)
            for heads in (sizes.n_head, sizes.n_kv_head, sizes.n_kv_head)
        )
        y = call(q, k, v, window)
        if y.shape != q.shape:
            raise ValueError(f"returned the shape {tuple(y.shape)}, not {tuple(q.shape)}")
        y.sum().backward()


def _traces(call: Call, sizes: Sizes, device: torch.device) -> bool:
    """Whether torch can compile code around this call without breaking it into pieces."""
    allow_variants()
    try:
        _run(torch.compile(call, fullgraph=True, dynamic=False, backend="aot_eager"), sizes, device)
    except Exception:
        return False
    return True
