"""Frames that turn a phrase into something one would say: a phrase times a frame is a wording.

A frame is one for phrases of its kind: what to do ("add 2 and 3"), a thing ("the sum of 2 and 3"), or something to know
("how many letters cat has"). `{}` is the phrase's place; a sentence's first letter is made large later.
"""

from __future__ import annotations

from dataclasses import dataclass

# fmt: off
DO = (
    "{}.", "please {}.", "can you {}?", "could you {}?", "would you {}?", "can you please {}?", "could you please {}?",
    "will you {}?", "I want you to {}.", "I would like you to {}.", "I need you to {}.", "I ask you to {}.",
    "try to {}.", "now {}.", "could you {} for me?", "please {} for me.", "{} for me.", "you must {}.",
    "let us {}.", "help me {}.", "I want to {}.", "I have to {}.", "I must {}. Can you help me?", "how do I {}?",
)
THING = (
    "what is {}?", "tell me {}.", "give me {}.", "find {}.", "I want {}.", "I need {}.", "I would like {}.",
    "can you give me {}?", "can you tell me {}?", "could you tell me {}?", "could you give me {}?",
    "please give me {}.", "please tell me {}.", "please find {}.", "do you know {}?", "I want to know {}.",
    "I would like to know {}.", "I need to know {}.", "let me know {}.", "{}?", "{}, please.", "and what is {}?",
    "what would be {}?", "show me {}.", "can I have {}?", "may I have {}, please?",
    "would you tell me {}?", "can you find {} for me?", "we want to know {}.", "help me find {}.",
)
KNOW = (
    "tell me {}.", "please tell me {}.", "can you tell me {}?", "could you tell me {}?", "would you tell me {}?",
    "do you know {}?", "I want to know {}.", "I would like to know {}.", "I need to know {}.", "let me know {}.",
    "say {}.", "show me {}.", "can you say {}?", "can you show me {}?", "I ask you {}.", "find out {}.",
    "I do not know {}.", "I wonder {}.", "we want to know {}.", "please say {}.", "help me find out {}.",
)
# fmt: on


@dataclass(frozen=True, kw_only=True)
class Phrases:
    """What one kind of question is made of: whole sentences, and phrases for each kind of frame."""

    whole: tuple[str, ...] = ()
    do: tuple[str, ...] = ()
    thing: tuple[str, ...] = ()
    know: tuple[str, ...] = ()

    def framed(self) -> tuple[str, ...]:
        """Returns every phrase in every frame of its kind, each sentence once, without those that are whole ones."""
        made = [
            frame.format(phrase)
            for frames, phrases in ((DO, self.do), (THING, self.thing), (KNOW, self.know))
            for phrase in phrases
            for frame in frames
        ]
        return tuple(wording for wording in dict.fromkeys(made) if wording not in self.whole)
