"""The ways to ask: many, different, and the held ones never among the trained ones."""

import string

import pytest

from nanochat_cli.core.data.tinyworld.asking import CLOSERS, OPENERS, capital, dressed, filled, question
from nanochat_cli.core.data.tinyworld.chatter import ABOUT_IT, AGAIN, FIRST, RECALL, TALKS
from nanochat_cli.core.data.tinyworld.facts import RELATIONS
from nanochat_cli.core.data.tinyworld.items import Item
from nanochat_cli.core.data.tinyworld.rng import Rng
from nanochat_cli.core.data.tinyworld.wordings import FACTS, KINDS, bare, wordings


def plain(text: str) -> str:
    """The wording without case and end punctuation, as a careless typist gives it."""
    return text.lower().rstrip("?.! ")


def slots(text: str) -> set[str]:
    """Names of the slots in a wording that the item fills; p and s are anyone and anything."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name} - {"p", "s"}


@pytest.mark.parametrize("name", KINDS)
def test_enough_wordings_and_none_in_both(name: str) -> None:
    ways = wordings(name)
    trained, held = (*ways.whole, *ways.framed), ways.held
    assert len(ways.whole) >= 3 and len(set(trained)) == len(trained) > 80
    assert len(set(held)) == len(held) > len(trained) // 9
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


@pytest.mark.parametrize("kind", FIRST)
def test_first_turns_use_trained_wordings(kind: str) -> None:
    ways = wordings(kind)
    assert {bare(w) for w in FIRST[kind]} <= {bare(w) for w in (*ways.whole, *ways.framed)}


def test_every_relation_has_wordings() -> None:
    assert {f"fact-{relation.name}" for relation in RELATIONS} == set(FACTS)


def test_held_wordings_are_given_plainly_and_trained_ones_vary() -> None:
    item = Item(family="spell", wording="spell", slots={"w": "cat"}, worked="", answer="c a t")
    rng = Rng(1)
    held = {question(rng, item, "held") for _ in range(2000)}
    assert held == {capital(w.format(w="cat")) for w in wordings("spell").held}
    assert len({question(rng, item) for _ in range(500)}) > 150


def test_a_sum_names_its_numbers_in_the_order_of_the_question() -> None:
    ways = wordings("add")
    assert all(w.index("{a}") < w.index("{b}") for w in (*ways.whole, *ways.framed, *ways.held))


@pytest.mark.parametrize("kind", KINDS)
def test_no_trained_wording_with_all_that_may_be_put_around_it_says_a_held_one(kind: str) -> None:
    ways = wordings(kind)
    said = "\n".join(
        bare(opener + wording + closer)
        for wording in (*ways.whole, *ways.framed)
        for opener in ("", *OPENERS)
        for closer in ("", *CLOSERS)
    )
    assert not [wording for wording in ways.held if bare(wording) in said]


@pytest.mark.parametrize("kind", ["spell", "count", "word-length"])
def test_marks_around_words_and_letters_add_nothing_that_bare_does_not_take_away(kind: str) -> None:
    ways, rng = wordings(kind), Rng(2)
    for wording in (*ways.whole, *ways.framed):
        marked = {name: str(value) for name, value in dressed(rng, wording, {"w": "{w}", "l": "{l}"}).items()}
        assert bare(filled(rng, wording, marked)).replace("{l}s", "{l}") == bare(wording)


def test_words_and_letters_are_marked_as_people_mark_them() -> None:
    item = Item(family="count", wording="count", slots={"w": "carrot", "l": "r"}, worked="", answer="2")
    rng = Rng(3)
    asked = " ".join(question(rng, item) for _ in range(500))
    assert all(form in asked for form in ('"carrot"', "the word carrot", '"r"', "r's", "letter r"))
    assert "word the word" not in asked and "letter letter" not in asked
