"""From a name to data that is here and checked: what is missing, where it may come from, fetch it, publish it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from nanochat_cli.core.data import downloaded, grown, hub, parquet_check, unpack
from nanochat_cli.core.data.corpus import MANIFEST, Corpus
from nanochat_cli.core.data.download import Wanted
from nanochat_cli.core.data.downloaded import Entry, Record
from nanochat_cli.core.data.fetch_many import Missing, Outcome, Steps, fetch_many
from nanochat_cli.core.data.part import size_so_far
from nanochat_cli.core.data.sources import Source
from nanochat_cli.core.data.staging import staged
from nanochat_cli.core.data.web import Patience, Web, clean_url, hub_endpoint, hub_token
from nanochat_cli.core.errors import ConfigError, DataError, EnvironmentLacks, MissingArtifact, NanochatError
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.files import free_space, publish_dir, read_json, replace_dir, restore_dir
from nanochat_cli.core.units import write_size

_UNPACKED = 5  # an archive may become this many times larger
_LIMIT, _LIMIT_MORE = 10, 10_000_000  # a file of unknown size may be that much larger than expected


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the user asked for. `shards` counts those to train on; None is the usual number."""

    shards: int | None = None
    workers: int = 8
    mirrors: tuple[str, ...] = ()
    from_dir: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What has to be fetched. `num_files` counts all that is wanted, `exact` says that all sizes are known."""

    source: Source
    wish: Wish
    num_files: int
    todo: tuple[Wanted, ...]
    num_train: int = 0  # shards of the corpus to publish; 0 for none
    completes: bool = True  # with these files nothing is missing
    again: bool = False  # what is here is known to be damaged
    note: str | None = None

    @property
    def exact(self) -> bool:
        return all(file.size is not None for file in self.todo)

    @property
    def bytes_to_move(self) -> int:
        """Bytes still to come, as far as known."""
        return sum(max(0, file.about - size_so_far(work_dir(self.source) / file.path)) for file in self.todo)

    @property
    def disk_bytes(self) -> int:
        """Bytes that the disk needs for it."""
        return self.bytes_to_move * (_UNPACKED if self.source.kind == "bundle" else 1)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of it; `corpus` is what a pretraining data set became."""

    source: Source
    num_files: int
    moved_bytes: int
    missing: Sequence[Missing] = ()
    corpus: Corpus | None = None
    fetched: Mapping[str, Entry] = field(default_factory=dict)


def open_web(workers: int, patience: Patience | None = None) -> Web:
    """Return a client that knows the user's Hugging Face token, if there is one, and where it may go."""
    return Web(token=hub_token(), token_origin=hub_endpoint(), workers=workers, patience=patience)


def work_dir(source: Source) -> Path:
    """Return where files arrive: their final folder, or for a bundle a place beside it."""
    return source.dir.with_name(f".{source.name}.download") if source.kind == "bundle" else source.dir


def plan(source: Source, wish: Wish, web: Web) -> Plan:
    """Return what is to be fetched for a data set.

    Raises ConfigError for a number of shards that do not exist and a name that other data has, DataError if the files
    of a data set cannot be listed.
    """
    restore_dir(source.dir)
    _check_ours(source)
    record = downloaded.read(source)
    if source.kind == "pretraining":
        return _plan_shards(source, wish, web, record)
    if record.complete and downloaded.is_complete(source):
        return Plan(source=source, wish=wish, num_files=len(record.files), todo=())
    if source.repo is None:
        return Plan(source=source, wish=wish, num_files=1, todo=(_one_file(source, wish, record),))
    known = _known(source, wish, web, record)
    names = sorted(name for name in known if hub.matches(name, source.patterns))
    if not names:
        raise DataError(
            f"no file of {source.name} is where its files should be: {', '.join(source.patterns)}",
            hint="name a folder that has them with --from-dir DIR" if wish.from_dir is None else None,
        )
    todo = [name for name in names if not downloaded.here(source, record, name)]
    wanted = tuple(_wanted(source, wish, name, known) for name in todo)
    return Plan(source=source, wish=wish, num_files=len(names), todo=wanted)


def _plan_shards(source: Source, wish: Wish, web: Web, record: Record) -> Plan:
    asked = wish.shards if wish.shards is not None else source.usual_shards
    if asked > source.shards - 1:
        raise ConfigError(
            f"{source.name} has {source.shards - 1:,} shards to train on and one to validate on: {asked:,}"
        )
    number = max(asked, grown.num_train(source))
    names = [source.val_shard, *map(source.shard, range(number))]
    todo = [name for name in names if not downloaded.here(source, record, name)]
    known, note = {}, None
    if todo:
        try:
            known = _known(source, wish, web, record)
        except DataError as problem:
            known = _recorded(record)
            note = f"{problem}; going on without the list, hashes are taken from each answer as far as it has one"
    wanted = tuple(_wanted(source, wish, name, known) for name in todo)
    return Plan(source=source, wish=wish, num_files=len(names), todo=wanted, num_train=number, note=note)


