"""`data add` at scale: side by side, bounded in memory, going on where it stopped."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanochat_cli.core import paths
from nanochat_cli.core.data import importer, inputs, journal
from nanochat_cli.core.data import parts as parts_of
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.data.importer import add_files
from nanochat_cli.core.errors import ConfigError, DataError, NanochatError


def documents(corpus: Corpus) -> list[str]:
    return sorted(text for split in ("train", "val") for group in corpus.documents(split) for text in group)


def put(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven files of 40 documents each, with some that two of them share."""
    for k in range(7):
        put(
            tmp_path / "in" / f"f{k}.jsonl",
            [f"file {k // 2 * 2} number {i} " + "süß word " * (i % 11) for i in range(40)],
        )
    return tmp_path / "in"


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "GROUP_BYTES", 1)  # each file alone


def hidden(base: Path) -> list[str]:
    return sorted(path.name for path in (base / "data").iterdir() if path.name.startswith("."))


@pytest.mark.parametrize("group_bytes", [1, 10_000, 1 << 20])
def test_neither_groups_nor_workers_change_the_corpus(folder, base, monkeypatch, group_bytes) -> None:
    whole = add_files([folder], "whole")
    monkeypatch.setattr(inputs, "GROUP_BYTES", group_bytes)
    other = add_files([folder], "other", num_workers=2 if group_bytes == 10_000 else 1)
    assert other.fingerprint == whole.fingerprint and documents(other) == documents(whole)
    assert [shard.sha256 for shard in other.shards] == [shard.sha256 for shard in whole.shards]
    source = other.manifest["source"]
    assert source["documents"] == 280 == len(documents(other)) and source["blank"] == 0
    assert [entry["documents"] for entry in source["files"]] == [40] * 7
    assert hidden(base) == []


def failing(monkeypatch: pytest.MonkeyPatch, after: int, problem: BaseException) -> list[str]:
    """Let the reading of the file after `after` others fail; return the list of files that were read."""
    make, seen = parts_of.make, []

    def stop(job, tell):
        if len(seen) == after:
            raise problem
        seen.extend(Path(item["path"]).name for item in job["inputs"])
        return make(job, tell)

    monkeypatch.setattr(parts_of, "make", stop)
    return seen


