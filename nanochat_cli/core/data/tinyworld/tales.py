"""Made-up little tales about a person and a thing, and the grammar that tells whether a tale is well formed."""

from __future__ import annotations

import re
from functools import cache

from nanochat_cli.core.data.tinyworld.items import Item, Split, is_held
from nanochat_cli.core.data.tinyworld.rng import Rng
from nanochat_cli.core.data.tinyworld.words import ADJECTIVES, NAMES, OBJECTS, PLACES

# One sentence is taken from each part; n and m are people, o a thing, p a place, j what the thing is like.
PARTS = (
    ("One day {n} finds a {j} {o}.", "{n} has a {j} {o}.", "{n} gets a {j} {o}.", "Today {n} sees a {j} {o}."),
    ("{n} takes the {o} to the {p}.", "{n} goes to the {p} with the {o}.", "{n} brings the {o} to the {p}."),
    ("There {n} meets {m}.", "{m} is there too.", "In the {p} {n} sees {m}."),
    ("{m} likes the {o}.", '"What a {j} {o}!" says {m}.', '"May I have the {o}?" says {m}.'),
    ("{n} gives the {o} to {m}.", "{n} and {m} play with the {o}.", "{n} lets {m} hold the {o}."),
    ("They are happy.", "They are good friends.", "They play all day.", "Then {n} and {m} go home."),
)
FILLERS = {"n": NAMES, "m": NAMES, "o": OBJECTS, "p": PLACES, "j": ADJECTIVES}


def topic_is_held(person: str, thing: str) -> bool:
    """Returns True if a tale about this pair must never be asked for in training."""
    return is_held("tell", f"{person}+{thing}")


def tale(rng: Rng, person: str, thing: str) -> str:
    """Returns a tale of six sentences about this person and this thing."""
    friend = rng.pick(NAMES)
    while friend == person:
        friend = rng.pick(NAMES)
    slots = {"n": person, "m": friend, "o": thing, "p": rng.pick(PLACES), "j": rng.pick(ADJECTIVES)}
    return " ".join(rng.pick(part).format(**slots) for part in PARTS)


def item(rng: Rng, split: Split) -> Item:
    """Returns a request for a tale and one tale that answers it; `answer` is "person thing"."""
    while True:
        person, thing = rng.pick(NAMES), rng.pick(OBJECTS)
        if topic_is_held(person, thing) == (split == "held"):
            break
    return Item(
        family="tell",
        wording="tell",
        slots={"n": person, "o": thing},
        worked=tale(rng, person, thing),
        answer=f"{person} {thing}",
    )


@cache
def patterns() -> tuple[tuple[tuple[re.Pattern[str], str], ...], ...]:
    """Returns for each part its sentences as patterns, with the slot letters in order of appearance."""

    def compiled(sentence: str) -> tuple[re.Pattern[str], str]:
        letters = "".join(re.findall(r"\{(\w)\}", sentence))
        return re.compile(re.sub(r"\\\{\w\\\}", r"(\\w+)", re.escape(sentence)) + r"\s*"), letters

    return tuple(tuple(compiled(sentence) for sentence in part) for part in PARTS)


def is_grammatical(text: str) -> bool:
    """Returns True if the text is one sentence of each part, in order, with known words used consistently."""
    found: dict[str, str] = {}
    position = 0
    for part in patterns():
        for pattern, letters in part:
            match = pattern.match(text, position)
            if match and agrees(found, letters, match.groups()):
                position = match.end()
                break
        else:
            return False
    return position == len(text) and found.get("n") != found.get("m")


def agrees(found: dict[str, str], letters: str, words: tuple[str, ...]) -> bool:
    """Returns True, and remembers the words, if each fits its slot and what the slot held before."""
    new = dict(zip(letters, words, strict=True))
    if any(word not in FILLERS[slot] or found.get(slot, word) != word for slot, word in new.items()):
        return False
    found.update(new)
    return True


def is_about(text: str, person: str, thing: str) -> bool:
    """Returns True if the first sentence names the person and the thing."""
    first = text.split(".")[0].split()
    return person in first and thing in first


def topic(text: str) -> tuple[str, str]:
    """Returns the (person, thing) of a well-formed tale."""
    words = text.split(".")[0].split()
    return next(word for word in words if word in NAMES), next(word for word in words if word in OBJECTS)
