"""Which of the ways to say how long to train counts: the one that was typed, and only one may be."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TypeVar

from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.settings import BaseTrainConfig

C = TypeVar("C", bound=BaseTrainConfig)
_WAYS = {
    "num_iterations": ("--num-iterations", "steps"),
    "target_flops": ("--target-flops", "floating-point operations"),
    "target_param_data_ratio": ("--target-param-data-ratio", "tokens per parameter"),
}


def as_typed(cfg: C, typed: Iterable[str]) -> C:
    """Return the config in which a horizon that was typed counts, whatever a file or a preset says of the others.

    `typed` holds the paths of the options given on the command line. Raises ConfigError if they name two horizons.
    """
    paths = set(typed)
    values = {key: getattr(cfg.horizon, key) for key in _WAYS if f"horizon.{key}" in paths}
    given = {key: value for key, value in values.items() if value is not None}
    if len(given) > 1:
        said = " and ".join(f"{_WAYS[key][0]} {value:g}" for key, value in given.items())
        ways = [
            f"leave out {' and '.join(_WAYS[other][0] for other in given if other != key)} to go by {_WAYS[key][1]}"
            for key in given
        ]
        raise ConfigError(f"a training has one horizon, and these are {len(given)}: {said}", hint=", or ".join(ways))
    others = {key: None for key in ("num_iterations", "target_flops") if key not in given}
    return dataclasses.replace(cfg, horizon=dataclasses.replace(cfg.horizon, **others)) if given else cfg