def plan_repair(source: Source, wish: Wish, web: Web, damaged: Sequence[str]) -> Plan:
    """Return what is to be fetched for files that are recorded and not as they came: those, with the same content."""
    record = downloaded.read(source)
    if source.repo is None:
        return Plan(source=source, wish=wish, num_files=1, todo=(_one_file(source, wish, record),), again=True)
    known = _recorded(record)
    return Plan(
        source=source,
        wish=wish,
        num_files=len(record.files),
        todo=tuple(_wanted(source, wish, name, known) for name in damaged),
        num_train=grown.num_train(source),
        completes=record.complete,
    )


def _known(source: Source, wish: Wish, web: Web, record: Record) -> dict[str, hub.HubFile]:
    """Return what is known about a data set's files before they come: from the folder, or from the hub."""
    if wish.from_dir is not None:
        return _recorded(record) | _in_folder(source, wish.from_dir)
    endpoints = [*_mirrors(wish), hub_endpoint()]
    listed = {file.path: file for file in hub.first_listing(endpoints, source.repo or "", web)}
    safe = {}
    for path, file in listed.items():
        if source.kind == "pretraining" or hub.matches(path, source.patterns):
            try:
                safe[hub.safe_path(path)] = file
            except NanochatError:
                if source.kind != "pretraining":
                    raise
    return safe | _recorded(record)


def _recorded(record: Record) -> dict[str, hub.HubFile]:
    return {name: hub.HubFile(name, entry.size, entry.sha256) for name, entry in record.files.items()}


def _in_folder(source: Source, folder: Path) -> dict[str, hub.HubFile]:
    """Return the files of a folder that belong to a data set, with the hashes of a record that came along."""
    if not folder.is_dir():
        raise MissingArtifact(f"no such folder: {folder}")
    found: dict[str, hub.HubFile] = {}
    for top in (folder, folder / source.name):
        for path in sorted(top.rglob("*.parquet")) if top.is_dir() and source.patterns else ():
            name = path.relative_to(top).as_posix()
            if hub.matches(name, source.patterns):
                found.setdefault(hub.safe_path(name), hub.HubFile(name, path.stat().st_size, None))
        if (top / downloaded.RECORD).is_file():
            files = read_json(top / downloaded.RECORD, "download record").get("files")
            for name, entry in files.items() if isinstance(files, dict) else ():
                if isinstance(entry, dict) and isinstance(entry.get("size"), int):
                    found[hub.safe_path(name)] = hub.HubFile(name, entry["size"], entry.get("sha256"))
    return found


def _wanted(source: Source, wish: Wish, name: str, known: Mapping[str, hub.HubFile]) -> Wanted:
    file = known.get(name)
    size, sha256 = (file.size, file.sha256) if file else (None, None)
    wanted = Wanted(path=name, size=size, sha256=sha256, approx=source.approx_bytes, limit=_limit(source))
    if wish.from_dir is not None:
        return replace(wanted, file=_find(source, wish.from_dir, name))
    urls = [*_mirror_urls(source, wish, name), hub.file_url(hub_endpoint(), source.repo or "", quote(name))]
    return replace(wanted, urls=tuple(dict.fromkeys(urls)))


def _one_file(source: Source, wish: Wish, record: Record) -> Wanted:
    name = source.file_name
    old = record.archive or record.files.get(name)
    wanted = Wanted(path=name, approx=source.approx_bytes, limit=_limit(source))
    if old is not None:
        wanted = replace(wanted, size=old.size, sha256=old.sha256)
    if wish.from_dir is not None:
        if not wish.from_dir.is_dir():
            raise MissingArtifact(f"no such folder: {wish.from_dir}")
        return replace(wanted, file=_find(source, wish.from_dir, name))
    return replace(wanted, urls=(*(f"{mirror}/{quote(name)}" for mirror in _mirrors(wish)), source.url or ""))


def _limit(source: Source) -> int:
    return _LIMIT * source.approx_bytes + _LIMIT_MORE


def _find(source: Source, folder: Path, name: str) -> Path:
    """Return where a file is in a folder that was brought along: by its path, or its name alone."""
    places = (folder / name, folder / source.name / name, folder / Path(name).name)
    return next((place for place in places if place.is_file()), places[0])


def _mirrors(wish: Wish) -> list[str]:
    for mirror in wish.mirrors:
        if not mirror.startswith(("http://", "https://")):
            raise ConfigError(
                f"not the address of a mirror: {clean_url(mirror)}", hint="a folder is named with --from-dir DIR"
            )
    return [mirror.rstrip("/") for mirror in wish.mirrors]


