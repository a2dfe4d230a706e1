"""Sums and differences with every column shown, and the number that comes next or before."""

from __future__ import annotations

from nanochat_cli.core.data.tinyworld.items import Item, Split, is_held
from nanochat_cli.core.data.tinyworld.rng import Rng


def columns_of_sum(a: int, b: int) -> str:
    """Returns "7+8=15, 3+4+1=8, 85" for 37 and 48: columns from the right with the carry, then the sum."""
    steps, carry, x, y = [], 0, a, b
    for position in range(max(len(str(a)), len(str(b)))):
        p, q = x % 10, y % 10
        total = p + q + carry
        steps.append(f"{p}+{q}+{carry}={total}" if position and carry else f"{p}+{q}={total}")
        x, y, carry = x // 10, y // 10, total // 10
    return f"{', '.join(steps)}, {a + b}"


def columns_of_difference(a: int, b: int) -> str:
    """Returns "12-7=5, 5-3-1=1, 15" for 52 and 37: columns from the right with the borrow, then the difference."""
    steps, borrow, x, y = [], 0, a, b
    while x or y or not steps:
        p, q = x % 10, y % 10
        top = p + 10 if p < q + borrow else p
        left = f"{top}-{q}-{borrow}" if borrow else f"{top}-{q}"
        steps.append(f"{left}={top - q - borrow}")
        x, y, borrow = x // 10, y // 10, int(top > p)
    return f"{', '.join(steps)}, {a - b}"


def worked_sum(a: int, b: int) -> str:
    """Returns the full worked line of a + b."""
    return f"{a}+{b}: {columns_of_sum(a, b)}."


def sum_is_held(a: int, b: int) -> bool:
    """Returns True if a + b (in either order) is kept for testing."""
    return is_held("add", f"{min(a, b)}+{max(a, b)}")


def difference_is_held(a: int, b: int) -> bool:
    """Returns True if a - b is kept for testing."""
    return is_held("sub", f"{a}-{b}")


def add(rng: Rng, split: Split, digits: int) -> Item:
    """Returns a + b with `digits` digits each (1: two one-digit numbers; mixed lengths one time in five)."""
    low, high = (0, 9) if digits == 1 else (10 ** (digits - 1), 10**digits - 1)
    while True:
        a, b = rng.between(low, high), rng.between(low, high)
        if digits > 1 and split == "train" and rng.chance(20):
            a, b = (rng.below(low), b) if rng.chance(50) else (a, rng.below(low))
        if sum_is_held(a, b) == (split == "held"):
            break
    worked = worked_sum(a, b)
    return Item(family=f"add-{digits}", wording="add", slots={"a": a, "b": b}, worked=worked, answer=str(a + b))


def subtract(rng: Rng, split: Split, digits: int) -> Item:
    """Returns a - b >= 0 with `digits` digits in a (and in b, but in training not always)."""
    low, high = (0, 19) if digits == 1 else (10 ** (digits - 1), 10**digits - 1)
    while True:
        a, b = rng.between(low, high), rng.between(low, high)
        if digits > 1 and split == "train":
            if rng.chance(20):
                b = rng.below(low)
            elif rng.chance(40):
                b = with_close_digits(rng, a, b, digits)
        if digits == 1:
            b %= 10
        if a < b:
            a, b = b, a
        if difference_is_held(a, b) == (split == "held"):
            break
    worked = f"{a}-{b}: {columns_of_difference(a, b)}."
    return Item(family=f"sub-{digits}", wording="sub", slots={"a": a, "b": b}, worked=worked, answer=str(a - b))


def with_close_digits(rng: Rng, a: int, b: int, digits: int) -> int:
    """Returns b with half of its digits equal to, or one away from, those of a: where little decides on borrowing.

    Random numbers have few such columns, and a small model goes wrong on them first (8-8-1, 4-5 for 14-5).
    """
    close = 0
    for place in range(digits):
        top, bottom = a // 10**place % 10, b // 10**place % 10
        if rng.chance(50):
            bottom = min(9, max(0, top + rng.between(-1, 1)))
        close += bottom * 10**place
    return close


def neighbour(rng: Rng, split: Split) -> Item:
    """Returns the number after or before n, with n in 0..999 and the answer in the same range."""
    while True:
        n, after = rng.below(1000), rng.chance(50)
        if rng.chance(25):
            n %= 100
        answer = n + 1 if after else n - 1
        if 0 <= answer <= 999 and is_held("next", f"{n}{'+' if after else '-'}") == (split == "held"):
            break
    where = "After" if after else "Before"
    return Item(
        family="next-number",
        wording=f"number-{where.lower()}",
        slots={"n": n},
        worked=f"{where} {n}: {answer}.",
        answer=str(answer),
    )
