"""Names that nobody in the little world has: practice in copying what cannot be remembered."""

from __future__ import annotations

from nanochat_cli.core.data.tinyworld.items import is_held
from nanochat_cli.core.data.tinyworld.rng import Rng
from nanochat_cli.core.data.tinyworld.words import GUESTS, NAMES, SPELLING_WORDS


def made_up_name(rng: Rng) -> str:
    """Returns one to three syllables, or the beginning of one word with the end of another; never a visitor's name."""
    while True:
        name = (syllables(rng) if rng.chance(40) else blend(rng)).capitalize()
        if name not in NAMES and name not in GUESTS and not is_held("chat", name, 25):
            return name


def syllables(rng: Rng) -> str:
    """Returns "tipobel": consonant and vowel, one to three times, and a last consonant."""
    pairs = [rng.pick("bdfghjklmnprstvz") + rng.pick("aeiou") for _ in range(rng.between(1, 3))]
    return "".join(pairs) + rng.pick("lmnrst")


def blend(rng: Rng) -> str:
    """Returns "pupket": two to four letters of one word and the last two to four of another."""
    first, last = rng.pick(SPELLING_WORDS), rng.pick(SPELLING_WORDS)
    return first[: rng.between(2, 4)] + last[-rng.between(2, 4) :]
