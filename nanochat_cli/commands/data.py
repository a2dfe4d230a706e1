"""`nanochat data …`: from text to corpora and chats, by way of their many commands."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nanochat_cli.commands import _data_download, _data_repackage, _data_show, _data_synth_chats
from nanochat_cli.commands._data_again import again
from nanochat_cli.commands._options import App, DryRunOpt, leaf, options_from
from nanochat_cli.core import events, paths
from nanochat_cli.core.data import corpus as corpora
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.settings import AddConfig, SynthConfig
from nanochat_cli.core.units import many
from nanochat_cli.output import Output, size

app = App("Corpora: download, make, add, repackage, list, verify, show.")
_data_download.register(app)

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


app.command("synth-chats")(_data_synth_chats.synth_chats)


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
    """Make a corpus of your own text. Interrupted, it goes on when the same command is run again."""
    from nanochat_cli.core.data import importer, shards

    want = cfg.add
    name = want.name or importer.default_name(files[0])
    if dry_run:
        shards.check_free(name, force)
        found = importer.find(files)
        out.table(("file", "kind", "bytes"), [(str(p), importer.kind(p), p.stat().st_size) for p in found.files])
        out.note(f"would make corpus {name} in {paths.corpus_dir(name)}")
        out.note(f"disk needed, about: {size(importer.disk_needed(found))}")
        return
    with again(out), out.watch() as watcher:
        made = importer.add_files(
            files,
            name,
            text_field=want.text_field,
            cut=want.split,
            val_fraction=want.val_fraction,
            seed=want.seed,
            force=force,
            strict=want.strict,
            num_workers=want.workers,
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


app.command("repackage")(_data_repackage.repackage)


@app.command("list")
@leaf
def list_(out: Output) -> None:
    """List the corpora on this machine."""
    from nanochat_cli.core.data import journal

    found = corpora.list_corpora()
    for name, folder, held in journal.unfinished(paths.corpora_dir()):
        out.note(f"corpus {name} is not finished ({size(held)}): run its command again, or delete {folder}")
    if out.json_mode:
        out.json([_facts(c) if isinstance(c, Corpus) else {"name": name, "problem": str(c)} for name, c in found])
        return
    _data_synth_chats.tell_sets(out)
    if not found:
        out.note("no corpus yet")
        out.hint("nanochat data synth, nanochat data add FILES… --name NAME, or nanochat data download --list")
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
def verify(
    out: Output, name: Annotated[str, typer.Argument(help="Corpus, by name or folder, or anything downloaded.")]
) -> None:
    """Rehash every file of a corpus, its token shards included, or of a download; name those that are damaged."""
    from nanochat_cli.core.data import tokens

    if _data_download.verify(name, out):
        return
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
        out.text(f"corpus {corpus.name}: {many(len(checks), 'file')}, all as written")


app.command("show")(_data_show.show)
