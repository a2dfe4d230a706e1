"""Each skill's worked answers are true, checked by other means than those that made them."""

import re

import pytest

from nanochat_cli.core.data.tinyworld import arithmetic, choice, facts, spelling, tales
from nanochat_cli.core.data.tinyworld.rng import Rng
from nanochat_cli.core.data.tinyworld.words import ADJECTIVES, NAMES, OBJECTS, PLACES, SPELLING_WORDS


def steps_are_true(worked: str) -> bool:
    """True if every "7+8=15" in the text holds."""
    for left, right in re.findall(r"([\d+-]+)=(\d+)", worked):
        value = sum(int(term) for term in re.findall(r"[+-]?\d+", left))
        if value != int(right):
            return False
    return True


@pytest.mark.parametrize("digits", [1, 2, 3])
@pytest.mark.parametrize("split", ["train", "held"])
def test_sums_and_differences_show_true_steps(digits: int, split: str) -> None:
    rng = Rng(digits)
    for _ in range(300):
        if split == "held" and digits == 1:
            break
        plus, minus = arithmetic.add(rng, split, digits), arithmetic.subtract(rng, split, digits)
        assert int(plus.answer) == plus.slots["a"] + plus.slots["b"]
        assert int(minus.answer) == minus.slots["a"] - minus.slots["b"] >= 0
        assert steps_are_true(plus.worked) and steps_are_true(minus.worked), (plus.worked, minus.worked)
        assert plus.worked.endswith(f" {plus.answer}.") and minus.worked.endswith(f" {minus.answer}.")


def test_borrow_over_a_zero() -> None:
    assert arithmetic.columns_of_difference(502, 147) == "12-7=5, 10-4-1=5, 5-1-1=3, 355"


def test_three_numbers_use_no_sum_kept_for_testing() -> None:
    rng = Rng(5)
    for _ in range(300):
        item = choice.three_numbers(rng, "train", direct=False)
        assert steps_are_true(item.worked)
        for a, b in re.findall(r"(?<=[: ])(\d+)\+(\d+):", item.worked)[1:]:
            assert not arithmetic.sum_is_held(int(a), int(b))


def test_spelling_answers() -> None:
    rng = Rng(3)
    for _ in range(300):
        counted = spelling.count_item(rng, "train")
        word, letter = str(counted.slots["w"]), str(counted.slots["l"])
        assert int(counted.answer) == sum(c == letter for c in word)
        assert spelling.item(rng, "train", "spell").worked.replace(" ", "").endswith(".")
    assert spelling.running_count("egg") == "e1 g2 g3"
    assert spelling.running_count("egg", "g") == "e0 g1 g2"


def test_letter_counts_are_balanced() -> None:
    rng = Rng(9)
    for split in ("train", "held"):
        answers = [spelling.count_item(rng, split).answer for _ in range(2000)]
        assert max(answers.count(a) for a in set(answers)) < 0.38 * len(answers)


def test_word_lists_are_as_promised() -> None:
    assert len(SPELLING_WORDS) >= 200 and all(3 <= len(w) <= 8 for w in SPELLING_WORDS)
    assert len(NAMES) >= 16 and len(OBJECTS) >= 30 and len(PLACES) >= 12
    assert len(facts.KEYS) >= 150 and len(facts.keys_for("held")) >= 50
    for words in (NAMES, OBJECTS, PLACES, ADJECTIVES, SPELLING_WORDS):
        assert len(set(words)) == len(words)
    assert not any(word[0] in "aeiou" for word in (*OBJECTS, *ADJECTIVES))
    assert not any(f"a {x}".startswith(("a a", "a e", "a i", "a o", "a u")) for x in OBJECTS)


def test_facts_have_one_answer_each() -> None:
    asked = [(relation.name, x) for relation, x, _ in facts.KEYS]
    assert len(set(asked)) == len(asked)


def test_a_tale_follows_its_grammar_and_a_broken_one_does_not() -> None:
    rng = Rng(4)
    for _ in range(200):
        item = tales.item(rng, "train")
        person, thing = item.answer.split()
        assert tales.is_grammatical(item.worked) and tales.is_about(item.worked, person, thing)
        sentences = item.worked.split(". ")
        assert not tales.is_grammatical(". ".join(sentences[::-1]))
        assert not tales.is_grammatical(item.worked[:-1])
        assert not tales.is_grammatical(item.worked.replace(f" {thing}", " dragon", 1))
        other = next(name for name in NAMES if name not in item.worked)
        assert not tales.is_about(item.worked, other, thing)


def test_differences_with_close_digits_are_common() -> None:
    rng = Rng(21)
    close = total = 0
    for digits in (2, 3):
        for _ in range(500):
            a, b = (rng.between(10 ** (digits - 1), 10**digits - 1) for _ in range(2))
            found = str(arithmetic.with_close_digits(rng, a, b, digits)).zfill(digits)
            assert len(found) == digits
            close += sum(abs(int(x) - int(y)) <= 1 for x, y in zip(str(a), found, strict=True))
            total += digits
    assert close > 0.6 * total


def test_letters_of_words_that_mean_nothing_are_practised() -> None:
    rng = Rng(22)
    for kind in spelling.KINDS:
        words = {spelling.item(rng, "train", kind).slots["w"] for _ in range(1000)}
        assert len(words - set(SPELLING_WORDS)) > 150
        assert not words & set(spelling.words_for(kind, "held"))
        assert {spelling.item(rng, "held", kind).slots["w"] for _ in range(300)} <= set(
            spelling.words_for(kind, "held")
        )
