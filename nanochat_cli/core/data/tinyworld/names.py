"""Names and words that nobody in the little world has: practice in reading what cannot be remembered."""

from __future__ import annotations

from nanochat_cli.core.data.tinyworld.rng import Rng
from nanochat_cli.core.data.tinyworld.words import GUESTS, NAMES, SPELLING_WORDS, listed

# Pieces of words join into anything; none of these may stand anywhere in a name.
UNFIT = listed(
    "anal anu arse ass bast bit boob bum butt chin coc coon crap cum cun damn dick dik dyk fag fann fuc gook "
    "hell homo hor jap kik kill kkk ming nazi nig paki pis poo pus rap sex shit slut spic suc tard tit turd "
    "wank whor wop"
)


def made_up_name(rng: Rng) -> str:
    """Returns one to three syllables, or the beginning of one word with the end of another; never a visitor's name."""
    while True:
        name = (syllables(rng) if rng.chance(40) else blend(rng)).capitalize()
        if name not in NAMES and name not in GUESTS and not any(piece in name.lower() for piece in UNFIT):
            return name


def made_up_word(rng: Rng) -> str:
    """Returns a word that means nothing, in small letters: its letters have to be read from its pieces."""
    while True:
        word = made_up_name(rng).lower()
        if word not in SPELLING_WORDS:
            return word


def syllables(rng: Rng) -> str:
    """Returns "tipobel" or "ian": consonant and vowel, up to three times, and a last consonant; often a vowel first."""
    pairs = [rng.pick("bdfghjklmnprstvz") + rng.pick("aeiou") for _ in range(rng.between(1, 3))]
    if rng.chance(35):
        first = pairs[0][1:] if rng.chance(50) else pairs[0]
        pairs[0] = rng.pick("aeiou") + first
    return "".join(pairs) + rng.pick("lmnrst")


def blend(rng: Rng) -> str:
    """Returns "pupket": two to four letters of one word and the last two to four of another."""
    first, last = rng.pick(SPELLING_WORDS), rng.pick(SPELLING_WORDS)
    return first[: rng.between(2, 4)] + last[-rng.between(2, 4) :]
