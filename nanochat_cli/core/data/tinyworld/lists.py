"""Lists that are said again: practice in looking back, which every question about a text needs.

A list said again in the same order makes half its tokens predictable from what came before, and only from that: a model
finds out that looking back pays, after which pairs in another order and then stories come much sooner.
"""

from __future__ import annotations

from nanochat_cli.core.data.tinyworld.echo import phrase
from nanochat_cli.core.data.tinyworld.rng import Rng
from nanochat_cli.core.data.tinyworld.words import NAMES, OBJECTS, PLACES, SPELLING_WORDS

WORDS = (NAMES, OBJECTS, PLACES, SPELLING_WORDS, NAMES + OBJECTS + PLACES)
FORMS = ("{a} {b}", "{a} {b}", "{a} {b}", "{a}: {b}", "{a} and {b}")
PAIRS = ((OBJECTS, NAMES), (OBJECTS, PLACES), (NAMES, PLACES), (NAMES, OBJECTS), (PLACES, NAMES), (PLACES, OBJECTS))


def said_again(rng: Rng) -> str:
    """Returns a list of words and twice the same list, or pairs and the same pairs in other orders."""
    return in_order(rng) if rng.chance(50) else shuffled_pairs(rng)


def in_order(rng: Rng) -> str:
    """Returns words, or names and phrases of several tokens, said again twice in the order in which they came."""
    if rng.chance(40):
        said = ", ".join(phrase(rng) for _ in range(rng.between(3, 5)))
    else:
        said = " ".join(rng.sample(rng.pick(WORDS), rng.between(5, 14)))
    return f"List: {said}. Again: {said}. Again: {said}."


def shuffled_pairs(rng: Rng) -> str:
    """Returns pairs of words, then the same pairs in other orders: what follows a word can be found by looking back."""
    count = rng.between(3, 7)
    first_words, second_words = rng.pick(PAIRS)
    firsts, seconds = rng.sample(first_words, count), rng.sample(second_words, count)
    form = rng.pick(FORMS)
    pairs = [form.format(a=a, b=b) for a, b in zip(firsts, seconds, strict=True)]
    lines = [pairs, *(rng.sample(pairs, count) for _ in range(rng.between(2, 3)))]
    return "\n".join(f"{'Again' if at else 'List'}: {', '.join(line)}." for at, line in enumerate(lines))
