"""Sums of three numbers, answered straight away or step by step: what SFT leaves open and RL can decide."""

from __future__ import annotations

from nanochat_cli.core.data.tinyworld.arithmetic import columns_of_sum, sum_is_held
from nanochat_cli.core.data.tinyworld.items import Item, Split, is_held
from nanochat_cli.core.data.tinyworld.rng import Rng

DIRECT_PERCENT = 65  # of the SFT answers; a model this small cannot get these right without work


def three_numbers(rng: Rng, split: Split, *, direct: bool) -> Item:
    """Returns a + b + c of two-digit numbers; no step of the work is a sum that the add families keep for testing."""
    while True:
        a, b, c = (rng.between(10, 99) for _ in range(3))
        if sum_is_held(a, b) or sum_is_held(a + b, c):
            continue
        if is_held("add-3-numbers", "+".join(map(str, sorted((a, b, c))))) == (split == "held"):
            break
    total = a + b + c
    first, second = f"{a}+{b}: {columns_of_sum(a, b)}.", f"{a + b}+{c}: {columns_of_sum(a + b, c)}."
    worked = f"The sum is {total}." if direct else f"{a}+{b}+{c}: {first} {second}"
    return Item(family="choice", wording="add-three", slots={"a": a, "b": b, "c": c}, worked=worked, answer=str(total))
