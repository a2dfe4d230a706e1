"""Tokens on the terminal with what the model is trained on set apart: in colour, or in brackets where there is none."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nanochat_cli.output import Output

if TYPE_CHECKING:
    from nanochat_cli.core.tokenizer.tokenizer import Tokenizer


def show_text(tok: "Tokenizer", ids: Sequence[int], mask: Sequence[int], out: Output) -> None:
    """Write the text of some tokens; `mask` is 1 where the model is trained on them."""
    from nanochat_cli.core.data import preview

    marks = in_colour(out)
    out.spans(
        [
            ((text if marks else f"[{text}]") if trained else text, "stage" if trained else "note")
            for text, trained in preview.stretches(tok, ids, mask)
        ]
    )


def show_ids(ids: Sequence[int], mask: Sequence[int], out: Output) -> None:
    """Write token ids; a star follows those that the model is trained on."""
    out.text(" ".join(f"{id}*" if trained else str(id) for id, trained in zip(ids, mask, strict=True)))


def in_colour(out: Output) -> bool:
    """Whether results are seen on a terminal, so that colours tell what brackets tell elsewhere."""
    return out.on_terminal(out.out)


def told(ids: Sequence[int], mask: Sequence[int]) -> str:
    """How many tokens there are and how many of them are trained on."""
    return f"{len(ids):,} tokens, {sum(mask):,} trained on"
