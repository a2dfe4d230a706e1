"""The ways to ask each kind of question. A hash keeps an eighth of each kind for testing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from nanochat_cli.core.data.tinyworld.phrases import LETTERS, NUMBERS
from nanochat_cli.core.data.tinyworld.rng import hash64
from nanochat_cli.core.data.tinyworld.world_phrases import FACTS, SAYING, STORIES

HELD_OF = 8  # one wording in so many is never trained on
KINDS = NUMBERS | LETTERS | STORIES | SAYING | FACTS


@dataclass(frozen=True)
class Wordings:
    """The ways to ask one kind of question: whole sentences and framed phrases to train on, and those held out."""

    whole: tuple[str, ...]
    framed: tuple[str, ...]
    held: tuple[str, ...]


@cache
def wordings(kind: str) -> Wordings:
    """Returns the ways to ask one kind of question; a hash, not somebody, chooses what is held out.

    Wordings that differ in spaces and marks only stay together, and none is held that a trained one contains.
    """
    phrases = KINDS[kind]
    pool = dict.fromkeys((*phrases.whole, *phrases.framed()))
    bared = {wording: bare(wording) for wording in pool}
    everything = "\n".join(dict.fromkeys(bared.values()))
    held: set[str] = set()
    for wording in sorted(pool, key=lambda wording: (hash64(f"held/wording/{bared[wording]}"), wording)):
        if len(held) >= round(len(pool) / HELD_OF):
            break
        if everything.count(bared[wording]) == 1:
            held |= {other for other in pool if bared[other] == bared[wording]}
    return Wordings(
        whole=tuple(w for w in phrases.whole if w not in held),
        framed=tuple(w for w in pool if w not in held and w not in phrases.whole),
        held=tuple(w for w in pool if w in held),
    )


def bare(wording: str) -> str:
    """Returns the wording in small letters without spaces and marks, and without what `asking.dressed` may add."""
    letters = re.sub(r"[^a-z0-9{}+*/-]", "", wording.lower())
    return re.sub(r"(the)?((word)?(?={w})|(letters?)?(?={l}))", "", letters)
