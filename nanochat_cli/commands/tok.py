"""`nanochat tok train | eval | encode | decode | inspect | export`: make tokenizers and see what they do."""

import contextlib
import io
import itertools
import shlex
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from nanochat_cli.commands import _tok_views
from nanochat_cli.commands._options import App, DryRunOpt, leaf, options_from
from nanochat_cli.core import events
from nanochat_cli.core.errors import ConfigError, DataError
from nanochat_cli.core.settings import TokTrainConfig
from nanochat_cli.output import Output

if TYPE_CHECKING:
    from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

app = App("Tokenizers: train, measure, encode, decode, inspect, export.")
_WORDS = 1 << 16


class Format(StrEnum):
    """Formats of other libraries."""

    tiktoken = "tiktoken"
    hf = "hf"


class Backend(StrEnum):
    """What encodes."""

    native = "native"
    tiktoken = "tiktoken"


ResumeOpt = Annotated[
    bool, typer.Option("--resume", help="Go on with a training that was interrupted.", rich_help_panel="Common")
]
ForceOpt = Annotated[
    bool, typer.Option("--force", help="Replace a tokenizer of the same name.", rich_help_panel="Common")
]
NameOpt = Annotated[
    str | None, typer.Option("--tokenizer", "-t", help="Tokenizer, by name or folder (automatic: the newest).")
]
TextFieldOpt = Annotated[str, typer.Option("--text-field", help="JSON field or column that holds the text.")]
JsonlOpt = Annotated[bool, typer.Option("--jsonl", help="Lines of JSON in and out, a document each.")]
FileOpt = Annotated[Path | None, typer.Option("--file", "-f", help="Read the text from this file.")]


@app.command("train")
@leaf
@options_from(TokTrainConfig, "tok train")
def train(
    cfg: TokTrainConfig, out: Output, resume: ResumeOpt = False, force: ForceOpt = False, dry_run: DryRunOpt = False
) -> None:
    """Learn a vocabulary from text: which byte sequences are common enough to be tokens."""
    from nanochat_cli.core.data import vocabulary

    plan = vocabulary.plan_of(cfg.tok, force=force)
    if dry_run:
        out.result(plan.facts(), title=f"would train the tokenizer {plan.name}")
        return
    try:
        with out.watch() as watcher:
            facts = vocabulary.train(plan, resume=resume, log=events.Listener(watcher.on_event))
    except KeyboardInterrupt:
        if not plan.unfinished().exists:
            raise
        again = [word for word in sys.argv[1:] if word != "--resume"]
        out.note("stopped; what was done is saved and resumable")
        out.hint(shlex.join(["nanochat", *again, "--resume"]))
        out.result({"tokenizer": plan.name, "stopped": True})
        return
    out.result(facts)
    if plan.corpora:
        out.hint(f"nanochat train base --data {plan.corpora[0].name} --tokenizer {plan.name}")
    else:
        out.hint(f"nanochat data add FILES…, then nanochat train base --tokenizer {plan.name}")


@app.command("encode")
@leaf
def encode(
    out: Output,
    text: Annotated[str, typer.Argument(help="Text to encode; - reads standard input, of any length.")] = "-",
    file: FileOpt = None,
    tokenizer: NameOpt = None,
    bos: Annotated[bool, typer.Option("--bos", help="Start with the token that opens every document.")] = False,
    jsonl: JsonlOpt = False,
    text_field: TextFieldOpt = "text",
    backend: Annotated[Backend, typer.Option("--backend", help="What encodes; the ids are the same.")] = Backend.native,
) -> None:
    """Turn text into token ids: all of it, or with --jsonl one line of JSON for each line of JSON."""
    from nanochat_cli.core.tokenizer import streaming

    if file is not None and text != "-":
        raise ConfigError("a text and a file: only one of them can be encoded", hint="leave out one of them")
    tok = _open(tokenizer, backend)
    if jsonl:
        with _source(text, file, out) as (source, name):
            for line in streaming.encode_lines(tok, source, name, text_field, bos):
                out.out.write(line + "\n")
        return
    opening = [tok.bos_id] if bos else []
    if out.json_mode or (file is None and text != "-"):
        given = _text(text, file, out)
        ids = opening + tok.encode(given)
        if out.json_mode:
            out.json({"ids": ids, "num_tokens": len(ids), "num_bytes": len(given.encode())})
        else:
            out.text(" ".join(map(str, ids)))
        return
    with _source(text, file, out) as (source, name):
        blank = ""
        for ids in itertools.chain([opening] if opening else [], streaming.encode_stream(tok, source, name)):
            out.out.write(blank + " ".join(map(str, ids)))
            blank = " "
    out.text("")


@app.command("decode")
@leaf
def decode(
    out: Output,
    ids: Annotated[
        list[str] | None, typer.Argument(help="Token ids, apart by blanks or commas; - reads standard input.")
    ] = None,
    tokenizer: NameOpt = None,
    jsonl: JsonlOpt = False,
) -> None:
    """Turn token ids back into text: all of them, or with --jsonl one line of JSON for each line of JSON."""
    from nanochat_cli.core.tokenizer import streaming

    tok = _open(tokenizer)
    given = ids not in (None, [], ["-"])
    with _source("-", None, out) if not given else contextlib.nullcontext((None, "")) as (source, name):
        if jsonl:
            if source is None:
                raise ConfigError("--jsonl reads standard input", hint="leave out the ids")
            for line in streaming.decode_lines(tok, source, name):
                out.out.write(line + "\n")
            return
        words = streaming.words_of(source, name) if source else iter(" ".join(ids or []).replace(",", " ").split())
        if out.json_mode:
            tokens = list(streaming.decode_words(tok, words))
            raw = b"".join(tokens)
            out.json({"text": raw.decode(errors="replace"), "num_tokens": len(tokens), "num_bytes": len(raw)})
            return
        size = None if out.on_terminal(out.out) else _WORDS  # a terminal gets whole characters and one line end
        while some := list(itertools.islice(words, size)):
            out.raw(b"".join(streaming.decode_words(tok, some)))


