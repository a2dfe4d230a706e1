"""Mixtures: how often each source is seen, what is held out, what is missing, and how long conversations are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from nanochat_cli.core import events, mixtures, paths, planning
from nanochat_cli.core.data.order import sample_rows
from nanochat_cli.core.errors import ConfigError, MissingArtifact
from nanochat_cli.core.mixtures import Wanted
from nanochat_cli.core.settings import MidTrainConfig, RlConfig, SftConfig
from nanochat_cli.core.tasks import _words
from nanochat_cli.core.tokenizer.conversation import render
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import data, mixture
from tests.core.tasks.conftest import arc_files, arc_row, mmlu_files, mmlu_row, put, smoltalk_row, sum_row
from tests.core.test_planning import saved_model


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return Tokenizer.train(["say what it is, in words and letters: a b c d e 0 1 2 3 4 5 6 7 8 9"] * 9, 290)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        "".join(
            json.dumps({"question": f"say {n}", "answer": "it is " * (1 + n % 3) + str(n)}) + "\n" for n in range(200)
        )
    )
    return path


@pytest.fixture
def everything(base_dir: Path) -> None:
    """All that the usual mixtures read, small."""
    put(
        "smoltalk",
        {"data/train-0.parquet": [smoltalk_row(n) for n in range(90)], "data/test-0.parquet": [smoltalk_row(99)]},
    )
    put("mmlu", mmlu_files([mmlu_row(n) for n in range(20)], [mmlu_row(50)], [mmlu_row(60)]))
    put("gsm8k", {"main/train-0.parquet": [sum_row(n) for n in range(60)], "main/test-0.parquet": [sum_row(99)]})
    lines = [json.dumps({"question": f"who are you {n}", "answer": "me"}) for n in range(10)]
    put("identity", {"identity_conversations.jsonl": "\n".join(lines)})
    files = {}
    for config in ("ARC-Easy", "ARC-Challenge"):
        files |= arc_files(config, [arc_row(n) for n in range(7)], [arc_row(20)], [arc_row(30)])
    put("arc", files)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("gsm8k", Wanted("gsm8k")),
        ("gsm8k:2", Wanted("gsm8k", 2.0)),
        ("smoltalk:0.5", Wanted("smoltalk", 0.5)),
        ("smoltalk=10000", Wanted("smoltalk", count=10_000)),
        ("smoltalk=10_000", Wanted("smoltalk", count=10_000)),
        ("a=b.jsonl", Wanted("a=b.jsonl")),
    ],
)
def test_sources_as_they_are_typed(text: str, want: Wanted) -> None:
    assert mixtures.parse(text) == want
    assert mixtures.parse(str(want)) == want


@pytest.mark.parametrize("text", ["gsm8k:0", "gsm8k:-1", "gsm8k=0", "gsm8k:nan"])
def test_weights_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        mixtures.parse(text)


def test_a_weight_is_how_often_or_which_share() -> None:
    twice = mixture.choose(40, Wanted("x", 2), 0)
    assert np.bincount(twice).tolist() == [2] * 40
    half = mixture.choose(40, Wanted("x", 0.5), 0)
    assert len(half) == len(set(half.tolist())) == 20 and half.max() < 40
    more = np.bincount(mixture.choose(40, Wanted("x", 2.5), 0), minlength=40)
    assert more.sum() == 100 and set(more.tolist()) == {2, 3}
    assert len(mixture.choose(40, Wanted("x", count=7), 0)) == 7
    assert np.bincount(mixture.choose(3, Wanted("x", count=7), 0)).tolist() in ([3, 2, 2], [2, 3, 2], [2, 2, 3])
    assert len(mixture.choose(3, Wanted("x", 0.001), 0)) == 1


def test_which_share_is_a_matter_of_the_seed_alone() -> None:
    first, same, other = (mixture.choose(1000, Wanted("x", 0.3), seed) for seed in (1, 1, 2))
    assert first.tolist() == same.tolist() != other.tolist()
    assert 200 < np.median(first) < 800  # not the first 300, as a slice would have it


def test_files_and_tasks_combine(mine: Path, small: Tokenizer) -> None:
    heard: list[events.Event] = []
    rows = data.chat_rows(
        [f"{mine}:2"], small, 400, events.Listener(heard.append), tasks=["simplespelling=30", "spellingbee=20"], seed=1
    )
    assert rows.facts["conversations"] == 2 * 196 + 30 + 20
    assert [fact["per_epoch"] for fact in rows.facts["sources"]] == [392, 30, 20]
    notes = [event["text"] for event in heard if event["kind"] == "note"]
    assert notes[0].startswith("mine.jsonl: 392 conversations an epoch, of 196; ")
    assert notes[1].startswith("simplespelling: 30 conversations an epoch, of 30; ")
    assert all("longer than the context of 400" in note for note in notes)
    assert rows.val is not None and rows.val.items is not None and len(rows.val.items) > 4


def test_what_is_asked_for_more_often_than_there_is_comes_again_but_made_questions_are_new(everything: None) -> None:
    stored, made = mixture.open_parts((), ["gsm8k=150", "simplespelling=150"], 0)
    assert len(stored.train) < 60 and len(stored.chosen) == 150
    assert len(made.train) == len(set(made.chosen.tolist())) == 150


def test_lengths_are_those_of_the_conversations(mine: Path, small: Tokenizer) -> None:
    rows = data.chat_rows([str(mine)], small, 16, events.NULL)
    (part,) = mixture.open_parts([str(mine)], (), 0)
    counts = sorted(len(render(small, part.train[i]).ids) for i in range(196))
    fact = rows.facts["sources"][0]
    assert fact["mean_tokens"] == pytest.approx(sum(counts) / 196, abs=0.06)
    assert fact["p95_tokens"] == counts[-(-196 * 95 // 100) - 1]
    assert (
        fact["longer_share"] == pytest.approx(sum(c > 17 for c in counts) / 196, abs=1e-3) and fact["longer_share"] > 0
    )
    assert rows.facts["truncated"] == sum(c > 17 for c in counts)
    seen = mixture.overview([str(mine)], (), small, 16, 0)
    assert seen.conversations == 196
    assert (
        seen.sources[0]["p95_tokens"] == fact["p95_tokens"] and seen.sources[0]["longer_share"] == fact["longer_share"]
    )
    assert seen.tokens == sum(min(c, 17) for c in counts)


def test_the_usual_mixtures_are_those_of_the_reference(everything: None, small: Tokenizer) -> None:
    saved_model()
    mid = planning.make("mid", MidTrainConfig()).config.chats
    sft = planning.make("sft", SftConfig()).config.chats
    assert not mid.data and not sft.data
    names = {stage: [mixtures.parse(text).name for text in chats.task] for stage, chats in (("mid", mid), ("sft", sft))}
    assert names["mid"] == ["smoltalk", "mmlu", "gsm8k", "identity", "simplespelling", "spellingbee"]
    assert names["sft"][:5] == ["arc_easy", "arc_challenge", "gsm8k", "smoltalk", "identity"]
    sizes = {part.wanted.name: len(part.chosen) for part in mixture.open_parts((), mid.task, 0)}
    assert (sizes["identity"], sizes["simplespelling"], sizes["spellingbee"]) == (20, 200_000, 80_000)
    rows = data.chat_rows((), small, 600, events.NULL, tasks=sft.task)
    per_epoch = {fact["task"]: fact["per_epoch"] for fact in rows.facts["sources"]}
    assert (per_epoch["simplespelling"], per_epoch["spellingbee"], per_epoch["arc_easy"]) == (300, 300, 7)
    assert per_epoch["smoltalk"] == 10_000  # of the 90 here, repeated: the real ones are 460,341
    assert planning.make("rl", RlConfig()).config.chats.task == sft.task  # what practice mixes in


def test_data_that_is_not_here_is_named_before_anything_starts(everything: None, base_dir: Path) -> None:
    saved_model()
    (paths.tasks_dir() / "arc" / "download.json").unlink()
    with pytest.raises(MissingArtifact, match="was not downloaded: arc") as caught:
        mixture.check(["gsm8k:2", "arc_easy", "arc_challenge=5"])
    assert caught.value.hint == "nanochat data download arc"
    with pytest.raises(MissingArtifact, match=r"no chats to train on: .* the usual mixture lacks: arc") as caught:
        planning.make("sft", SftConfig())
    assert "nanochat data download arc" in (caught.value.hint or "")
    chats = planning.make("sft", planning.with_values(SftConfig(), "chats", task=("gsm8k:2",))).config.chats
    assert chats.task == ("gsm8k:2",) and not chats.data


def test_an_unknown_task_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="unknown task: gsmk8"):
        mixture.check(["gsmk8:3"])


def test_a_file_as_a_task_keeps_its_place(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved_model()
    monkeypatch.chdir(mine.parent)
    cfg = planning.with_values(SftConfig(), "chats", task=("mine.jsonl:0.5",))
    (text,) = planning.make("sft", cfg).config.chats.task
    assert text == f"{mine}:0.5"
    (part,) = mixture.open_parts((), [text], 0)
    assert len(part.chosen) == 98 and len(part.val) == 4


def test_no_word_of_the_test_is_spelled_in_a_mixture() -> None:
    test = set(_words.of_split("test"))
    for part in mixture.open_parts((), ["simplespelling=500", "spellingbee=300"], 3):
        replies = [part.train[i].messages[-1].text for i in part.chosen.tolist()]
        spelled = {found[1] for reply in replies if (found := re.search(r"^([a-z]+):[a-z](?:,[a-z])+$", reply, re.M))}
        assert len(spelled) > 200 and not spelled & test


def test_a_resumed_mixture_must_be_the_same(mine: Path, small: Tokenizer) -> None:
    def fingerprint(*data_: str, tasks: tuple[str, ...] = (), seed: int = 0) -> str:
        return data.chat_rows(data_, small, 300, events.NULL, tasks=tasks, seed=seed).facts["fingerprint"]

    share = f"{mine}:0.5"
    assert fingerprint(str(mine)) == fingerprint(str(mine), seed=9), "whole files do not depend on the seed"
    assert fingerprint(share) == fingerprint(share) != fingerprint(share, seed=9)
    spelling = ("simplespelling=20",)
    assert fingerprint(tasks=spelling) == fingerprint(tasks=spelling) != fingerprint(tasks=spelling, seed=1)
    assert fingerprint(tasks=("simplespelling=21",)) != fingerprint(tasks=spelling)


def test_every_epoch_has_an_order_of_its_own() -> None:
    epochs = [sample_rows(50 * epoch, 50, 50, seed=4).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
