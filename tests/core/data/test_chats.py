from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

pytest.importorskip("nanochat_cli._bpe")
from nanochat_cli.core.data.chats import read_chats
from nanochat_cli.core.errors import DataError
from nanochat_cli.core.tokenizer.conversation import Conversation

OPENAI = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hé"},
        {"role": "assistant", "content": "ho"},
    ]
}
SHAREGPT = {
    "conversations": [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "hé"},
        {"from": "gpt", "value": "ho"},
    ]
}
TURN = Conversation.turn(user="hé", assistant="ho")


def put(path: Path, *items: object) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(items, indent=1), encoding="utf-8")
    else:
        raw = "".join(json.dumps(item) + "\n" for item in items).encode()
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz"])
def test_shapes_are_detected(tmp_path, name) -> None:
    items = [
        OPENAI,
        SHAREGPT,
        OPENAI["messages"],
        {"instruction": "hé", "input": "", "output": "ho"},
        {"instruction": "hé", "response": "ho"},
        {"prompt": "hé", "completion": "ho"},
        {"question": "hé", "answer": "ho"},
    ]
    found = read_chats(put(tmp_path / name, *items))
    assert found[0] == found[1] == found[2] and found[0].messages[0].role == "system"
    assert found[3:] == [TURN] * 4


def test_alpaca_input_follows_the_instruction(tmp_path) -> None:
    (found,) = read_chats(put(tmp_path / "a.json", {"instruction": "Add.", "input": "1, 2", "output": "3"}))
    assert found == Conversation.turn(user="Add.\n\n1, 2", assistant="3")


def test_parts_are_kept(tmp_path) -> None:
    parts = [{"type": "text", "text": "so"}, {"type": "python", "text": "1+1"}, {"type": "python_output", "text": "2"}]
    (found,) = read_chats(
        put(tmp_path / "a.jsonl", [{"role": "user", "content": "q"}, {"role": "assistant", "content": parts}])
    )
    assert [part.kind for part in found.messages[1].content] == ["text", "python", "python_output"]  # type: ignore[union-attr]
    assert Conversation.from_json(found.to_json()) == found


def test_limit(tmp_path) -> None:
    assert len(read_chats(put(tmp_path / "a.jsonl", *[OPENAI] * 9), limit=4)) == 4


def turns(*pairs: tuple[str, str]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": text} for role, text in pairs]}


BAD = [
    (turns(("user", "a"), ("user", "b")), r"a\.jsonl:2: turn 2 must be of the assistant: user"),
    (turns(("assistant", "a")), r"a\.jsonl:2: turn 1 must be of the user: assistant"),
    (turns(("user", "a"), ("assistant", "b"), ("system", "c")), r"a\.jsonl:2: turn 3 must be of the user: system"),
    (turns(("user", "a")), r"a\.jsonl:2: no turn of the assistant"),
    (turns(), r"a\.jsonl:2: .*without messages"),
    ({"conversations": [{"from": "alien", "value": "x"}]}, r"a\.jsonl:2: turn 1 is from an unknown speaker: alien"),
    ({"conversations": [{"from": "human"}]}, r"a\.jsonl:2: turn 1 has no text"),
    ({"conversations": "x"}, r"a\.jsonl:2: conversations is not a list"),
    ({"conversations": [{"from": "gpt", "value": "x"}]}, r"a\.jsonl:2: turn 1 must be of the user"),
    ({"instruction": "x", "output": None}, r"a\.jsonl:2: output is not text"),
    ({"instruction": " ", "output": "x"}, r"a\.jsonl:2: instruction is empty"),
    ({"instruction": "x", "input": 5, "output": "x"}, r"a\.jsonl:2: input is not text"),
    ({"text": "x"}, r"a\.jsonl:2: a conversation of unknown shape \(fields there: text\)"),
    ("just text", r"a\.jsonl:2: not a conversation"),
    ([{"role": "user", "content": "q"}], r"a\.jsonl:2: no turn of the assistant"),
    ([], r"a\.jsonl:2: .*without messages"),
]


@pytest.mark.parametrize(("item", "message"), BAD)
def test_a_bad_conversation_is_named_by_file_and_line(tmp_path, item, message) -> None:
    with pytest.raises(DataError, match=message):
        read_chats(put(tmp_path / "a.jsonl", OPENAI, item, OPENAI))


def test_a_bad_item_of_an_array_is_named_by_its_line(tmp_path) -> None:
    text = json.dumps([OPENAI, turns(("user", "a"), ("user", "b"))], indent=2)
    line = text.splitlines().index("  {", 3) + 1
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=rf"a\.json:{line}: turn 2"):
        read_chats(tmp_path / "a.json")


def test_bad_ones_may_be_skipped(tmp_path, log) -> None:
    path = put(tmp_path / "a.jsonl", OPENAI, turns(("user", "a"), ("user", "b")), OPENAI, {})
    assert len(read_chats(path, skip_bad=True, log=log)) == 2
    (warning,) = log.texts("warning")
    assert warning.startswith("2 conversations were left out") and "a.jsonl:2: turn 2" in warning


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "the file is empty"), ("[]", "no conversations in"), ("\n\n", "no conversations in"), ("[{", r"a\.json:1")],
)
def test_files_without_conversations(tmp_path, content, message) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_chats(tmp_path / "a.json")


def test_broken_line_and_missing_file(tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(OPENAI) + '\n{"messages": [\n')
    with pytest.raises(DataError, match=r"broken JSON: .*a\.jsonl:2"):
        read_chats(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="no such file"):
        read_chats(tmp_path / "absent.jsonl")


def test_real_chats(real_data) -> None:
    assert len(read_chats(real_data / "chat" / "gpteacher-roleplay.json")) == 1923
    assert len(read_chats(real_data / "chat" / "gpteacher-codegen.json", limit=100)) == 100
    assert len(read_chats(real_data / "gsm8k" / "test.jsonl", limit=10)) == 10
