"""`nanochat data synth | add | list | verify | show`: corpora, from making one to looking into it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nanochat_cli.commands._options import App, DryRunOpt, leaf, options_from
from nanochat_cli.core import events, paths
from nanochat_cli.core.data import corpus as corpora
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.settings import AddConfig, SynthConfig
from nanochat_cli.output import Output, size

if TYPE_CHECKING:
    from nanochat_cli.core.data.preview import Item
    from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

app = App("Corpora: make, add, list, verify, show.")

ForceOpt = Annotated[bool, typer.Option("--force", help="Replace a corpus of the same name.", rich_help_panel="Common")]


@app.command("synth")
@leaf
@options_from(SynthConfig, "data synth")
def synth(cfg: SynthConfig, out: Output, force: ForceOpt = False, dry_run: DryRunOpt = False) -> None:
    """Generate a small made-up world, offline: stories, sums, spellings, facts, and chats about them."""
    from nanochat_cli.core.data import shards
    from nanochat_cli.core.data import synth as generator

    want = cfg.synth
    shards.check_free(want.name, force)
    if dry_run:
        out.result(
            {"name": want.name, "documents": want.documents, "chats": want.chats, "seed": want.seed},
            title=f"would generate a corpus in {paths.corpus_dir(want.name)}",
        )
        return
    with out.watch() as watcher:
        made = generator.write(
            want.name,
            documents=want.documents,
            chats=want.chats,
            seed=want.seed,
            val_fraction=want.val_fraction,
            force=force,
            log=events.Listener(watcher.on_event),
        )
    _show_made(made, out)


@app.command("add")
@leaf
@options_from(AddConfig, "data add")
def add(
    cfg: AddConfig,
    out: Output,
    files: Annotated[
        list[str],
        typer.Argument(help="Files or folders: txt, md, jsonl, json, csv, tsv, parquet; also .gz and .zst."),
    ],
    force: ForceOpt = False,
    dry_run: DryRunOpt = False,
) -> None:
    """Make a corpus of your own text."""
    from nanochat_cli.core.data import importer, shards

    want = cfg.add
    name = want.name or importer.default_name(files[0])
    shards.check_free(name, force)
    if dry_run:
        found = importer.find(files)
        out.table(("file", "kind", "bytes"), [(str(p), importer.kind(p), p.stat().st_size) for p in found.files])
        out.note(f"would make corpus {name} in {paths.corpus_dir(name)}")
        return
    with out.watch() as watcher:
        made = importer.add_files(
            files,
            name,
            text_field=want.text_field,
            cut=want.split,
            val_fraction=want.val_fraction,
            seed=want.seed,
            force=force,
            log=events.Listener(watcher.on_event),
        )
    _show_made(made, out)


def _show_made(made: Corpus, out: Output) -> None:
    out.result({**_facts(made), "folder": str(made.dir)})
    out.hint(f"nanochat data show {made.name}, then nanochat tok train --input {made.name}")


def _facts(corpus: Corpus) -> dict[str, Any]:
    return {
        "name": corpus.name,
        "train_documents": corpus.num_documents("train"),
        "val_documents": corpus.num_documents("val"),
        "train_chars": corpus.num_chars("train"),
        "val_chars": corpus.num_chars("val"),
        "chats": {Path(file.name).stem: file.conversations for file in corpus.chat_files},
        "fingerprint": corpus.fingerprint,
    }


@app.command("list")
@leaf
def list_(out: Output) -> None:
    """List the corpora on this machine."""
    found = corpora.list_corpora()
    if out.json_mode:
        out.json([_facts(c) if isinstance(c, Corpus) else {"name": name, "problem": str(c)} for name, c in found])
        return
    if not found:
        out.note("no corpus yet")
        out.hint("nanochat data synth, or nanochat data add FILES… --name NAME")
        return
    columns = ("name", "documents", "for validation", "text", "chats", "made")
    out.table(columns, [_row(name, corpus) for name, corpus in found])


def _row(name: str, corpus: Corpus | Exception) -> tuple[object, ...]:
    if isinstance(corpus, Exception):
        return name, "damaged: its manifest cannot be read", "", "", "", ""
    chats = ", ".join(f"{Path(file.name).stem} {file.conversations:,}" for file in corpus.chat_files)
    text = size(corpus.text_bytes("train") + corpus.text_bytes("val"))
    made = str(corpus.manifest.get("created", ""))[:10]
    return name, corpus.num_documents("train"), corpus.num_documents("val"), text, chats or "-", made


@app.command("verify")
@leaf
def verify(out: Output, name: Annotated[str, typer.Argument(help="Corpus, by name or folder.")]) -> None:
    """Rehash every file of a corpus, its token shards included, and name those that are damaged."""
    from nanochat_cli.core.data import tokens

    corpus = Corpus.open(name)
    with out.watch() as watcher:
        log = events.Listener(watcher.on_event)
        checks = corpus.check(log) + tokens.check(corpus, log)
    bad = [check for check in checks if check.problem]
    if out.json_mode or out.verbose:
        out.table(("file", "problem"), [(check.file, check.problem) for check in checks])
    if bad:
        raise corpora.damaged(corpus, bad)
    if not out.json_mode:
        out.text(f"corpus {corpus.name}: {len(checks)} files, all as they were written")


@app.command("show")
@leaf
def show(
    out: Output,
    name: Annotated[str | None, typer.Argument(help="Corpus, or a chat file (automatic: the newest corpus).")] = None,
    stage: Annotated[
        Literal["base", "mid", "sft"], typer.Option("--stage", help="Documents (base) or conversations (mid, sft).")
    ] = "base",
    number: Annotated[int, typer.Option("--number", "-n", help="How many.", min=1)] = 3,
    val: Annotated[bool, typer.Option("--val", help="Documents kept for validation.")] = False,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", "-t", help="Show the tokens of this tokenizer, and what is trained on.")
    ] = None,
    max_seq_len: Annotated[int, typer.Option(help="Context that the chats are measured against.", min=8)] = 256,
) -> None:
    """Show what a stage trains on: a few documents or conversations; with a tokenizer, their tokens too."""
    from nanochat_cli.core.data import preview

    tok = _open_tokenizer(tokenizer)
    is_file = name is not None and Path(name).is_file()
    path = Path(name) if name is not None and is_file else None
    summary = None
    if path is None and stage == "base":
        corpus = Corpus.open(name) if name else corpora.newest()
        items = preview.documents(corpus, "val" if val else "train", number, tok)
    else:
        path = path or (Corpus.open(name) if name else corpora.newest()).chats(stage)
        items = preview.chats(path, number, tok)
        summary = preview.summary(path, tok, max_seq_len) if tok else None
    if out.json_mode:
        out.json({"items": [item.to_json() for item in items], "summary": vars(summary) if summary else None})
        return
    for item in items:
        _show_item(item, tok, out)
    if summary:
        out.result(vars(summary), title="these chats in this context")


def _open_tokenizer(name: str | None) -> "Tokenizer | None":
    if name is None:
        return None
    from nanochat_cli.core.tokenizer import library

    return library.open(name)


def _show_item(item: "Item", tok: "Tokenizer | None", out: Output) -> None:
    from nanochat_cli.core.data import preview

    out.spans([(f"--- {item.number:,}", "head")])
    if tok is not None:
        marks = out.on_terminal(out.out)  # without colours, brackets show what is trained on
        parts = [
            ((t if marks else f"[{t}]") if trained else t, "stage" if trained else "note")
            for t, trained in preview.spans(tok, item)
        ]
        out.spans(parts)
        if out.verbose:
            out.text(" ".join(f"{id}*" if trained else str(id) for id, trained in zip(item.ids or [], item.mask or [])))
        out.spans([(f"{len(item.ids or [])} tokens, {sum(item.mask or [])} trained on", "note")])
    elif item.text is not None:
        out.text(item.text)
    for message in item.messages or [] if tok is None else []:
        content = message["content"]
        text = content if isinstance(content, str) else "".join(f"<{p['type']}>{p['text']}" for p in content)
        out.spans([(f"{message['role']}: ", "hint"), (text, None)])
    out.text("")
