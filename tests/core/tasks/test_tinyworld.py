"""The tinyworld task: every reference passes its own grader, wrong replies do not, baselines are as computed."""

import pytest

from nanochat_cli.core.data.tinyworld import grading, stories
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.tasks.base import open_for_selection, open_task
from nanochat_cli.core.tasks.tinyworld import FAMILIES, TinyWorld


@pytest.mark.parametrize("split", TinyWorld.splits)
def test_references_are_right_and_another_familys_are_wrong(split: str) -> None:
    task = TinyWorld(split=split, size=6 * len(FAMILIES))
    for i in range(len(task)):
        conversation = task.example(i).validate()
        assert task.grade(conversation, conversation.messages[-1].text)
        assert task.reward(conversation, conversation.messages[-1].text) == 1.0
        other = task.example((i + 3) % len(task)).messages[-1].text
        assert not task.grade(conversation, other) or grading.final_answer(other) == grading.final_answer(
            conversation.messages[-1].text
        )
        assert not task.grade(conversation, "")


def test_families_are_interleaved_and_equal() -> None:
    task = TinyWorld(size=2 * len(FAMILIES))
    assert [task.family(i) for i in range(len(task))] == [*FAMILIES, *FAMILIES]
    assert len(TinyWorld()) == 200 * len(FAMILIES)
    assert {task.family(i) for i in range(len(TinyWorld(families=("add-2",), size=5)))} >= {"add-2"}


def test_an_item_does_not_depend_on_the_size_but_on_the_seed() -> None:
    few, many, other = TinyWorld(size=50), TinyWorld(), TinyWorld(seed=1)
    assert [few.example(i) for i in range(50)] == [many.example(i) for i in range(50)]
    assert [few.example(i) for i in range(50)] != [other.example(i) for i in range(50)]


CASES = {
    "37+48: 7+8=15, 3+4+1=8, 85.": (("85", "It is 85.", "37+48=85"), ("85 or 86", "8 5", "", "185")),
    "Spell cat: c a t.": (("c a t", "Spell cat: c a t."), ("c a", "Spell cat: c a t s.", "cat")),
    "Count r in carrot: c0 a0 r1 r2 o2 t2, 2.": (("2", "c0 r2, 2."), ("c0 a0 r1 r2 o2 t2, 3.",)),
    "Color of grass: green.": (("green", "Color of grass: green."), ("Color of grass: red.", "greenish")),
    "Owner of the lamp: Ben, Sara. Sara has the lamp.": (
        ("Owner of the lamp: Sara. Sara has the lamp.", "Owner of the lamp: Sara."),
        ("Owner of the lamp: Ben. Ben has the lamp.", "Owner of the lamp: Ben."),
    ),
    "Things of Anna: has spoon, gives spoon. Anna has nothing.": (
        ("Things of Anna: has cup. Anna has nothing.",),
        ("Things of Anna: has spoon. Anna has the spoon.",),
    ),
    "Places of Max: park, barn. Max is at the barn.": (
        ("Max is at the barn.",),
        ("Places of Max: park. Max is at the park.",),
    ),
    "Hello, Ruby! Nice to meet you.": (
        ("Hello, Ruby! Nice to meet you.",),
        ("Hello, Rubi! Nice to meet you.", "Hello"),
    ),
}


@pytest.mark.parametrize("reference", CASES)
def test_grading(reference: str) -> None:
    right, wrong = CASES[reference]
    assert [grading.is_right(reference, reply) for reply in right] == [True] * len(right)
    assert [grading.is_right(reference, reply) for reply in wrong] == [False] * len(wrong)


def test_the_story_shortcut_fails_where_the_thing_moved() -> None:
    task = TinyWorld(families=("story/who-moved",), size=60)
    assert not any(task.shortcut(i) == task.label(i) for i in range(60))
    task = TinyWorld(families=stories.FAMILIES, size=280)
    right = sum(task.shortcut(i) == task.label(i) for i in range(280))
    assert 0.4 < right / 280 < 0.65


def test_only_stories_have_a_shortcut_and_tales_no_label() -> None:
    task = TinyWorld(size=len(FAMILIES))
    for i, family in enumerate(FAMILIES):
        assert (task.shortcut(i) is not None) == family.startswith("story/")
        assert (task.label(i) is None) == (family == "tell")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="poems"):
        TinyWorld(families=("poems",))
    with pytest.raises(ConfigError, match="test"):
        TinyWorld(split="test")
    assert isinstance(open_task("tinyworld", split="held", size=3), TinyWorld)


def asked_about(split: str, seed: int = 0) -> set[tuple[object, ...]]:
    """What the questions of a split are about, by their worked answer: numbers in any order, stories by the answer."""
    found: set[tuple[object, ...]] = set()
    task = TinyWorld(split=split, seed=seed, size=60 * len(FAMILIES))
    for i in range(len(task)):
        family, exchange = task.family(i), task.exchange(i)
        if family in ("choice", "add-2", "add-3"):
            found.add((family, *sorted(exchange.turns[-1][1].split(":")[0].split("+"))))
        elif family in ("spell", "sub-2", "facts", "echo"):
            found.add((family, exchange.turns[-1][1]))
    return found


def test_what_one_chooses_by_is_neither_trained_nor_reported() -> None:
    chosen_by = asked_about("val") | asked_about("val", seed=1)
    assert len(chosen_by) > 200 and {family for family, *_ in chosen_by} >= {"choice", "spell", "facts"}
    for split in ("train", *TinyWorld.held_out):
        assert not chosen_by & asked_about(split), split
    assert open_for_selection("tinyworld").split == "val"
