from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nanochat_cli.core.data import rows_view
from nanochat_cli.core.data.chats import read_chats
from nanochat_cli.core.data.packing import pack_conversations
from nanochat_cli.core.tokenizer.conversation import render
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def real() -> Tokenizer:
    return Tokenizer.train(["some words to learn from, hé ho"] * 20, 270)


def chat_file(path: Path, lines: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def some(count: int) -> list[dict[str, str]]:
    return [{"instruction": f"say {i} " + "x" * (7 * i % 30), "output": "ho " * (i % 9 + 1)} for i in range(count)]


def test_truncation_is_counted(tmp_path, real) -> None:
    lines = [{"instruction": "a", "output": "b"}] * 3 + [{"instruction": "q" * 100, "output": "b"}]
    path = chat_file(tmp_path / "a.jsonl", lines)
    view = rows_view.chats(path, real, 50, 4)
    found = view.summary
    assert (found.conversations, found.truncated_share, found.left_out) == (4, 0.25, 1)
    assert found.longest_tokens > 100 and 0 < found.trained_share < 1 and 0 < (found.padding_share or 0) < 1
    long = len(render(real, read_chats(path)[3]).ids)
    assert view.items[3].lost_tokens == long - 51 and view.items[3].row is None and found.lost_tokens == long
    assert rows_view.chats(path, real, 3, 1).summary.padding_share is None


def test_rows_are_those_of_training(tmp_path, real) -> None:
    path = chat_file(tmp_path / "a.jsonl", some(60))
    view = rows_view.chats(path, real, 100, 60)
    rendered = [render(real, conversation) for conversation in read_chats(path)]
    packed = pack_conversations(rendered, 101)
    assert view.summary.rows == packed.num_rows == len(view.rows)
    assert view.summary.padding_share == packed.padding_fraction
    for row in view.rows:
        ids, mask = packed.take(np.array([row.row]))
        shown = [view.items[number] for number in row.items]
        assert all(item.row == row.row for item in shown)
        assert [id for item in shown for id in item.ids] == ids[0, : row.tokens].tolist()
        assert [on for item in shown for on in item.mask] == mask[0, : row.tokens].astype(int).tolist()
        assert row.tokens + row.padding == 101
    assert sorted(number for row in view.rows for number in row.items) == list(range(60))


def test_what_is_held_out_is_in_no_row(tmp_path, real) -> None:
    path = chat_file(tmp_path / "a.jsonl", some(120))
    view = rows_view.chats(path, real, 200, 120)
    assert [item.number for item in view.items if item.held_out] == [49, 99] and view.summary.held_out == 2
    assert all((item.row is None) == item.held_out for item in view.items)


def test_a_sample_is_the_beginning(tmp_path, real, monkeypatch) -> None:
    path = chat_file(tmp_path / "a.jsonl", some(20))
    monkeypatch.setattr(rows_view, "MEASURED", 12)
    found = rows_view.chats(path, real, 200, 50)
    assert (found.summary.conversations, found.summary.sampled, len(found.items)) == (12, True, 12)
    picked = [item.number for item in rows_view.chats(path, real, 200, 3, seed=1).items]
    assert picked == sorted(set(picked)) and len(picked) == 3 and picked != [0, 1, 2]
    assert picked == [item.number for item in rows_view.chats(path, real, 200, 3, seed=1).items]


def test_mid_training_learns_every_token_but_the_first(tmp_path, real) -> None:
    path = chat_file(tmp_path / "a.jsonl", some(3))
    view = rows_view.chats(path, real, 200, 3, all_tokens=True)
    assert all(item.mask == [0] + [1] * (len(item.ids) - 1) for item in view.items)


@pytest.mark.parametrize("packing", ["whole", "crop"])
def test_rows_of_documents_say_where_each_begins(make_corpus, texts, tokenizer, packing) -> None:
    corpus = make_corpus(texts)
    documents = [tokenizer.encode(text) for group in corpus.documents("train") for text in group]
    view = rows_view.texts(corpus, "train", tokenizer, 64, 10**6, packing=packing)
    assert view.summary.documents == len(documents) and not view.summary.sampled
    assert len(view.rows) == view.summary.rows and len({row.row for row in view.rows}) == len(view.rows)
    shown = lost = padding = 0
    for row in view.rows:
        at = 0
        for piece in row.pieces:
            words = documents[piece.document][piece.first : piece.first + piece.tokens]
            assert row.ids[at : at + piece.tokens + 1] == [tokenizer.bos_id, *words]
            at += piece.tokens + 1
            shown, lost = shown + piece.tokens, lost + piece.cropped
        assert row.ids[at:] == [tokenizer.bos_id] * row.padding and row.mask == [0] + [1] * (at - 1) + [0] * row.padding
        padding += row.padding
    total = sum(map(len, documents))
    assert shown + lost == total == view.summary.tokens
    assert view.summary.cropped_share == pytest.approx(lost / total)
    assert view.summary.padding_share == pytest.approx(padding / (65 * len(view.rows)))
    assert (view.summary.cropped_share > 0) == (packing == "crop") and 0 < view.summary.cut_share < 1


def test_rows_follow_the_seed_and_a_sample_says_so(make_corpus, texts, tokenizer, monkeypatch) -> None:
    corpus = make_corpus(texts)
    first, again, other = (
        [row.row for row in rows_view.texts(corpus, "train", tokenizer, 64, 5, seed=seed).rows] for seed in (0, 0, 1)
    )
    assert first == again != other
    monkeypatch.setattr(rows_view, "MEASURED", 20)
    found = rows_view.texts(corpus, "train", tokenizer, 64, 1).summary
    assert found.sampled and found.documents == 20 and found.documents_in_split == corpus.num_documents("train")


def test_conversations_that_bring_their_own_validation_are_all_in_rows(tmp_path, real) -> None:
    found = read_chats(chat_file(tmp_path / "a.jsonl", some(120)))
    assert rows_view.conversations(found, real, 100, 5).summary.held_out == 2
    view = rows_view.conversations(found, real, 100, 120, hold=False)
    assert view.summary.held_out == 0 and all(item.row is not None and not item.held_out for item in view.items)
