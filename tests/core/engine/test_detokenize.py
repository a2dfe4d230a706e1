"""Characters are never shown half, whatever the cuts between tokens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nanochat_cli.core.engine.detokenize import Detokenizer


class Bytes:
    """A tokenizer of single bytes, with one special token."""

    bos_id = 256

    def id_to_bytes(self, id: int) -> bytes:
        return bytes([id])


def pieces(ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(Bytes())  # type: ignore[arg-type]
    return [*map(detokenizer.push, ids), detokenizer.flush()]


@given(st.text())
def test_text_comes_back_whole(text: str) -> None:
    data = text.encode(errors="replace")
    shown = pieces(list(data))
    assert "".join(shown) == data.decode()
    assert "\ufffd" not in "".join(shown) or "\ufffd" in data.decode()


def test_a_character_appears_with_its_last_byte() -> None:
    assert pieces(list("é€😀".encode())) == ["", "é", "", "", "€", "", "", "", "😀", ""]


def test_special_tokens_are_left_out_and_broken_bytes_are_marked() -> None:
    assert pieces([65, 256, 66]) == ["A", "", "B", ""]
    assert "".join(pieces([0xE2, 0x82])) == "\ufffd"
    assert "".join(pieces([0xFF, 65])) == "\ufffdA"
