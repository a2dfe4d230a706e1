"""What every attention kernel is made of: its signature, the sizes it is made for, and where its package is."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat_cli.core.models.shape import ModelConfig

_VARIANTS = 64

Call = Callable[[Tensor, Tensor, Tensor, int | None], Tensor]
"""(q_BTHD, k_BTKD, v_BTKD, window) -> y_BTHD."""


@dataclass(frozen=True)
class Sizes:
    """What kernels are made for: the context, every window narrower than that, and the heads."""

    context: int
    windows: tuple[int, ...]
    n_head: int
    n_kv_head: int
    head_dim: int
    qk_scale: float = 1.0

    @classmethod
    def of(cls, config: ModelConfig) -> Sizes:
        """Return the sizes of a model."""
        found = {config.window(layer) for layer in range(config.n_layer)}
        narrow = tuple(sorted(w for w in found if w is not None and w < config.max_seq_len - 1))
        return cls(config.max_seq_len, narrow, config.n_head, config.n_kv_head, config.head_dim, config.qk_scale)


@dataclass(frozen=True)
class Kernel:
    """A form that is ready to be called. `identity` names the package or torch, with its version."""

    form: str
    call: Call
    identity: str
    whole: bool = True
    """Whether compiled code runs through it in one graph."""
    replaces: bool = False
    """Whether torch's own attention calls run on it, too, from now on."""
    passed_over: str = ""
    """What was tried before it and failed, and why."""


def first_line(problem: BaseException) -> str:
    """Return an exception's type and the first line of what it says."""
    said = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {said[0][:200]}" if said else type(problem).__name__


def is_there(module: str) -> bool:
    """Whether a module can be found, told without importing it or its parents."""
    top, *inner = module.split(".")
    if module in sys.modules:
        spec = getattr(sys.modules[module], "__spec__", None)
        return spec is None or spec.origin is not None
    if (spec := _spec(top)) is None:
        return False
    if not inner:
        return spec.origin is not None  # without one it is a folder that packages share, as that around version 4
    places = [Path(place, *inner) for place in spec.submodule_search_locations or ()]
    return any(place.is_dir() or place.with_suffix(".py").is_file() for place in places)


def _spec(top: str) -> Any:
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):  # a module that hides where it comes from
        return None


def version_of(distribution: str) -> str | None:
    """Return the version of an installed distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_version() -> str:
    """Return torch's name and version."""
    return f"torch {torch.__version__}"


def allow_variants() -> None:
    """Let torch compile a function for more cases than the 8 after which it gives up.

    Windows, rows, dtypes, with and without gradient: a kernel has more of them, and uncompiled it would be of no use.
    """
    settings: Any = importlib.import_module("torch._dynamo.config")
    settings.recompile_limit = max(settings.recompile_limit, _VARIANTS)
