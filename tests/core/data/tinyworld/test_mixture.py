"""Documents and conversations as a whole: fixed for ever, free of held keys, short enough."""

import hashlib
import re
from functools import cache

from nanochat_cli.core.data.tinyworld import arithmetic, chat, chatter, document, facts, spelling
from nanochat_cli.core.data.tinyworld.asking import capital
from nanochat_cli.core.data.tinyworld.chatter import fillers
from nanochat_cli.core.data.tinyworld.items import is_held
from nanochat_cli.core.data.tinyworld.mixture import CHAT_WEIGHTS, DOCUMENT_WEIGHTS
from nanochat_cli.core.data.tinyworld.rng import Rng
from nanochat_cli.core.data.tinyworld.tales import topic_is_held
from nanochat_cli.core.data.tinyworld.wordings import KINDS, wordings

GOLDEN_DOCUMENTS = "be11c03aa11e7897aaf2b3e8fefd39bb25cecc65a3b5350000e2ae9516460a31"
GOLDEN_CHATS = {
    "mid": "1908d9562f7b0107727d64791329a470c42fd4077ce29085da4c8d59e2ab42d6",
    "sft": "2a4d7bac1a5e4a4337b3b793dc49c9d3107def29d50578cd6812421e5d1c191c",
}


def sha256(texts: list[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8")).hexdigest()


def flat(seed: int, i: int, stage: str) -> str:
    """A conversation as one text."""
    return "\n".join(f"{message.role}: {message.text}" for message in chat(seed, i, stage).messages)


@cache
def trained() -> str:
    """A large sample of everything a model is trained on."""
    parts = [document(0, i) for i in range(6000)]
    parts += [flat(0, i, stage) for stage in ("mid", "sft") for i in range(4000)]
    return "\n".join(parts)


def test_documents_are_golden() -> None:
    assert sha256([document(0, i) for i in range(1000)]) == GOLDEN_DOCUMENTS


def test_chats_are_golden() -> None:
    assert {stage: sha256([flat(0, i, stage) for i in range(1000)]) for stage in ("mid", "sft")} == GOLDEN_CHATS


def test_documents_do_not_depend_on_order_or_neighbours() -> None:
    forward = [document(3, i) for i in range(50)]
    assert [document(3, i) for i in reversed(range(50))] == forward[::-1]
    assert document(4, 0) != document(3, 0)


def test_text_is_plain_ascii_without_clumsy_articles() -> None:
    text = trained()
    assert text.isascii()
    article = r"\b(has|with|is|about|and|hear|need|of|such|finds|gets|sees) a (?!are\b)[aeio]\w\w"
    assert not re.search(article, text), re.search(rf".*{article}.*", text)


def test_no_held_sum_or_difference_is_worked() -> None:
    for a, op, b in re.findall(r"(?<![\d+])(\d+)([+-])(\d+):", trained()):
        held = arithmetic.sum_is_held if op == "+" else arithmetic.difference_is_held
        assert not held(int(a), int(b)), (a, op, b)


def test_no_held_word_is_put_to_its_held_use() -> None:
    text = trained()
    labels = ("Spell ", "Count . in ", "First letter of ", "Last letter of ", "Length of ")
    for kind, label in zip(spelling.KINDS, labels, strict=True):
        used = set(re.findall(rf"{label}(\w+):", text))
        assert used and not used & set(spelling.words_for(kind, "held")), kind


def test_no_held_number_topic_or_guest_is_met() -> None:
    text = trained()
    for where, n in re.findall(r"(After|Before) (\d+): \d+\.", text):
        assert not is_held("next", f"{n}{'+' if where == 'After' else '-'}")
    assert not any(re.search(rf"\b{name}\b", text) for name in fillers("g", "held"))
    for person, thing in re.findall(r"(?:about|with) (\w+) and a (\w+)", text):
        assert not topic_is_held(person, thing)


def test_held_facts_are_told_but_never_asked_for() -> None:
    text = trained()
    lower, told = text.lower(), 0
    for relation, x, y in facts.keys_for("held"):
        ways = wordings(f"fact-{relation.name}")
        statements = "\n".join(way.format(x=x, y=y).lower() for way in relation.statements)
        for wording in (*ways.whole, *ways.framed):
            asked = wording.format(x=x).lower().rstrip("?.")
            if asked in statements or asked == f"{relation.label} {x}".lower():
                continue  # a phrase that is also part of telling: "the color of a fox is", "color of a fox:"
            if asked in lower:
                assert not re.search(rf"\b{re.escape(asked)}\b", lower), asked
        told += any(capital(way.format(x=x, y=y)) in text for way in relation.statements)
    assert told > 0.4 * len(facts.keys_for("held"))


# What may stand in a slot: one letter; a word, but not "it", whose questions have wordings of their own.
SLOT = {"l": r"\w", "w": r"(?!it\b)\w+", "x": r"[^\W\d]+(?: [^\W\d]+)*", "a": r"\d+", "b": r"\d+", "c": r"\d+"}


def test_no_held_wording_is_used() -> None:
    text = trained().lower()
    for name in KINDS:
        if name == "echo":  # "say who has the cup" is no echo: test_wordings compares the wordings themselves
            continue
        slot = SLOT | ({"n": r"\d+"} if name.startswith("number") else {})
        for wording in wordings(name).held:
            parts = re.split(r"\{(\w)\}", wording.lower().rstrip("?."))
            pattern = "".join(slot.get(p, r"\w+") if at % 2 else re.escape(p) for at, p in enumerate(parts))
            assert not re.search(rf"(?m)(^|[.!?:] ){pattern}([.?]| \w+:|$)", text), wording


def test_weights_add_up_and_choice_is_open_only_in_fine_tuning() -> None:
    assert sum(DOCUMENT_WEIGHTS.values()) == 1000
    assert {stage: sum(w.values()) for stage, w in CHAT_WEIGHTS.items()} == {"mid": 1000, "sft": 1000}
    assert not any("The sum is" in document(0, i) for i in range(3000))
    sft = "\n".join(flat(0, i, "sft") for i in range(3000))
    assert sft.count("The sum is") > 50 and len(re.findall(r"assistant: \d+\+\d+\+\d+:", sft)) > 30


def test_conversations_are_valid_and_short() -> None:
    for stage in ("mid", "sft"):
        for i in range(500):
            conversation = chat(1, i, stage).validate()
            assert conversation.messages[-1].role == "assistant"
            assert sum(len(m.text) for m in conversation.messages) < 520


def test_any_fact_tells_held_facts_too_without_being_asked_for_them() -> None:
    held = [facts.bare(*key) for key in facts.keys_for("held")]
    told = [chatter.any_fact(Rng(i)) for i in range(600)]
    assert sum(fact in reply for fact in held for _, reply in told) > 200
    assert not any(x in said for said, _ in told for _, x, _ in facts.keys_for("held") if len(x) > 3)