def test_an_interrupted_import_goes_on(folder, base, monkeypatch, log) -> None:
    whole = add_files([folder], "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        failing(patch, 3, KeyboardInterrupt())
        add_files([folder], "c")
    assert hidden(base) == [".c.adding"] and not (base / "data" / "c").exists()
    put(folder / "f1.jsonl", ["changed since"])  # and its result is not used any more
    put(folder / "f1.jsonl", [f"file 0 number {i} " + "süß word " * (i % 11) for i in range(40)])
    seen = failing(monkeypatch, 99, RuntimeError())
    corpus = add_files([folder], "c", log=log)
    assert seen == ["f1.jsonl", "f3.jsonl", "f4.jsonl", "f5.jsonl", "f6.jsonl"]
    assert "going on: 2 of 7 files were read before" in log.texts("note")
    assert corpus.fingerprint == whole.fingerprint and hidden(base) == []


def test_other_options_start_anew_and_a_spoilt_part_is_made_again(folder, base, monkeypatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        failing(patch, 3, KeyboardInterrupt())
        add_files([folder], "c")
    part = next((base / "data" / ".c.adding").glob("*.part"))
    raw = bytearray(part.read_bytes())
    raw[len(raw) // 2] ^= 1
    part.write_bytes(bytes(raw))
    with (base / "data" / ".c.adding" / "journal.jsonl").open("a") as file:
        file.write('{"key": "torn')
    with monkeypatch.context() as patch:
        seen = failing(patch, 99, RuntimeError())
        add_files([folder], "c")
    assert len(seen) == 5  # two of three were still good
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        failing(patch, 3, KeyboardInterrupt())
        add_files([folder], "d")
    seen = failing(monkeypatch, 99, RuntimeError())
    add_files([folder], "d", cut="line")
    assert len(seen) == 7


def test_an_error_keeps_what_took_long_and_nothing_else(folder, base, monkeypatch) -> None:
    (folder / "f5.jsonl").write_text('{"text": "fine"}\n{"text": "broken\n')
    with pytest.raises(DataError, match=r"broken JSON: .*f5\.jsonl:2"):
        add_files([folder], "c")
    assert hidden(base) == []
    monkeypatch.setattr(importer, "KEEP_BYTES", 1)
    with pytest.raises(DataError):
        add_files([folder], "c")
    assert hidden(base) == [".c.adding"]
    put(folder / "f5.jsonl", ["mended"])
    assert len(documents(add_files([folder], "c"))) == 241


def test_the_same_files_again_are_nothing_to_do(folder, log) -> None:
    made = add_files([folder], "c")
    again = add_files([folder], "c", log=log)
    assert again.manifest == made.manifest and "nothing to do" in log.texts("note")[0]
    with pytest.raises(ConfigError, match="exists already"):
        add_files([folder], "c", val_fraction=0.02)
    os.utime(folder / "f0.jsonl", (1, 1))
    with pytest.raises(ConfigError, match="exists already"):
        add_files([folder], "c")
    assert add_files([folder], "c", force=True).fingerprint == made.fingerprint


def test_odd_files_in_a_folder_are_named_and_skipped(folder, log) -> None:
    (folder / "odd.json").write_text('{"settings": {"depth": 4}}')
    (folder / "blank.txt").write_text(" \n\n")
    (folder / "not.csv").write_bytes(b"\x00\x01" * 100)
    corpus = add_files([folder], "c", log=log)
    told = log.texts("warning")
    assert len(documents(corpus)) == 280 and len(told) == 4
    assert any(f"no field text: {folder / 'odd.json'}:1" in text for text in told)
    assert told[-1] == "files in the folders without usable text, which were left out: 3"
    assert {Path(entry["path"]).name for entry in corpus.manifest["source"]["skipped"]} == {
        "odd.json",
        "blank.txt",
        "not.csv",
    }
    with pytest.raises(DataError, match=r"no text in: .*blank\.txt"):
        add_files([folder], "d", strict=True)
    with pytest.raises(DataError, match=r"no field text: .*odd\.json:1"):
        add_files([folder, folder / "odd.json"], "e")  # named: it is meant


def test_a_file_that_breaks_off_in_the_middle_is_never_skipped(folder) -> None:
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "fine"}\n' * 5000)[:-30])
    with pytest.raises(DataError, match=r"cannot read: .*cut\.jsonl\.gz"):
        add_files([folder], "c")


def test_nothing_of_use_at_all(tmp_path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match=r"no usable text in any file: no field text: .*a\.json:1"):
        add_files([tmp_path / "in"], "c")


def test_a_file_that_changes_meanwhile_is_refused(folder, monkeypatch) -> None:
    take = inputs.take

    def change(found):
        taken = take(found)
        put(folder / "f3.jsonl", ["something else"])
        return taken

    monkeypatch.setattr(inputs, "take", change)
    with pytest.raises(DataError, match=r"the file changed while it was read: .*f3\.jsonl"):
        add_files([folder], "c")


def test_two_commands_do_not_share_a_workspace(folder, base) -> None:
    (base / "data").mkdir(parents=True)
    with journal.workspace(paths.corpus_dir("c"), importer.PURPOSE):
        with pytest.raises(ConfigError, match="another command is making this corpus"):
            add_files([folder], "c")
    assert add_files([folder], "c").name == "c"


def test_a_full_disk_is_told_before_the_start(folder, base, monkeypatch) -> None:
    monkeypatch.setattr(inputs, "free_space", lambda path: 100)
    with pytest.raises(NanochatError, match=r"not enough room on the disk: about .* are needed, 100 B are free"):
        add_files([folder], "c")
    assert hidden(base) == []


def test_progress_is_told_in_bytes_and_ends_at_the_end(folder, log) -> None:
    add_files([folder], "c", log=log)
    told = [event for event in log.events if event["kind"] == "progress" and event["task"] == "reading"]
    total = sum(path.stat().st_size for path in folder.iterdir())
    assert told[-1]["done"] == told[-1]["total"] == total
    assert [event["done"] for event in told] == sorted(event["done"] for event in told)


def test_compressed_files_tell_the_bytes_on_the_disk(tmp_path) -> None:
    from nanochat_cli.core.data import textfile

    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(os.urandom(3_000_000).hex().encode()))
    told: list[float] = []
    with textfile.metered(told.append):
        assert sum(len(text) for _, text in textfile.lines(path)) == 6_000_000
    assert told == sorted(told) and told[-1] == path.stat().st_size and len(told) > 2


# ---- in processes of their own ---------------------------------------------------------------------------------------

SLOW = pytest.mark.slow
KILLED = """
import sys
from nanochat_cli import main
from nanochat_cli.core.data import inputs
inputs.GROUP_BYTES = 1
sys.exit(main.run(sys.argv[1:]))
"""


def lines_of(path: Path) -> int:
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def start(*argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", KILLED, *argv], stderr=subprocess.PIPE, start_new_session=True)


def stop_when(process: subprocess.Popen[bytes], done: Path, number: int, how: int) -> int:
    """Send a signal as soon as the journal has so many entries, and see that no worker outlives its parent."""
    deadline = time.monotonic() + 60
    while process.poll() is None and lines_of(done) < number and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, how) if how == signal.SIGINT else process.send_signal(how)
    process.communicate(timeout=60)
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.02)
    else:
        pytest.fail("a worker outlived its parent")
    return process.returncode


