"""`nanochat data show`: documents and conversations as they are, or as a stage trains on them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nanochat_cli.commands import _mask_view
from nanochat_cli.commands._options import leaf
from nanochat_cli.core.data import corpus as corpora
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.errors import DataError, MissingArtifact
from nanochat_cli.output import Output

if TYPE_CHECKING:
    from nanochat_cli.core.data.preview import Item
    from nanochat_cli.core.data.rows_view import ChatSummary, ChatsView, ChatView, TextRowView, TextView
    from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

Stage = Literal["base", "mid", "sft"]


@leaf
def show(
    out: Output,
    name: Annotated[
        str | None, typer.Argument(help="Corpus, chat file or task (automatic: the newest corpus).")
    ] = None,
    stage: Annotated[
        Stage | None,
        typer.Option("--stage", help="Show what this stage trains on: packed documents (base) or chats (mid, sft)."),
    ] = None,
    number: Annotated[int, typer.Option("--number", "-n", help="How many.", min=1)] = 3,
    val: Annotated[bool, typer.Option("--val", help="Documents kept for validation.")] = False,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", "-t", help="Tokenizer (automatic with --stage: the one of the corpus, or newest)."),
    ] = None,
    max_seq_len: Annotated[int, typer.Option(help="Context in tokens that rows are made for.", min=8)] = 256,
    packing: Annotated[
        Literal["whole", "crop"], typer.Option("--packing", help="How documents fill rows, as in train base.")
    ] = "whole",
    seed: Annotated[
        int | None,
        typer.Option(
            help="Order of rows, as of training with this seed (automatic: 0); chats are picked by it, not the first.",
            min=0,
        ),
    ] = None,
    ids: Annotated[bool, typer.Option("--ids", help="Show token ids, too, with a star where trained on.")] = False,
) -> None:
    """Show a few documents or conversations; with --stage, as it trains on them: tokens, targets, rows, what is cut.

    What the model is trained to write is in colour, or in brackets where there are no colours.
    """
    is_file = name is not None and Path(name).is_file()
    if name is not None and stage in ("mid", "sft") and not is_file and _is_task(name):
        _show_task(name, _tokenizer(tokenizer, stage, None, out), max_seq_len, number, seed, stage, ids, out)
        return
    corpus = None if is_file else Corpus.open(name) if name else corpora.newest()
    if is_file and stage == "base":
        raise DataError(f"--stage base shows a corpus, not a file: {name}", hint=f"nanochat data add {name}")
    tok = _tokenizer(tokenizer, stage, corpus, out)
    ids = ids or out.verbose
    split = "val" if val else "train"
    if corpus is not None and stage in (None, "base"):
        if tok is not None and stage == "base":
            from nanochat_cli.core.data import rows_view

            _show_texts(
                rows_view.texts(corpus, split, tok, max_seq_len, number, seed=seed or 0, packing=packing), tok, ids, out
            )
        else:
            from nanochat_cli.core.data import preview

            _show_items(preview.documents(corpus, split, number, tok), tok, ids, out)
        return
    path = Path(name or "") if corpus is None else corpus.chats(stage or "sft")
    _show_chat_file(path, tok, max_seq_len, number, seed, stage == "mid", ids, out)


def _tokenizer(name: str | None, stage: Stage | None, corpus: Corpus | None, out: Output) -> "Tokenizer | None":
    if name is None and stage is None:
        return None
    from nanochat_cli.core.tokenizer import library

    if name is not None:
        return library.open(name)
    try:
        own = corpus.name if corpus is not None and corpus.name in library.names() else None
        return library.open(own)
    except MissingArtifact as problem:
        out.note("no tokenizer yet: words only")
        out.hint(problem.hint or "nanochat tok train")
        return None


# ---- plain -----------------------------------------------------------------------------------------------------------


def _show_items(items: "list[Item]", tok: "Tokenizer | None", ids: bool, out: Output) -> None:
    if out.json_mode:
        out.json({"items": [item.to_json() for item in items], "summary": None})
        return
    for item in items:
        out.spans([(f"--- {item.number:,}", "head")])
        if tok is not None:
            _show_tokens(tok, item.ids or [], item.mask or [], ids, out)
        elif item.text is not None:
            out.text(item.text)
        else:
            _show_messages(item.messages or [], out)
        out.text("")


def _show_messages(messages: list[dict], out: Output) -> None:
    for message in messages:
        content = message["content"]
        text = content if isinstance(content, str) else "".join(f"<{p['type']}>{p['text']}" for p in content)
        out.spans([(f"{message['role']}: ", "hint"), (text, None)])


def _show_tokens(tok: "Tokenizer", ids: list[int], mask: list[int], with_ids: bool, out: Output) -> None:
    _mask_view.show_text(tok, ids, mask, out)
    if with_ids:
        _mask_view.show_ids(ids, mask, out)
    out.spans([(_mask_view.told(ids, mask), "note")])


# ---- as a stage has it -----------------------------------------------------------------------------------------------


def _show_chat_file(
    path: Path,
    tok: "Tokenizer | None",
    max_seq_len: int,
    number: int,
    seed: int | None,
    all_tokens: bool,
    ids: bool,
    out: Output,
) -> None:
    if tok is None:
        from nanochat_cli.core.data import preview

        _show_items(preview.chats(path, number), None, ids, out)
        return
    from nanochat_cli.core.data import rows_view

    _show_view(rows_view.chats(path, tok, max_seq_len, number, seed=seed, all_tokens=all_tokens), tok, ids, out)


def _is_task(name: str) -> bool:
    """Whether a name is a task's and no corpus's."""
    from nanochat_cli.core import paths
    from nanochat_cli.core.tasks.base import names

    return name in names() and not (paths.corpus_dir(name) / "manifest.json").is_file()


def _show_task(
    name: str,
    tok: "Tokenizer | None",
    max_seq_len: int,
    number: int,
    seed: int | None,
    stage: Stage,
    ids: bool,
    out: Output,
) -> None:
    """Show what a task gives to train on; its own validation split is not among it."""
    from nanochat_cli.core.data import preview, rows_view
    from nanochat_cli.core.tasks.base import open_task

    task = open_task(name, split="train", seed=seed or 0)
    found = [task.example(i) for i in range(min(len(task), rows_view.MEASURED))]
    if tok is None:
        items = [preview.Item(i, None, talk.to_json()["messages"], None, None) for i, talk in enumerate(found[:number])]
        _show_items(items, None, ids, out)
        return
    sampled, whole = len(task) > len(found), stage == "mid"
    view = rows_view.conversations(
        found, tok, max_seq_len, number, sampled=sampled, seed=seed, all_tokens=whole, hold=False
    )
    _show_view(view, tok, ids, out)


def _show_view(view: "ChatsView", tok: "Tokenizer", ids: bool, out: Output) -> None:
    if out.json_mode:
        out.json(view.to_json())
        return
    for item in view.items:
        out.spans([(f"--- {item.number:,}", "head"), (f"  {_where(item)}", "note")])
        _show_tokens(tok, item.ids, item.mask, ids, out)
        if item.lost_tokens:
            out.spans([(f"cut at the context: {item.lost_tokens:,} more tokens are lost", "warning")])
        out.text("")
    _show_rows(view, out)
    out.result(vars(view.summary), title=_chats_title(view.summary))


def _where(item: "ChatView") -> str:
    if item.held_out:
        return "held out for validation"
    return "left out: nothing to learn before the cut" if item.row is None else f"in row {item.row:,}"


def _show_rows(view: "ChatsView", out: Output) -> None:
    rows = [(row.row, ", ".join(f"{n:,}" for n in row.items), row.tokens, row.padding) for row in view.rows]
    if rows:
        out.table(("row", "conversations in it", "tokens", "padding"), rows, title="rows that these are in")
        out.text("")


def _chats_title(summary: "ChatSummary") -> str:
    if summary.sampled:
        return f"measured on the first {summary.conversations:,} chats of the file, a sample"
    return "all chats of the file in this context"


def _show_texts(view: "TextView", tok: "Tokenizer", ids: bool, out: Output) -> None:
    if out.json_mode:
        out.json(view.to_json())
        return
    for row in view.rows:
        out.spans([(f"--- row {row.row:,}", "head"), (f"  {_in_row(row)}", "note")])
        _show_tokens(tok, row.ids, row.mask, ids, out)
        out.text("")
    summary = view.summary
    share = f"the first {summary.documents:,} of {summary.documents_in_split:,} documents, a sample"
    out.result(vars(summary), title=f"measured on {share if summary.sampled else 'all documents of the split'}")


def _in_row(row: "TextRowView") -> str:
    """The documents of a row, where in them it begins, and what is lost: `document 7 from token 256 · padding 3`."""
    told = []
    for piece in row.pieces:
        begins = f" from token {piece.first:,}" if piece.first else ""
        lost = f" ({piece.cropped:,} tokens cropped)" if piece.cropped else ""
        told.append(f"document {piece.document:,}{begins}{lost}")
    return " · ".join([*told, f"padding {row.padding:,}"])
