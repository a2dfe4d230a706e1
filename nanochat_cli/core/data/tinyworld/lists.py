"""Lists that are said again in another order: practice in looking back, which every question about a text needs."""

from __future__ import annotations

from nanochat_cli.core.data.tinyworld import facts
from nanochat_cli.core.data.tinyworld.chatter import made_up_name
from nanochat_cli.core.data.tinyworld.rng import Rng
from nanochat_cli.core.data.tinyworld.words import NAMES, OBJECTS, PLACES, SPELLING_WORDS

MENTIONED = tuple(x for _, x, _ in facts.KEYS)  # what facts are about, without what is true of it
FORMS = ("{a} {b}", "{a} {b}", "{a}: {b}", "{a} and {b}")


def said_again(rng: Rng) -> str:
    """Returns pairs of words, then the same pairs in other orders: what follows a word can be found by looking back."""
    count = rng.between(3, 6)
    strangers = [made_up_name(rng) for _ in range(count)]
    firsts = rng.sample(rng.pick((OBJECTS, NAMES, SPELLING_WORDS, MENTIONED)), count)
    seconds = rng.sample(rng.pick((NAMES, PLACES, OBJECTS, strangers)), count)
    form = rng.pick(FORMS)
    pairs = [form.format(a=a, b=b) for a, b in zip(firsts, seconds, strict=True)]
    again = [", ".join(rng.sample(pairs, count)) for _ in range(rng.between(1, 2))]
    return "\n".join(f"{label}: {line}." for label, line in zip(("List", "Again", "Again"), [", ".join(pairs), *again]))
