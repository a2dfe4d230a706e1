"""Counting a letter in a word, by hand and then by a line of Python: two ways, which should agree.

Asked in seven languages, with and without capitals, quotes and question marks; always answered in English.
"""

from __future__ import annotations

from typing import ClassVar

from nanochat_cli.core.data.tinyworld.rng import stream
from nanochat_cli.core.tasks import _numbers, _words
from nanochat_cli.core.tasks._spelling import SpellingTask
from nanochat_cli.core.tasks.simplespelling import spelled
from nanochat_cli.core.tokenizer.conversation import Conversation, Part

VERSION = "spellingbee-1"
WORDINGS = (
    "How many {letter} are in {word}",
    "How many {letter} does {word} have",
    "How many times does {letter} occur in {word}",
    "How often is {letter} in {word}",
    "How often do you find {letter} in {word}",
    "How often does one write {letter} in {word}",
    "Count {letter} in {word}",
    "Count how often {letter} stands in {word}",
    "Count the letter {letter} in the word {word}",
    "Please count every {letter} of {word}",
    "Tell me how many {letter} there are in {word}",
    "Can you tell me how many times {word} has {letter}",
    "Do you know how many {letter} are in {word}",
    "I wonder how often {letter} comes up in {word}",
    "In {word}, how many {letter} are there",
    "In the word {word}, how often is there {letter}",
    "The word {word}: how many {letter}",
    "Look at {word}. How many of its letters are {letter}",
    "If you spell {word}, how many times do you say {letter}",
    "What is the number of {letter} in {word}",
    "What is the count of the letter {letter} in {word}",
    "Number of {letter} in {word}",
    "{word}: how many {letter}",
    "{word} has how many {letter}",
    "¿Cuántas {letter} hay en {word}",
    "¿Cuántas veces aparece {letter} en {word}",
    "Cuenta las {letter} de la palabra {word}",
    "Combien de {letter} y a-t-il dans {word}",
    "Combien de fois trouve-t-on {letter} dans {word}",
    "Compte les {letter} du mot {word}",
    "Wie viele {letter} sind in {word}",
    "Wie oft kommt {letter} in {word} vor",
    "Zähle die {letter} im Wort {word}",
    "{word}里有多少个{letter}",
    "{word}这个词中{letter}出现几次",
    "请数一数{word}中的{letter}",
    "{word}に{letter}はいくつありますか",
    "{word}の中に{letter}は何回出てきますか",
    "{word}에 {letter}이 몇 개 있나요",
    "{word}에서 {letter}은 몇 번 나오나요",
)
_QUOTES = ("", "'", '"')


class SpellingBee(SpellingTask):
    """Most letters asked for are in the word; every tenth is any letter, so that the answer may be none."""

    num_train = 80_000
    max_reply_tokens: ClassVar[int] = 320

    def drawn(self, i: int) -> tuple[str, str, str]:
        """Word, letter and question of item `i`."""
        self.check(i)
        rng = stream(VERSION, self.split, self.seed, i)
        word = rng.pick(self.words)
        letter = rng.pick(_words.LETTERS if rng.chance(10) else word)
        wording = rng.pick(WORDINGS)
        if rng.chance(30):
            wording = wording.lower()
        around_letter, around_word = rng.pick(_QUOTES), rng.pick(_QUOTES)
        asked = wording.format(
            letter=f"{around_letter}{letter}{around_letter}", word=f"{around_word}{word}{around_word}"
        )
        return word, letter, f"{asked}?" if rng.chance(50) else asked

    def example(self, i: int) -> Conversation:
        word, letter, question = self.drawn(i)
        return Conversation.turn(user=question, assistant=counted(word, letter))

    def family(self, i: int) -> str:
        word, letter, _ = self.drawn(i)
        return f"{self.name}/{min(word.count(letter), 3)}"

    def label(self, i: int) -> str | None:
        word, letter, _ = self.drawn(i)
        return str(word.count(letter))

    def grade(self, conversation: Conversation, reply: str) -> bool:
        return _numbers.same(conversation.messages[-1].text, reply)


def counted(word: str, letter: str) -> tuple[Part, ...]:
    """Return the worked answer: the letters in turn with a running count, then Python's, then the number."""
    lines, count = [], 0
    for place, here in enumerate(word, start=1):
        count += here == letter
        lines.append(f"{place}:{here}" + (f" is number {count}" if here == letter else ""))
    by_hand = "\n".join(
        [f"I look for '{letter}' in '{word}', letter by letter.", "", spelled(word), "", *lines, ""]
        + [f"By hand I count {count}. Now with Python:", "", ""]
    )
    return (
        Part("text", by_hand),
        Part("python", f"'{word}'.count('{letter}')"),
        Part("python_output", str(count)),
        Part("text", f"\n\nPython counts {count}, too.\n\n{_numbers.MARK} {count}"),
    )


TASK = SpellingBee
