"""`nanochat data repackage`: documents into shards of one size, in a new order."""

from typing import TYPE_CHECKING, Annotated

import typer

from nanochat_cli.commands._data_again import again
from nanochat_cli.commands._options import DryRunOpt, leaf, options_from
from nanochat_cli.core import events, paths
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.settings import RepackageConfig
from nanochat_cli.output import Output, size

if TYPE_CHECKING:
    from nanochat_cli.core.data.repackage import Options, Sources
    from nanochat_cli.core.settings import RepackageSection


@leaf
@options_from(RepackageConfig, "data repackage")
def repackage(
    cfg: RepackageConfig,
    out: Output,
    sources: Annotated[
        list[str], typer.Argument(help="Corpora by name, files, folders: parquet, jsonl and what data add reads.")
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace a corpus of the same name.", rich_help_panel="Common")
    ] = False,
    dry_run: DryRunOpt = False,
) -> None:
    """Write documents anew as shards of one size, shuffled. Interrupted, it goes on when the same command is run again.

    A shard ends at the first full row group with enough characters; the last one may be smaller, so none is dropped.
    """
    from nanochat_cli.core.data import repackage as repackaging

    want = cfg.repackage
    if want.name is None:
        raise ConfigError("the new corpus has no name", hint="give it one with --name NAME")
    options = _options(want)
    given = repackaging.sources(sources)
    if dry_run:
        _show_plan(want.name, given, options, force, out)
        return
    with again(out), out.watch() as watcher:
        made = repackaging.repackage(
            given,
            want.name,
            options,
            force=force,
            num_workers=want.workers,
            log=events.Listener(watcher.on_event),
        )
    out.result(
        {
            "name": made.name,
            "shards": len(made.shards),
            "train_documents": made.num_documents("train"),
            "val_documents": made.num_documents("val"),
            "train_chars": made.num_chars("train"),
            "val_chars": made.num_chars("val"),
            "fingerprint": made.fingerprint,
            "folder": str(made.dir),
        }
    )
    out.hint(f"nanochat data show {made.name}, then nanochat tok train --input {made.name}")


def _options(want: "RepackageSection") -> "Options":
    from nanochat_cli.core.data.layout import Layout
    from nanochat_cli.core.data.repackage import Options
    from nanochat_cli.core.units import parse_size

    return Options(
        text_field=want.text_field,
        layout=Layout(parse_size(want.shard_chars, "--shard-chars"), want.row_group),
        shuffle=want.shuffle,
        seed=want.seed,
        val_fraction=want.val_fraction,
        val_shard=want.val_shard == "last",
    )


def _show_plan(name: str, given: "Sources", options: "Options", force: bool, out: Output) -> None:
    from nanochat_cli.core import files
    from nanochat_cli.core.data import shards

    shards.check_free(name, force)
    facts = {
        "name": name,
        "folder": str(paths.corpus_dir(name)),
        "files": len(given.found.files),
        "bytes": given.found.bytes,
        "documents": given.documents(),
        "text_bytes": given.text_bytes(options.text_field),
        "disk_needed_bytes": given.disk_needed,
        "disk_free_bytes": files.free_space(paths.corpora_dir()),
        "shuffle": options.shuffle,
        "seed": options.seed,
        "shard_chars": options.layout.shard_chars,
        "row_group": options.layout.row_group,
    }
    if not out.json_mode:
        facts |= {key: size(value) for key, value in facts.items() if key.endswith("bytes")}
        facts["documents"] = "unknown until they are read" if facts["documents"] is None else facts["documents"]
    out.result(facts, title="would write anew")
