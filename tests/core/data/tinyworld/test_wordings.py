"""The ways to ask: many, different, and the held ones never among the trained ones."""

import string

import pytest

from nanochat_cli.core.data.tinyworld.asking import question
from nanochat_cli.core.data.tinyworld.chatter import ABOUT_IT, AGAIN, RECALL, TALKS
from nanochat_cli.core.data.tinyworld.facts import RELATIONS
from nanochat_cli.core.data.tinyworld.items import Item
from nanochat_cli.core.data.tinyworld.rng import Rng
from nanochat_cli.core.data.tinyworld.wordings import FACTS, WORDINGS


def plain(text: str) -> str:
    """The wording without case and end punctuation, as a careless typist gives it."""
    return text.lower().rstrip("?.! ")


def slots(text: str) -> set[str]:
    """Names of the slots in a wording that the item fills; p and s are anyone and anything."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name} - {"p", "s"}


@pytest.mark.parametrize("name", WORDINGS)
def test_enough_wordings_and_none_in_both(name: str) -> None:
    trained, held = WORDINGS[name]
    assert len(set(trained)) == len(trained) >= (8 if name in FACTS else 12)
    assert len(set(held)) == len(held) >= 3
    assert not {plain(w) for w in trained} & {plain(w) for w in held}
    assert {frozenset(slots(w)) for w in (*trained, *held)} == {frozenset(slots(trained[0]))}


def test_small_talk_wordings() -> None:
    pairs = [(t.trained, t.held) for t in TALKS] + [RECALL, AGAIN, *ABOUT_IT.values()]
    for trained, held in pairs:
        assert len(held) >= 2
        assert not {plain(w) for w in trained} & {plain(w) for w in held}
    said = [plain(w) for t in TALKS for w in (*t.trained, *t.held)]
    assert all(plain(w) not in {plain(x) for t in TALKS for x in t.trained} for t in TALKS for w in t.held)
    assert len(said) > 100


def test_every_relation_has_wordings() -> None:
    assert {f"fact-{relation.name}" for relation in RELATIONS} == set(FACTS)


def test_held_wordings_are_given_plainly_and_trained_ones_vary() -> None:
    item = Item(family="add-2", wording="add", slots={"a": 12, "b": 34}, worked="", answer="46")
    rng = Rng(1)
    held = {question(rng, item, "held") for _ in range(200)}
    assert held == {w.format(a=12, b=34) for w in WORDINGS["add"][1]}
    assert len({question(rng, item) for _ in range(500)}) > 60
