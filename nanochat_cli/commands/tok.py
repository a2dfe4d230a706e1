"""`nanochat tok train | encode | decode | inspect`: make tokenizers and see what they do."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanochat_cli.commands._options import App, DryRunOpt, leaf, options_from
from nanochat_cli.core import events
from nanochat_cli.core.errors import DataError
from nanochat_cli.core.settings import TokTrainConfig
from nanochat_cli.output import Output

if TYPE_CHECKING:
    from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

app = App("Tokenizers: train, encode, decode, inspect.")


class Format(StrEnum):
    """Formats of other libraries."""

    tiktoken = "tiktoken"
    hf = "hf"


ForceOpt = Annotated[
    bool, typer.Option("--force", help="Replace a tokenizer of the same name.", rich_help_panel="Common")
]
NameOpt = Annotated[
    str | None, typer.Option("--tokenizer", "-t", help="Tokenizer, by name or folder (automatic: the newest).")
]
FileOpt = Annotated[Path | None, typer.Option("--file", "-f", help="Read the text from this file.")]


@app.command("train")
@leaf
@options_from(TokTrainConfig, "tok train")
def train(cfg: TokTrainConfig, out: Output, force: ForceOpt = False, dry_run: DryRunOpt = False) -> None:
    """Learn a vocabulary from text: which byte sequences are common enough to be tokens."""
    from nanochat_cli.core.data import vocabulary

    tok = cfg.tok
    plan = vocabulary.make_plan(
        tok.input,
        name=tok.name,
        vocab=tok.vocab,
        pattern=tok.pattern,
        max_chars=tok.max_chars,
        doc_cap=tok.doc_cap,
        force=force,
    )
    if dry_run:
        out.result(plan.facts(), title=f"would train the tokenizer {plan.name}")
        return
    with out.watch() as watcher:
        facts = vocabulary.train(plan, log=events.Listener(watcher.on_event))
    out.result(facts)
    data = f"--data {plan.corpora[0].name} " if len(plan.corpora) == 1 else ""
    out.hint(f"nanochat train base {data}--tokenizer {plan.name}")


@app.command("encode")
@leaf
def encode(
    out: Output,
    text: Annotated[str, typer.Argument(help="Text to encode; - reads standard input.")] = "-",
    file: FileOpt = None,
    tokenizer: NameOpt = None,
    bos: Annotated[bool, typer.Option("--bos", help="Start with the token that opens every document.")] = False,
) -> None:
    """Turn text into token ids."""
    tok = _open(tokenizer)
    given = _text(text, file, out)
    ids = ([tok.bos_id] if bos else []) + tok.encode(given)
    if out.json_mode:
        out.json({"ids": ids, "num_tokens": len(ids), "num_bytes": len(given.encode())})
    else:
        out.text(" ".join(map(str, ids)))


@app.command("decode")
@leaf
def decode(
    out: Output,
    ids: Annotated[
        list[str] | None, typer.Argument(help="Token ids, apart by blanks or commas; - reads standard input.")
    ] = None,
    tokenizer: NameOpt = None,
) -> None:
    """Turn token ids back into text."""
    tok = _open(tokenizer)
    words = (_stdin(out) if ids in (None, [], ["-"]) else " ".join(ids or [])).replace(",", " ").split()
    raw = tok.decode_bytes(_token_id(word) for word in words)
    if out.json_mode:
        out.json({"text": raw.decode(errors="replace"), "num_tokens": len(words), "num_bytes": len(raw)})
    else:
        out.raw(raw)


@app.command("inspect")
@leaf
def inspect(
    out: Output,
    text: Annotated[str | None, typer.Argument(help="Text to cut into tokens; - reads standard input.")] = None,
    file: FileOpt = None,
    chats: Annotated[
        Path | None, typer.Option("--chats", help="Show a conversation of this file as the model is trained on it.")
    ] = None,
    number: Annotated[int, typer.Option("--number", "-n", help="Which conversation, from 1.", min=1)] = 1,
    tokenizer: NameOpt = None,
) -> None:
    """Show a tokenizer's facts, or each token of a text or conversation."""
    tok = _open(tokenizer)
    if chats is not None:
        _show_chat(tok, chats, number, out)
    elif text is not None or file is not None:
        ids = tok.encode(_text(text or "-", file, out))
        rows = [(i, str(id), len(tok.id_to_bytes(id)), _visible(tok, id)) for i, id in enumerate(ids)]
        out.table(("position", "id", "bytes", "token"), rows)
    else:
        out.result(_facts(tok))


