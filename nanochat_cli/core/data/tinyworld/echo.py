"""Saying after: a word, a phrase or a made-up name is repeated as it was given.

Nearly every answer begins by naming what it is about, also what was never asked about in training. This is that step
on its own, for every word of the little world.
"""

from __future__ import annotations

from nanochat_cli.core.data.tinyworld import facts
from nanochat_cli.core.data.tinyworld.items import Item, Split, is_held
from nanochat_cli.core.data.tinyworld.names import made_up_name
from nanochat_cli.core.data.tinyworld.rng import Rng
from nanochat_cli.core.data.tinyworld.words import ADJECTIVES, OBJECTS, SPELLING_WORDS

MENTIONED = tuple(x for _, x, _ in facts.KEYS)  # what facts are about, without what is true of it


def item(rng: Rng, split: Split) -> Item:
    """Returns a request to repeat something, and it repeated."""
    while True:
        said = phrase(rng)
        if is_held("echo", said) == (split == "held"):
            return Item(family="echo", wording="echo", slots={"x": said}, worked=f"I say: {said}.", answer=said)


def phrase(rng: Rng) -> str:
    """Returns a word, what a fact is about, a name that nobody has, or a thing with what it is like."""
    sort = rng.below(10)
    if sort < 3:
        return rng.pick(SPELLING_WORDS)
    if sort < 6:
        return rng.pick(MENTIONED)
    if sort < 9:
        return made_up_name(rng)
    return f"{rng.pick(ADJECTIVES)} {rng.pick(OBJECTS)}"
