"""Optional packages: imported where they are used, with the install command in the error."""

from __future__ import annotations

import importlib
from types import ModuleType

from nanochat_cli.core.errors import EnvironmentLacks


def require(module: str, extra: str) -> ModuleType:
    """Return an optional module. Raises EnvironmentLacks that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as problem:
        if problem.name is None or not module.startswith(problem.name):
            raise
        raise EnvironmentLacks(f"{module} is not installed", hint=f"pip install 'nanochat[{extra}]'") from problem
