"""Questions about the letters of a word: spell it, its first, last and every letter counted."""

from __future__ import annotations

from functools import cache

from nanochat_cli.core.data.tinyworld.items import Item, Split
from nanochat_cli.core.data.tinyworld.names import made_up_word
from nanochat_cli.core.data.tinyworld.rng import Rng, hash64
from nanochat_cli.core.data.tinyworld.words import SPELLING_WORDS

MADE_UP_PERCENT = 30  # of the words in training mean nothing: the letters of any word are to be read, not remembered
LETTERS = "abcdefghijklmnopqrstuvwxyz"
KINDS = ("spell", "count", "first-letter", "last-letter", "word-length")


@cache
def words_for(kind: str, split: Split) -> tuple[str, ...]:
    """Returns the words of one kind and split.

    Each word is held for at most one kind (a tenth of the words per kind), so that its letters are still
    met in the four others: the test asks whether a known word is put to a use never shown.
    """
    own = KINDS.index(kind)
    order = sorted(SPELLING_WORDS, key=lambda word: hash64(f"held/word/{word}"))
    return tuple(w for k, w in enumerate(order) if (k % 10 == own) == (split == "held"))


@cache
def letters_by_count(split: Split) -> dict[int, tuple[tuple[str, str], ...]]:
    """Returns for each answer 0..3 the pairs (word, letter) that have it; absent letters are those of the alphabet."""
    table: dict[int, list[tuple[str, str]]] = {0: [], 1: [], 2: [], 3: []}
    for word in words_for("count", split):
        for letter in LETTERS:
            count = word.count(letter)
            if count in table:
                table[count].append((word, letter))
    return {count: tuple(pairs) for count, pairs in table.items()}


def spaced(word: str) -> str:
    """Returns "c a t" for "cat"."""
    return " ".join(word)


def running_count(word: str, letter: str | None = None) -> str:
    """Returns "e1 g1 g2" style counting: of `letter` ("e0 g1 g2"), or of all letters ("e1 g2 g3")."""
    total, parts = 0, []
    for character in word:
        total += letter is None or character == letter
        parts.append(f"{character}{total}")
    return " ".join(parts)


def item(rng: Rng, split: Split, kind: str) -> Item:
    """Returns one question of one kind about one word."""
    if kind == "count":
        return count_item(rng, split)
    word = made_up_word(rng) if split == "train" and rng.chance(MADE_UP_PERCENT) else rng.pick(words_for(kind, split))
    worked, answer = {
        "spell": (f"Spell {word}: {spaced(word)}.", spaced(word)),
        "first-letter": (f"First letter of {word}: {word[0]}.", word[0]),
        "last-letter": (f"Last letter of {word}: {spaced(word)}, {word[-1]}.", word[-1]),
        "word-length": (f"Length of {word}: {running_count(word)}, {len(word)}.", str(len(word))),
    }[kind]
    return Item(family=kind, wording=kind, slots={"w": word}, worked=worked, answer=answer)


def count_item(rng: Rng, split: Split) -> Item:
    """Returns how often a letter is in a word; the answers 0, 1 and 2 are equally frequent, 3 is rarer."""
    count = (0, 0, 0, 1, 1, 1, 2, 2, 2, 3)[rng.below(10)]
    if split == "train" and rng.chance(MADE_UP_PERCENT):
        word, letter = made_up_with(rng, count)
    else:
        word, letter = rng.pick(letters_by_count(split)[count])
    worked = f"Count {letter} in {word}: {running_count(word, letter)}, {count}."
    return Item(family="count", wording="count", slots={"w": word, "l": letter}, worked=worked, answer=str(count))


def made_up_with(rng: Rng, count: int) -> tuple[str, str]:
    """Returns a word that means nothing and a letter that it has `count` times."""
    while True:
        word = made_up_word(rng)
        if letters := [letter for letter in LETTERS if word.count(letter) == count]:
            return word, rng.pick(letters)