@app.command("inspect")
@leaf
def inspect(
    out: Output,
    text: Annotated[str | None, typer.Argument(help="Text to cut into tokens; - reads standard input.")] = None,
    file: FileOpt = None,
    chat: Annotated[
        Path | None,
        typer.Option("--chat", help="Show a conversation of this file, with what the model is trained to write."),
    ] = None,
    number: Annotated[int, typer.Option("--number", "-n", help="Which conversation, from 1.", min=1)] = 1,
    tokenizer: NameOpt = None,
) -> None:
    """Show a tokenizer's facts, or the pieces and tokens of a text, or a conversation with its loss mask."""
    from nanochat_cli.core.tokenizer import library

    if sum(given is not None for given in (text, file, chat)) > 1:
        raise ConfigError("a text, a file and a chat file: only one of them can be shown", hint="leave out the others")
    tok = _open(tokenizer)
    if chat is not None:
        _tok_views.show_chat(tok, chat, number, out)
    elif text is not None or file is not None:
        _tok_views.show_tokens(tok, _text(text or "-", file, out), out)
    else:
        out.result({"tokenizer": str(library.find(tokenizer)), **_tok_views.facts(tok)})


@app.command("eval")
@leaf
def evaluate(
    out: Output,
    files: Annotated[list[Path] | None, typer.Argument(help="Texts of your own to measure, too.")] = None,
    tokenizer: NameOpt = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", help="Corpus whose validation text is measured, repeatable (automatic: the tokenizer's)."
        ),
    ] = None,
    text_field: TextFieldOpt = "text",
    against: Annotated[
        list[str] | None,
        typer.Option("--against", help="Encoding of tiktoken to compare with; repeatable; none: no other."),
    ] = None,
) -> None:
    """Measure how many bytes a token stands for, in English, code, CJK, maths and texts of your own."""
    from nanochat_cli.core.data import corpus
    from nanochat_cli.core.tokenizer import compare, library

    folder = library.find(tokenizer)
    tok = library.open(str(folder))
    own = data if data is not None else [name for name in corpus.names() if name == folder.name]
    texts = compare.samples() | _tok_views.own_texts(own, files or [], text_field)
    peers = {} if against == ["none"] else compare.peers(against or compare.PEERS, out.log())
    counters = {"ours": compare.count_ours(tok)} | {name: count for name, (_, count) in peers.items()}
    sizes = {"ours": tok.vocab_size} | {name: size for name, (size, _) in peers.items()}
    found = compare.measure(texts, counters)
    if out.json_mode:
        rows = [
            {
                "text": row.text,
                "bytes": row.num_bytes,
                "tokens": row.num_tokens,
                "bytes_per_token": {name: row.bytes_per_token(name) for name in counters},
            }
            for row in found
        ]
        out.json({"hash": tok.hash, "vocab_size": sizes, "texts": rows})
        return
    out.table(
        ("text", "bytes", *(f"{name} ({sizes[name]:,})" for name in counters)),
        [(row.text, row.num_bytes, *(f"{row.bytes_per_token(name):6.2f}" for name in counters)) for row in found],
        title="bytes per token, more is better (tokens in the vocabulary)",
    )


@app.command("export")
@leaf
def export(
    out: Output,
    form: Annotated[Format, typer.Option("--format", help="tiktoken: ranks and a pattern; hf: tokenizer.json.")],
    into: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the files (automatic: NAME-FORMAT).")
    ] = None,
    tokenizer: NameOpt = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files of an earlier export.", rich_help_panel="Common")
    ] = False,
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
    out.result({path.name: str(path) for path in exporter.write(tok, form.value, folder, replace=force)})


def _open(name: str | None, backend: Backend = Backend.native) -> "Tokenizer":
    from nanochat_cli.core.tokenizer import library

    tok = library.open(name)
    if backend is Backend.native:
        return tok
    from nanochat_cli.core.tokenizer import twin

    return twin.on_tiktoken(tok)


def _text(text: str, file: Path | None, out: Output) -> str:
    """The whole text of an argument, a file or standard input."""
    if file is None and text != "-":
        return text
    with _source(text, file, out) as (source, name):
        try:
            return source.read().decode()
        except UnicodeDecodeError as problem:
            raise DataError(f"{name} is not UTF-8 at byte {problem.start}") from None


@contextlib.contextmanager
def _source(text: str, file: Path | None, out: Output) -> Iterator[tuple[BinaryIO, str]]:
    """Bytes of a file, of standard input or of an argument, and what to call them."""
    if file is not None:
        from nanochat_cli.core.data.textfile import check_given, open_bytes

        check_given(file)
        with open_bytes(file) as source:
            yield source, str(file)
    elif text != "-":
        yield io.BytesIO(text.encode(errors="surrogateescape")), "the text"
    else:
        if sys.stdin.isatty():
            out.note("reading from the terminal; Ctrl-D ends the text")
        yield sys.stdin.buffer, "standard input"
