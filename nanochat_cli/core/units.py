"""Sizes and amounts as people write them."""

from __future__ import annotations

import re
import time

from nanochat_cli.core.errors import ConfigError

_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def write_size(num_bytes: int) -> str:
    """A size that `parse_size` reads, rounded up to three digits: `81 kB`, `1.24 GB`."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            digits = 10 ** max(0, 3 - len(str(num_bytes // factor)))
            return f"{-(-num_bytes * digits // factor) / digits:g} {unit}"
    return f"{num_bytes} B"


_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse_duration(text: str, option: str) -> float:
    """Seconds of `90s`, `10m`, `1.5h`, `2d` or `1h30m`. Raises ConfigError naming the option."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[smhd])", text.strip().lower())
    if not parts or "".join("".join(part) for part in parts) != re.sub(r"\s", "", text.lower()):
        raise ConfigError(f"no time for {option}: {text}", hint="write a number and a unit, like 30s, 10m, 2h or 1h30m")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not seconds:
        raise ConfigError(f"no time for {option}: {text}", hint="it must be longer than nothing")
    return seconds


def many(number: float, one: str, several: str | None = None, form: str = ",") -> str:
    """An amount with its noun: `1 row`, `1,024 rows`, `2 passes` (where an s will not do, `several` is given)."""
    shown = format(number, form)
    return f"{shown} {one if shown == '1' else several or one + 's'}"


def span(seconds: float) -> str:
    """About how long something takes, in one unit: `40 s`, `5 min`, `30 h`, `12 days`."""
    for unit, length, most in (("s", 1, 90), ("min", 60, 120), ("h", 3600, 72)):
        if (number := max(1, round(seconds / length))) < most:
            return f"{number} {unit}"
    return f"{round(seconds / 86400):,} days"


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


def ago(then: float | None, now: float | None = None) -> str:
    """How long ago a time in seconds since 1970 was: `3 min ago`; one that a wrong clock put ahead is `just now`."""
    if then is None:
        return "at an unknown time"
    seconds = (time.time() if now is None else now) - then
    if seconds < 10:
        return "just now"
    for unit, factor, upto in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 48 * 3600)):
        if seconds < upto:
            return f"{int(seconds / factor)} {unit} ago"
    return f"{int(seconds / 86400):,} days ago"
