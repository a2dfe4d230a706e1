"""Sizes as people write them."""

from __future__ import annotations

import re

from nanochat_cli.core.errors import ConfigError

_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def write_size(num_bytes: int) -> str:
    """A size that `parse_size` reads, rounded up to three digits: `81 kB`, `1.24 GB`."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            digits = 10 ** max(0, 3 - len(str(num_bytes // factor)))
            return f"{-(-num_bytes * digits // factor) / digits:g} {unit}"
    return f"{num_bytes} B"


def parse_size(text: str, option: str) -> int:
    """Bytes of `512MB`, `2 GB`, `1.5G` or plain digits (powers of 1000; `GiB` counts in powers of 1024).

    Raises ConfigError naming the option.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if found is None or not float(found[1]):
        raise ConfigError(f"no size for {option}: {text}", hint="write a number and a unit, like 512MB or 2GB")
    factor = _FACTORS[found[2].upper()]
    if found[3] and factor > 1:
        factor = 1024 ** list(_FACTORS.values()).index(factor)
    return int(float(found[1]) * factor)