@app.command("export")
@leaf
def export(
    out: Output,
    form: Annotated[Format, typer.Option("--format", help="tiktoken: ranks and a pattern; hf: tokenizer.json.")],
    into: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the files (automatic: NAME-FORMAT).")
    ] = None,
    tokenizer: NameOpt = None,
    dry_run: DryRunOpt = False,
) -> None:
    """Write a tokenizer for tiktoken or for Hugging Face tokenizers: the same ids for every text."""
    from nanochat_cli.core.tokenizer import export as exporter
    from nanochat_cli.core.tokenizer import library

    folder = into or Path(f"{library.find(tokenizer).name}-{form.value}")
    tok = _open(tokenizer)
    if dry_run:
        out.result({"folder": str(folder), "format": form.value}, title="would write")
        return
    out.result({path.name: str(path) for path in exporter.write(tok, form.value, folder)})


def _facts(tok: "Tokenizer") -> dict[str, object]:
    lengths = tok.token_bytes()
    longest = [_visible(tok, int(id)) for id in lengths.argsort(kind="stable")[::-1][:8]]
    return {
        "vocab_size": tok.vocab_size,
        "pattern": tok.pattern.name,
        "special_tokens": tok.vocab_size - int((lengths > 0).sum()),
        "mean_bytes_of_a_token": float(lengths[lengths > 0].mean()),
        "longest_tokens": longest,
        "longest": " ".join(longest),
        **{f"training_{key}": value for key, value in tok.training.items()},
        "hash": tok.hash,
    }


def _show_chat(tok: "Tokenizer", path: Path, number: int, out: Output) -> None:
    from nanochat_cli.core.data.chats import read_chats
    from nanochat_cli.core.tokenizer.conversation import render

    found = read_chats(path, number)
    if len(found) < number:
        raise DataError(f"only {len(found)} conversations in {path}: {number}")
    rendered = render(tok, found[number - 1])
    rows = [
        (i, str(id), _visible(tok, id), bool(trained))
        for i, (id, trained) in enumerate(zip(rendered.ids, rendered.mask, strict=True))
    ]
    out.table(("position", "id", "token", "trained"), rows)


def _visible(tok: "Tokenizer", id: int) -> str:
    """A token as one printable word: blanks and control characters escaped, bytes that are no UTF-8 in hex."""
    raw = tok.id_to_bytes(id)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in raw)
    return "".join(c if c.isprintable() and c != " " else "␣" if c == " " else ascii(c)[1:-1] for c in text)


def _open(name: str | None) -> "Tokenizer":
    from nanochat_cli.core.tokenizer import library

    return library.open(name)


def _text(text: str, file: Path | None, out: Output) -> str:
    if file is not None:
        from nanochat_cli.core.data.textfile import check_given, read_text

        check_given(file)
        return read_text(file)
    return _stdin(out) if text == "-" else text


def _stdin(out: Output) -> str:
    if sys.stdin.isatty():
        out.note("reading from the terminal; Ctrl-D ends the text")
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as problem:
        raise DataError(f"standard input is not UTF-8 at byte {problem.start}") from None


def _token_id(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise DataError(f"not a token id: {word}", hint="ids are whole numbers, apart by blanks or commas") from None