def _mirror_urls(source: Source, wish: Wish, name: str) -> Iterable[str]:
    """A mirror is laid out like Hugging Face, or a plain folder of the files: both are tried, in this order."""
    for mirror in _mirrors(wish):
        yield hub.file_url(mirror, source.repo or "", quote(name))
        yield f"{mirror}/{quote(name)}"


def _check_ours(source: Source) -> None:
    """Raise ConfigError if the folder holds a corpus that came another way."""
    if source.kind == "pretraining" and (source.dir / MANIFEST).is_file() and not Corpus.open(source.dir).can_grow:
        raise ConfigError(
            f"a corpus of this name is here that was not downloaded: {source.dir}",
            hint="give it another name by renaming its folder",
        )


def check_disk(plan: Plan) -> None:
    """Raise EnvironmentLacks if what is to come does not fit on the disk."""
    free, need = free_space(plan.source.dir), plan.disk_bytes
    if need > free:
        about = "" if plan.exact else "about "
        raise EnvironmentLacks(
            f"not enough free disk for {plan.source.name}: {about}{write_size(need)} needed, {write_size(free)} free"
            f" on the disk of {plan.source.dir.parent}",
            hint="free some space, set NANOCHAT_BASE_DIR to a larger disk"
            + (", or take fewer shards with -n" if plan.source.kind == "pretraining" else ""),
        )


def run(plan: Plan, web: Web, log: Log = NULL) -> Result:
    """Fetch what a plan names and return what came of it; missing files are told in the result.

    A pretraining data set of which all is here becomes a corpus, or extends the one it is. On Ctrl-C what is done is
    recorded, and what is begun can be continued.
    """
    check_disk(plan)
    if plan.note:
        log.warning(plan.note)
    try:
        return _run_bundle(plan, web, log) if plan.source.kind == "bundle" else _run_files(plan, web, log)
    except KeyboardInterrupt:
        log.note("stopped: what is whole is kept, and what is begun is continued by the same command")
        raise


def _run_files(plan: Plan, web: Web, log: Log) -> Result:
    source = plan.source
    outcome = _fetch(plan, web, log, lambda entries: downloaded.add(source, entries)) if plan.todo else Outcome()
    corpus = None
    if not outcome.missing:
        if plan.num_train:
            corpus = grown.publish(source, plan.num_train, log)
        elif plan.todo:
            downloaded.add(source, {}, complete=plan.completes)
    return Result(
        source=source,
        num_files=plan.num_files,
        moved_bytes=outcome.moved_bytes,
        missing=outcome.missing,
        corpus=corpus,
        fetched=outcome.done,
    )


def _fetch(plan: Plan, web: Web, log: Log, record: Callable[[dict[str, Entry]], object]) -> Outcome:
    return fetch_many(
        plan.todo, work_dir(plan.source), web, _steps(plan.source), workers=plan.wish.workers, log=log, record=record
    )


def _steps(source: Source) -> Steps:
    if source.kind == "pretraining":
        return Steps(parquet_check.check_text, lambda path: vars(parquet_check.count_text(path)))
    if source.kind == "bundle":
        return Steps(unpack.check_zip)
    return Steps(_check_any)


def _check_any(path: Path) -> None:
    """A parquet file must have its footer; of any other that came, at least something must be there."""
    if path.name.endswith((".parquet", ".parquet.part")):
        parquet_check.check_footer(path)
    elif not path.stat().st_size:
        raise DataError("an empty file")


def _run_bundle(plan: Plan, web: Web, log: Log) -> Result:
    """Fetch the archive beside, unpack it and publish the folder whole; one process at a time."""
    source, outcome = plan.source, Outcome()
    with downloaded.locked(source.dir.parent):
        if plan.again or not downloaded.is_complete(source):
            outcome = _fetch(plan, web, log, lambda _: None)
            if not outcome.missing:
                name, archive = next(iter(outcome.done.items()))
                _publish_bundle(source, work_dir(source) / name, archive, log)
                shutil.rmtree(work_dir(source), ignore_errors=True)
    return Result(
        source=source,
        num_files=plan.num_files,
        moved_bytes=outcome.moved_bytes,
        missing=outcome.missing,
        fetched=outcome.done,
    )


def _publish_bundle(source: Source, path: Path, archive: Entry, log: Log) -> None:
    def told(done: int, total: int) -> None:
        log.progress("unpacking", done, total, "bytes")

    with staged(source.dir) as folder:
        files = unpack.unpack(path, folder, told=told)
        downloaded.write(folder, Record(name=source.name, complete=True, files=files, archive=archive))
        if source.dir.exists():
            replace_dir(folder, source.dir)
        else:
            publish_dir(folder, source.dir)
