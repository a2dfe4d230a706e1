"""A counter-based integer random generator: the same draws on every machine and every Python."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

MASK = 0xFFFFFFFFFFFFFFFF
GOLDEN = 0x9E3779B97F4A7C15


def hash64(text: str) -> int:
    """Returns 64 bits that depend on every character of `text` and on nothing else."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


class Rng:
    """SplitMix64: draw number n is a mix of key + n * golden ratio, so a stream needs no stored state.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
    """

    __slots__ = ("state",)

    def __init__(self, key: int) -> None:
        self.state = key & MASK

    def bits(self) -> int:
        """Returns the next 64 random bits."""
        self.state = z = (self.state + GOLDEN) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, n: int) -> int:
        """Returns an integer in [0, n); the bias is under n / 2**32."""
        return ((self.bits() >> 32) * n) >> 32

    def between(self, low: int, high: int) -> int:
        """Returns an integer in [low, high], both ends included."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        """Returns True in `percent` of 100 draws."""
        return self.below(100) < percent

    def pick(self, items: Sequence[T]) -> T:
        """Returns one item, all equally likely."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """Returns `count` different items in random order."""
        pool = list(items)
        for k in range(count):
            j = k + self.below(len(pool) - k)
            pool[k], pool[j] = pool[j], pool[k]
        return pool[:count]


def stream(*parts: str | int) -> Rng:
    """Returns the generator that belongs to these parts, for example (version, seed, "document", 7)."""
    return Rng(hash64("/".join(map(str, parts))))