@pytest.mark.parametrize(
    "stops",
    [
        [("2", 1, signal.SIGKILL)],
        pytest.param([("2", 1, signal.SIGKILL), ("1", 2, signal.SIGKILL), ("2", 1, signal.SIGINT)], marks=SLOW),
    ],
    ids=["once", "again and again"],
)
def test_killed_at_any_moment_it_comes_to_the_same(tmp_path, base, stops) -> None:
    for k in range(8):
        put(tmp_path / "in" / f"f{k}.jsonl", [f"file {k} number {i} " + "some words " * (i % 200) for i in range(1000)])
    whole = add_files([tmp_path / "in"], "whole")
    done = base / "data" / ".c.adding" / "journal.jsonl"
    for workers, more, how in stops:
        number = lines_of(done) + more
        process = start("data", "add", str(tmp_path / "in"), "--name", "c", "-w", workers)
        assert stop_when(process, done, number, how) == (130 if how == signal.SIGINT else -signal.SIGKILL)
        assert lines_of(done) >= number and not (base / "data" / "c").exists()
    corpus = add_files([tmp_path / "in"], "c")
    assert corpus.fingerprint == whole.fingerprint
    assert [shard.sha256 for shard in corpus.shards] == [shard.sha256 for shard in whole.shards]


PEAK = """
import resource, sys
import pyarrow.parquet
from nanochat_cli.core.data import importer, inputs, layout, repackage, shuffle, split_writer
split_writer.GROUP_BYTES = 4 << 20
shuffle.RUN_BYTES = shuffle.BUCKET_BYTES = 4 << 20
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before = peak()
if sys.argv[1] == "add":
    importer.add_files([sys.argv[2]], "c")
else:
    options = repackage.Options(layout=layout.Layout(8_000_000, 256))
    repackage.repackage(repackage.sources([sys.argv[2]]), "c", options)
print(peak() - before)
"""


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("add", "big.jsonl.gz"),
        ("repackage", "big.parquet"),
        pytest.param("add", "big.parquet", marks=SLOW),
        pytest.param("repackage", "big.jsonl.gz", marks=SLOW),
    ],
)
def test_memory_does_not_grow_with_the_input(tmp_path, what, name) -> None:
    size, path = 100 << 20, tmp_path / name
    words = "a text of some length, to be repeated " * 100
    texts = [f"{i} {words}" for i in range(size // len(words))]
    if name.endswith(".parquet"):
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.table({"text": texts}), path, row_group_size=len(texts))  # one group: the worst case
    else:
        with gzip.open(path, "wt", compresslevel=1) as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    done = subprocess.run([sys.executable, "-c", PEAK, what, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 70, done.stdout
