"""Names from files: every module of a package is a choice, and only the chosen one is imported."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

from nanochat_cli.core.errors import ConfigError

# Modules of shared machinery that live beside the choices, in any of the packages.
_NOT_CHOICES = frozenset(
    {"base", "build", "shape", "attention", "products", "loss", "fp8", "lora", "freezing"}
    | {"kernels", "kernel_check", "kernel_parts", "flash"}
)


def names(package: ModuleType) -> list[str]:
    """Return the choices that a package offers, sorted."""
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in found if name not in _NOT_CHOICES and not name.startswith("_"))


def load(package: ModuleType, name: str, kind: str) -> ModuleType:
    """Import and return the module behind a choice. Raises ConfigError that lists the choices."""
    known = names(package)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"unknown {kind}: {name}", hint=f"{hint}choose one of: {', '.join(known)}")
    return importlib.import_module(f"{package.__name__}.{name}")
