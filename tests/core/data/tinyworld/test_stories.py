"""The answers to story questions, checked by reading the sentences again."""

import re

import pytest

from nanochat_cli.core.data.tinyworld import stories
from nanochat_cli.core.data.tinyworld.lists import in_order, shuffled_pairs
from nanochat_cli.core.data.tinyworld.rng import Rng


def read(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """(who holds each thing, where each person is) after the sentences of a story."""
    holder: dict[str, str] = {}
    place: dict[str, str] = {}
    for sentence in re.split(r"\. ", text.rstrip(".")):
        if match := re.search(r"(\w+) has a (\w+)$", sentence):
            holder[match[2]] = match[1]
        elif match := re.search(r"[Tt]he (\w+) belongs to (\w+)$", sentence):
            holder[match[1]] = match[2]
        elif match := re.search(r"(\w+) gives the (\w+) to (\w+)$", sentence):
            assert holder[match[2]] == match[1], sentence
            holder[match[2]] = match[3]
        elif match := re.search(r"(\w+) (?:is at|goes to) the (\w+)$", sentence):
            place[match[1]] = match[2]
    return holder, place


@pytest.mark.parametrize("split", ["train", "held"])
def test_answers_agree_with_the_sentences(split: str) -> None:
    rng, seen = Rng(2), set()
    for _ in range(600):
        text, items, _ = stories.tell(rng, split)
        holder, place = read(text)
        for item in items:
            seen.add(item.family)
            if item.wording == "who":
                assert item.answer == holder[item.slots["o"]]
            elif item.wording == "where":
                assert item.answer == place[item.slots["n"]]
            else:
                held = [thing for thing, name in holder.items() if name == item.slots["n"]]
                assert [item.answer] == (held or ["nothing"])
    assert seen == set(stories.FAMILIES)


def test_training_stories_never_hold_a_held_pair() -> None:
    rng = Rng(6)
    for _ in range(1500):
        text, _, _ = stories.tell(rng, "train")
        pairs = re.findall(r"(\w+) has a (\w+)", text) + re.findall(r"(\w+) (?:is at|goes to) the (\w+)", text)
        pairs += [(b, a) for a, b in re.findall(r"he (\w+) (?:belongs )?to (\w+)", text)]
        assert not any(stories.pair_is_held(*pair) for pair in pairs)


def test_held_questions_are_about_held_pairs() -> None:
    rng = Rng(7)
    for family in stories.FAMILIES:
        item = stories.question_of(rng, "held", family)
        assert item.family == family
        if item.wording == "who":
            assert stories.pair_is_held(item.answer, str(item.slots["o"]))


def test_the_shortcut_is_right_only_without_events() -> None:
    rng = Rng(8)
    still = [stories.question_of(rng, "held", "story/who") for _ in range(30)]
    moved = [stories.question_of(rng, "held", "story/who-moved") for _ in range(30)]
    assert all(item.shortcut == item.answer for item in still)
    assert not any(item.shortcut == item.answer for item in moved)


def test_the_ledger_says_what_the_sentences_say() -> None:
    rng = Rng(11)
    for _ in range(300):
        text, _, world = stories.tell(rng, "train")
        holder, place = read(text)
        label, _, pairs = stories.ledger(rng, world).rstrip(".").partition(": ")
        said = dict(pair.split() for pair in pairs.split(", ")) if pairs else {}
        if label == "Things":
            owners = [owner for owner in holder.values() if list(holder.values()).count(owner) == 1]
            assert {person: thing for person, thing in said.items() if thing != "nothing"} == {
                owner: thing for thing, owner in holder.items() if owner in owners
            }
            assert not {person for person, thing in said.items() if thing == "nothing"} & set(holder.values())
        elif label != "First owners":
            assert said == {"Owners": holder, "Places": place, "": {}}[label]


def test_a_roll_says_the_same_again_in_every_line() -> None:
    rng = Rng(13)
    for _ in range(200):
        text, *lines = stories.roll(rng).split("\n")
        holder, place = read(text)
        assert len(lines) >= 2
        for line in lines:
            label, _, pairs = line.rstrip(".").partition(": ")
            said = dict(pair.split() for pair in pairs.split(", "))
            if label in ("Owners", "First owners"):
                assert said == holder
            elif label == "Things":
                assert {thing: person for person, thing in said.items() if thing != "nothing"} == holder
            else:
                assert (label, said) == ("Places", place)


def test_lists_are_said_again_in_order() -> None:
    rng = Rng(14)
    for _ in range(100):
        first, *again = in_order(rng).rstrip(".").split(". ")
        assert [line.removeprefix("Again: ") for line in again] == [first.removeprefix("List: ")] * 2


def test_pairs_are_said_again_in_other_orders() -> None:
    rng = Rng(12)
    for _ in range(100):
        first, *again = [line.rstrip(".").partition(": ")[2] for line in shuffled_pairs(rng).split("\n")]
        assert again and all(sorted(line.split(", ")) == sorted(first.split(", ")) for line in again)
