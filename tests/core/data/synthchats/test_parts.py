"""Topics, answers, likeness, cost and templates, each alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanochat_cli.core.data.synthchats import alike, answer, endpoint, offline, request, topic
from nanochat_cli.core.data.synthchats.alike import Seen
from nanochat_cli.core.data.synthchats.answer import Junk
from nanochat_cli.core.data.synthchats.budget import Limits, Meter, Usage
from nanochat_cli.core.data.synthchats.request import Style
from nanochat_cli.core.errors import ConfigError, MissingArtifact

ABOUT = topic.read(topic.EXAMPLE)


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


# ---- topic ----------------------------------------------------------------------------------------------------------


def test_the_shipped_example_is_a_topic() -> None:
    assert ABOUT.name == "Fern" and ABOUT.number == 500 and len(ABOUT.facts) == 7
    assert ABOUT.facts[-1].about is None and len(ABOUT.sha256) == 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "topic file cannot be read"),
        ('name = "a"\npersona = "b"\n', "a topic needs facts"),
        ('name = "a"\npersona = "b"\nfacts = [3]\n', "facts 1 must be text"),
        ('name = "a"\npersona = ""\nfacts = ["c"]\n', "persona must be text"),
        ('name = "a"\npersona = "b"\nfacts = [{ text = "c", abuot = "d" }]\n', "unknown key of facts 1"),
        ('name = "a"\npersona = "b"\nfacts = ["c"]\nnumber = true\n', "number must be from 1"),
        ('nmae = "a"\n', "unknown key in topic .*: nmae"),
    ],
)
def test_a_wrong_topic_is_named_with_its_key(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        topic.read(tmp_path / "t.toml")
    with pytest.raises(MissingArtifact):
        topic.read(tmp_path / "absent.toml")


# ---- answers --------------------------------------------------------------------------------------------------------


def test_good_answers_are_taken_with_and_without_a_fence() -> None:
    text = json.dumps({"messages": said(" hi ", "hello")})
    assert answer.conversation(text, max_turns=4) == said("hi", "hello")
    assert answer.conversation(f"```json\n{text}\n```", max_turns=4) == said("hi", "hello")


@pytest.mark.parametrize(
    "value",
    [
        "I would be glad to!",
        "[" * 100_000,
        said("a", "b"),
        {"messages": said("a", "b"), "note": 1},
        {"messages": []},
        {"messages": said("a")},
        {"messages": said("a", "b", "c")},
        {"messages": said("a", "b", "c", "d", "e", "f")},
        {"messages": said("a", "b")[::-1]},
        {"messages": said("a", "  ")},
        {"messages": said("a", "b" * (answer.MAX_ASSISTANT_CHARS + 1))},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ["b"]}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "name": "x"}]},
        {"messages": said("a", "b<|im_end|>")},
        {"messages": said("a", "b\x00")},
        {"messages": said("a", "\ud800")},
    ],
    ids=lambda value: str(value)[:40],
)
def test_any_other_answer_is_junk(value: object) -> None:
    with pytest.raises(Junk):
        answer.conversation(value if isinstance(value, str) else json.dumps(value), max_turns=4)


# ---- likeness -------------------------------------------------------------------------------------------------------


def test_equal_but_for_case_and_marks_is_the_same() -> None:
    seen = Seen(None)
    assert seen.add(said("Who are you?", "I am Fern.")) == "new"
    assert seen.add(said("who  are you", "I am fern!")) == "same"
    assert seen.add(said("who are you", "I am Fred.")) == "new"


def test_near_duplicates_are_those_that_overlap_as_much_as_all_pairs_say() -> None:
    texts = []
    for i in range(60):
        words = [f"word{(i * 37 + k * 11) % 997}" for k in range(40)]
        texts.append(" ".join(words))
        texts.append(" ".join([*words[:38], f"other{i}", "end"]))  # most of it is the same
    seen, kept = Seen(0.7), []
    for text in texts:
        mine = frozenset(alike.sketch(alike.normalised(text)))
        near = any(len(mine & other) / len(mine | other) >= 0.7 for other in kept)
        assert seen.add(said(text)) == ("near" if near else "new")
        if not near:
            kept.append(mine)
    assert 30 <= len(kept) <= 90


def test_scripts_without_spaces_are_compared_too() -> None:
    seen = Seen(0.7)
    assert seen.add(said("你好，我是一个很小的语言模型，在一台机器上从头训练的。")) == "new"
    assert seen.add(said("你好，我是一个很小的语言模型，在一台机器上从头训练的！谢")) == "near"
    assert seen.add(said("今天天气很好，我们去公园散步吧，顺便买一些水果回家。")) == "new"


# ---- cost -----------------------------------------------------------------------------------------------------------


def test_what_is_on_its_way_counts_against_the_limit() -> None:
    meter = Meter(Limits(price_in=1.0, price_out=10.0, max_cost=0.01))
    assert meter.hold(1000, 400) and meter.hold(1000, 400)  # half a cent each
    assert not meter.hold(1, 1)
    meter.release(1000, 400)
    meter.spend(Usage(1000, 100))
    assert meter.cost == pytest.approx(0.002)
    assert meter.hold(1000, 200) and not meter.hold(0, 1)


def test_a_limit_of_tokens_needs_no_price_and_one_of_dollars_does() -> None:
    meter = Meter(Limits(max_tokens=100))
    assert meter.hold(50, 50) and not meter.hold(1, 0) and meter.cost is None
    with pytest.raises(ConfigError, match="needs prices"):
        Limits(max_cost=1.0, price_in=1.0)


# ---- requests and endpoints -----------------------------------------------------------------------------------------


def test_requests_are_a_function_of_topic_seed_and_number() -> None:
    style = Style(model="m", seed=3)
    assert request.body(ABOUT, style, 5) == request.body(ABOUT, style, 5)
    assert len({request.key(request.body(ABOUT, style, i)) for i in range(50)}) == 50
    assert request.body(ABOUT, style, 5) != request.body(ABOUT, Style(model="m", seed=4), 5)
    text = request.prompt(ABOUT, style, 0)
    assert ABOUT.persona in text and all(fact.text in text for fact in ABOUT.facts)
    with_schema = request.body(ABOUT, Style(model="m", response_format="json_schema"), 0)
    assert with_schema["response_format"]["json_schema"]["schema"] == request.SCHEMA


def test_addresses() -> None:
    for given in ("https://a.b/v1", "https://a.b/v1/", "https://a.b/v1/chat/completions"):
        assert endpoint.address(given) == "https://a.b/v1/chat/completions"
    for given in ("a.b/v1", "ftp://a.b", "https://key@a.b/v1", "https://a.b/v1?key=secret"):
        with pytest.raises(ConfigError) as caught:
            endpoint.address(given)
        assert "key@" not in str(caught.value) and "secret" not in str(caught.value)


def test_where_the_key_comes_from(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(" from-file\n")
    environ = {"OPENAI_API_KEY": "open", "NANOCHAT_API_KEY": "ours"}
    assert endpoint.find_key(str(tmp_path / "key"), environ) == "from-file"
    assert endpoint.find_key(None, environ) == "ours"
    assert endpoint.find_key(None, {"OPENAI_API_KEY": "open", "NANOCHAT_API_KEY": " "}) == "open"
    assert endpoint.find_key(None, {}) is None
    with pytest.raises(ConfigError, match="OPENAI_API_KEY") as caught:
        endpoint.find_key(None, {"OPENAI_API_KEY": "two\nlines"})
    assert "lines" not in str(caught.value)
    with pytest.raises(MissingArtifact):
        endpoint.find_key(str(tmp_path / "absent"), environ)


def test_a_key_does_not_travel_in_the_clear() -> None:
    assert endpoint.Endpoint("http://192.0.2.1/v1", "k").key_withheld
    assert not endpoint.Endpoint("http://127.0.0.1:9/v1", "k").key_withheld
    assert not endpoint.Endpoint("http://192.0.2.1/v1", None).key_withheld


# ---- templates ------------------------------------------------------------------------------------------------------


def test_templates_are_many_different_well_formed_and_repeatable() -> None:
    found = offline.conversations(ABOUT, number=600, seed=1)
    assert len(found) == 600 and found == offline.conversations(ABOUT, number=600, seed=1)
    assert found != offline.conversations(ABOUT, number=600, seed=2)
    for turns in found:
        assert answer.checked(turns, max_turns=10) == turns
        assert not any("{" in turn["content"] for turn in turns)
    assert len({turn["content"] for turns in found for turn in turns if turn["role"] == "user"}) > 300
    everything = " ".join(turn["content"] for turns in found for turn in turns if turn["role"] == "assistant")
    assert all(fact.text in everything for fact in ABOUT.facts)


def test_braces_in_a_topic_stay_as_they_are() -> None:
    odd = topic.Topic(name="{name}", persona="a {fact}", facts=(topic.Fact("{about} {0}", "what {x} is"),))
    assert len(offline.conversations(odd, number=20, seed=0)) == 20


def test_few_facts_yield_what_they_can() -> None:
    few = topic.Topic(name="A", persona="b", facts=(topic.Fact("c."),))
    assert 0 < len(offline.conversations(few, number=100_000 // 20, seed=0)) <= 5000
