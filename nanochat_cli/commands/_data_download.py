"""`nanochat data download | repair`, and `verify` of what was downloaded."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanochat_cli.commands._options import App, DryRunOpt, leaf, options_from
from nanochat_cli.core import events
from nanochat_cli.core.data import sources
from nanochat_cli.core.data.sources import SOURCES, Source
from nanochat_cli.core.errors import ConfigError, DamagedArtifact, NanochatError
from nanochat_cli.core.settings import DownloadConfig, DownloadSection
from nanochat_cli.output import Output, size

if TYPE_CHECKING:
    from nanochat_cli.core.data.acquire import Plan, Result, Wish
    from nanochat_cli.core.data.corpus import Check, Corpus

_SHOWN = 10  # files that a dry run names


def register(app: App) -> None:
    """Add the commands to the group `data`."""
    app.command("download")(download)
    app.command("repair")(repair)


def _names(incomplete: str) -> list[str]:
    return [source.name for source in SOURCES if source.name.startswith(incomplete)]


@leaf
@options_from(DownloadConfig, "data download")
def download(
    cfg: DownloadConfig,
    out: Output,
    name: Annotated[
        str | None, typer.Argument(help="What to fetch: a name from --list.", autocompletion=_names)
    ] = None,
    list_all: Annotated[bool, typer.Option("--list", help="List what can be downloaded.")] = False,
    dry_run: DryRunOpt = False,
) -> None:
    """Fetch a data set by name: checked, resumable, and at once usable by `tok train` and `train base`."""
    if list_all:
        _list(out)
        return
    if name is None:
        raise ConfigError("which data set is missing", hint="nanochat data download --list")
    source = sources.get(name)
    from nanochat_cli.core.data import acquire

    if cfg.download.shards is not None and source.kind != "pretraining":
        raise ConfigError(f"{name} does not come in shards: --shards {cfg.download.shards}")
    wish = _wish(cfg.download)
    with acquire.open_web(wish.workers) as web:
        plan = acquire.plan(source, wish, web)
        if dry_run:
            _show_plan(plan, out)
            return
        with out.watch() as watcher:
            result = acquire.run(plan, web, events.Listener(watcher.on_event))
    _show(result, out)


def _wish(want: DownloadSection) -> "Wish":
    from nanochat_cli.core.data import acquire

    if want.from_dir is not None and want.mirror:
        raise ConfigError("a folder and a mirror: --from-dir uses no network", hint="leave out one of them")
    folder = None if want.from_dir is None else Path(want.from_dir).expanduser()
    return acquire.Wish(shards=want.shards, workers=want.workers, mirrors=want.mirror, from_dir=folder)


def _list(out: Output) -> None:
    rows = [_row(source) for source in SOURCES]
    if out.json_mode:
        out.json(rows)
        return
    columns = ("name", "size", "here", "licence", "purpose")
    out.table(columns, [(r["name"], _size_of(r), r["here"], r["licence"], r["purpose"]) for r in rows])


def _row(source: Source) -> dict[str, Any]:
    total = source.approx_bytes * max(1, source.shards)
    facts = {"name": source.name, "kind": source.kind, "approx_bytes": total, "shards": source.shards or None}
    return facts | {"here": _here(source), "licence": source.licence, "purpose": source.purpose}


def _size_of(row: dict[str, Any]) -> str:
    return size(row["approx_bytes"]) + (f" in {row['shards']:,}" if row["shards"] else "")


def _here(source: Source) -> str:
    """Say whether a data set is on this machine; reads its record only."""
    from nanochat_cli.core.data import downloaded, grown

    try:
        record = downloaded.read(source)
        if source.kind == "pretraining":
            number = grown.num_train(source)
            return f"{number:,} shards" if number else "in part" if record.files else "no"
        return "yes" if downloaded.is_complete(source) else "in part" if record.files else "no"
    except NanochatError:
        return "damaged"


def _show_plan(plan: "Plan", out: Output) -> None:
    from nanochat_cli.core.data import acquire
    from nanochat_cli.core.data.web import clean_url
    from nanochat_cli.core.files import free_space

    files = [
        {"file": f.path, "bytes": f.size, "from": clean_url(f.urls[0]) if f.urls else str(f.file or "")}
        for f in plan.todo
    ]
    facts = {
        "name": plan.source.name,
        "licence": plan.source.licence,
        "folder": str(plan.source.dir),
        "files": plan.num_files,
        "files_to_fetch": len(files),
        "bytes_to_fetch": plan.bytes_to_move,
        "sizes_are_exact": plan.exact,
        "disk_needed": plan.disk_bytes,
        "disk_free": free_space(plan.source.dir),
    }
    if out.json_mode:
        out.json({**facts, "to_fetch": files})
    else:
        for key in ("bytes_to_fetch", "disk_needed", "disk_free"):
            facts[key] = size(facts[key])
        out.result(facts, title=f"would download {plan.source.name}")
        for file in files[:_SHOWN]:
            about = size(file["bytes"]) if file["bytes"] is not None else "size not known"
            out.text(f"  {file['file']}  {about}  {file['from']}")
        if len(files) > _SHOWN:
            out.text(f"  … and {len(files) - _SHOWN:,} more")
    if plan.note:
        out.warning(plan.note)
    acquire.check_disk(plan)


def _show(result: "Result", out: Output) -> None:
    """Show what came; raises NanochatError, and so exits with 1, if anything is missing."""
    facts: dict[str, Any] = {
        "name": result.source.name,
        "folder": str(result.source.dir),
        "files": result.num_files,
        "fetched": len(result.fetched),
        "moved_bytes": result.moved_bytes,
    }
    if result.corpus is not None:
        facts |= _corpus_facts(result.corpus)
    if out.json_mode:
        missing = [vars(missing) for missing in result.missing]
        out.json({**facts, "missing": missing})
    elif not result.missing:
        out.result(facts | {"moved_bytes": f"{result.moved_bytes:,}"})
    if result.missing:
        for missing in result.missing if not out.json_mode else ():
            out.text(f"missing: {missing.path}: {missing.reason}")
        raise NanochatError(
            f"{len(result.missing)} of {result.num_files} files of {result.source.name} are missing: "
            f"{', '.join(missing.path for missing in result.missing)}",
            hint="the same command fetches only those, from where they broke off; another source: --mirror URL",
        )
    if not result.fetched:
        out.note("all of it was here already: 0 bytes moved")
    if result.corpus is not None:
        name = result.corpus.name
        out.hint(f"nanochat tok train --input {name}, then nanochat train base --data {name}")


def _corpus_facts(corpus: "Corpus") -> dict[str, Any]:
    return {
        "train_shards": len(corpus.shards_of("train")),
        "train_documents": corpus.num_documents("train"),
        "val_documents": corpus.num_documents("val"),
        "train_chars": corpus.num_chars("train"),
        "val_chars": corpus.num_chars("val"),
        "fingerprint": corpus.fingerprint,
    }


def verify(name: str, out: Output) -> bool:
    """Check what was downloaded under a name and is no corpus (yet); False if there is nothing of the kind."""
    source = sources.find(name)
    if source is None or (source.dir / "manifest.json").is_file():
        return False
    checks = _checked(source, out)
    bad = [check for check in checks if check.problem]
    if out.json_mode or out.verbose:
        out.table(("file", "problem"), [(check.file, check.problem) for check in checks])
    if bad:
        told = ", ".join(f"{check.file} ({check.problem})" for check in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise DamagedArtifact(f"{name} is damaged: {told}{more}", hint=f"nanochat data repair {name}")
    if not out.json_mode:
        out.text(f"{name}: {len(checks)} files, all as they came")
    return True


def _checked(source: Source, out: Output) -> "list[Check]":
    from nanochat_cli.core.data import downloaded

    with out.watch() as watcher:
        return downloaded.check(source, events.Listener(watcher.on_event))


@leaf
@options_from(DownloadConfig, "data download")
def repair(
    cfg: DownloadConfig,
    out: Output,
    name: Annotated[str, typer.Argument(help="Data that was downloaded, or a corpus.", autocompletion=_names)],
    dry_run: DryRunOpt = False,
) -> None:
    """Fetch again what is damaged or missing of a download; of a corpus made here, say how it is made again."""
    from nanochat_cli.core.data import acquire, remake

    source = sources.find(name)
    if source is None or not (source.dir / "download.json").is_file():
        remake.check(name)
        out.text(f"corpus {name}: nothing is damaged")
        return
    bad = [check.file for check in _checked(source, out) if check.problem]
    if not bad:
        _show_nothing(source, out)
        return
    wish = _wish(cfg.download)
    with acquire.open_web(wish.workers) as web:
        plan = acquire.plan_repair(source, wish, web, bad)
        if dry_run:
            _show_plan(plan, out)
            return
        with out.watch() as watcher:
            result = acquire.run(plan, web, events.Listener(watcher.on_event))
    _show(result, out)


def _show_nothing(source: Source, out: Output) -> None:
    if out.json_mode:
        out.json({"name": source.name, "folder": str(source.dir), "fetched": 0, "moved_bytes": 0, "missing": []})
    else:
        out.text(f"{source.name}: nothing is damaged")
