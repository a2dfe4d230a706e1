"""Decides whether a reply is right by comparing its final answer with that of the reference reply."""

from __future__ import annotations

import re

from nanochat_cli.core.data.tinyworld import tales
from nanochat_cli.core.data.tinyworld.chatter import FIXED_REPLIES

NUMBER = re.compile(r"\d+")
OWNER = re.compile(r"(\w+) has the (\w+)$")


def final_answer(text: str) -> str:
    """Returns what a worked answer ends in: "85" of "37+48: 7+8=15, 3+4+1=8, 85.", "c a t" of "Spell cat: c a t."."""
    text = text.strip().rstrip(".!").rstrip()
    owner = OWNER.search(text)
    if owner and text.startswith("Owner"):
        return owner[1]
    if " is at the " in text or " has " in text:
        return text.rsplit(" ", 1)[1]
    return re.split(r"[:,] |\bis ", text)[-1].strip()


def is_right(reference: str, reply: str) -> bool:
    """Returns True if the reply ends in the answer of the reference.

    A number may be given in any words, small talk must be said exactly, a tale must follow the grammar and start
    with the person and the thing of the reference.
    """
    reply = reply.strip()
    if reference.startswith(FIXED_REPLIES):
        return reply == reference
    if tales.is_grammatical(reference):
        person, thing = tales.topic(reference)
        return tales.is_grammatical(reply) and tales.is_about(reply, person, thing)
    wanted = final_answer(reference)
    if wanted.isdigit():
        numbers = NUMBER.findall(reply)
        return bool(numbers) and numbers[-1] == wanted
    return final_answer(reply).lower() == wanted.lower()
