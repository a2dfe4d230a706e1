"""Whole data sets: parallel, resumable, published when nothing is missing, extended later, the same everywhere."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from nanochat_cli.core.data import acquire, downloaded, grown, hub, sources, tokens
from nanochat_cli.core.data import web as web_module
from nanochat_cli.core.data.acquire import Wish
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.data.part import part_path
from nanochat_cli.core.data.sources import Source
from nanochat_cli.core.data.web import Patience, Web
from nanochat_cli.core.errors import ConfigError, DamagedArtifact, DataError, EnvironmentLacks, NanochatError
from tests.core.data.http_faults import Server, Step, serving

SHARDS = 45
SOURCE = replace(sources.get("climbmix"), shards=SHARDS, usual_shards=4, approx_bytes=20_000)
REPO = SOURCE.repo
PATIENCE = Patience(tries=8, worth_bytes=1 << 30, read_s=5)
TASK = Source(
    name="task", kind="task", purpose="", licence="", approx_bytes=1000, repo="o/task", patterns=("main/*.parquet",)
)
BUNDLE = Source(
    name="bundle", kind="bundle", purpose="", licence="", approx_bytes=1000, url="https://nowhere.invalid/b.zip"
)


def shard(index: int, rows: int = 30) -> bytes:
    out = io.BytesIO()
    texts = [f"Shard {index}, document {row}: " + "süß " * (row % 7) for row in range(rows)]
    parquet.write_table(pa.table({"text": texts}), out, row_group_size=10)
    return out.getvalue()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Hub:
    """A server laid out like Hugging Face, whose files live at another one."""

    def __init__(self, api: Server, store: Server, page: int = 20) -> None:
        self.api, self.store, self.page, self.url = api, store, page, api.url

    def add(self, repo: str, files: dict[str, bytes], *, listed: bool = True) -> None:
        for path, content in files.items():
            self.store.files[f"/store/{path}"] = content
            self.api.always[f"/datasets/{repo}/resolve/main/{path}"] = Step(
                redirect=f"{self.store.url}/store/{path}?signed=1",
                headers={"X-Linked-Etag": f'"{sha(content)}"', "X-Linked-Size": str(len(content))},
            )
        if listed:
            self.list(repo, [self.entry(path, content) for path, content in files.items()])

    @staticmethod
    def entry(path: str, content: bytes) -> dict:
        lfs = {"oid": sha(content), "size": len(content), "pointerSize": 130}
        return {"type": "file", "path": path, "size": len(content), "oid": "0" * 40, "lfs": lfs}

    def list(self, repo: str, entries: list[dict]) -> None:
        first = f"/api/datasets/{repo}/tree/main"
        pages = [entries[at : at + self.page] for at in range(0, len(entries), self.page)] or [[]]
        for i, page in enumerate(pages):
            path = first if i == 0 else f"{first}/{i}"
            self.api.files[path] = json.dumps(page).encode()
            if i + 1 < len(pages):
                self.api.always[path] = Step(headers={"Link": f'<{self.url}{first}/{i + 1}?x>; rel="next"'})


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving() as api, serving() as store:
        made = Hub(api, store)
        made.add(REPO, {SOURCE.shard(i): shard(i) for i in range(SHARDS)})
        monkeypatch.setenv("HF_ENDPOINT", api.url)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield made


def go(source: Source = SOURCE, *, log=None, web: Web | None = None, **wish) -> acquire.Result:
    own = Web(
        token=web_module.hub_token(),
        token_origin=web_module.hub_endpoint(),
        patience=PATIENCE,
        sleep=lambda s: time.sleep(min(s, 0.01)),
    )
    with web or own as client:
        plan = acquire.plan(source, Wish(**wish), client)
        return acquire.run(plan, client, *([log] if log else []))


def visible(source: Source = SOURCE) -> list[str]:
    return sorted(path.relative_to(source.dir).as_posix() for path in source.dir.rglob("*.parquet"))


def hidden(source: Source = SOURCE) -> list[str]:
    return sorted(p.name for p in source.dir.rglob(".*") if p.name != ".download.lock")


def test_shards_become_a_corpus(fake, log) -> None:
    result = go(shards=3, log=log)
    corpus = Corpus.open("climbmix")
    assert not result.missing and result.corpus.fingerprint == corpus.fingerprint
    assert [(s.name, s.split) for s in corpus.shards] == [
        *((SOURCE.shard(i), "train") for i in range(3)),
        (SOURCE.shard(SHARDS - 1), "val"),
    ]
    documents = [text for batch in corpus.documents("train") for text in batch]
    assert documents[30].startswith("Shard 1, document 0:") and len(documents) == corpus.num_documents("train") == 90
    assert corpus.num_chars("train") == sum(map(len, documents))
    assert corpus.text_bytes("train") == sum(len(text.encode()) for text in documents)
    assert next(corpus.documents("val"))[0].startswith(f"Shard {SHARDS - 1},")
    corpus.verify()
    record = downloaded.read(SOURCE).files[SOURCE.shard(0)]
    assert record.sha256 == sha(shard(0)) and record.size == len(shard(0)) and record.etag
    assert record.url == f"{fake.url}/datasets/{REPO}/resolve/main/{SOURCE.shard(0)}"
    assert result.moved_bytes == sum(s.bytes for s in corpus.shards)
    last = [event for event in log.events if event["kind"] == "progress"][-1]
    assert last["done"] == last["total"] == result.moved_bytes and last["detail"].startswith("4 of 4 files")
    assert not [seen for seen in fake.store.seen if "authorization" in seen.headers]
    assert all(seen.headers["authorization"] == "Bearer hf_secret" for seen in fake.api.seen)


def test_a_rerun_asks_nothing(fake) -> None:
    go(shards=3)
    before = (SOURCE.dir / "manifest.json").stat().st_mtime_ns
    fake.api.seen.clear(), fake.store.seen.clear()
    result = go(shards=3)
    assert (result.moved_bytes, result.fetched, result.num_files) == (0, {}, 4)
    assert not fake.api.seen and not fake.store.seen
    assert (SOURCE.dir / "manifest.json").stat().st_mtime_ns == before
    assert len(go(shards=2).corpus.shards_of("train")) == 3  # fewer are no reason to forget any
    assert len(grown.publish(SOURCE, 1).shards_of("train")) == 3  # also where another process added them meanwhile


def test_a_corpus_grows_and_val_stays(fake, tokenizer, log) -> None:
    small = go(shards=2).corpus
    old_tokens = tokens.ensure(small, tokenizer)
    result = go(shards=4, log=log)
    large = Corpus.open("climbmix")
    assert len(result.fetched) == 2 and large.fingerprint != small.fingerprint
    assert large.shards_of("val") == small.shards_of("val") and large.shards_of("train")[:2] == small.shards_of("train")
    new_tokens = tokens.ensure(large, tokenizer)
    assert new_tokens.split("train").num_docs == 2 * old_tokens.split("train").num_docs
    assert tokens.ensure(small, tokenizer).dir != new_tokens.dir  # a training on the small one is not disturbed
    assert any("grew to 4 shards" in text for text in log.texts("note"))
    assert go(shards=4).corpus.fingerprint == large.fingerprint


def test_forty_shards_over_a_bad_network(fake) -> None:
    """Row R8: three answers in ten break off somewhere in the middle."""
    chance = random.Random(7)

    def cut(path: str, size: int) -> int | None:
        with fake.store.lock:
            return chance.randrange(size) if path.startswith("/store/") and chance.random() < 0.3 else None

    fake.store.chance = cut
    result = go(shards=40, workers=8)
    assert not result.missing
    for i in (*range(40), SHARDS - 1):
        assert (SOURCE.dir / SOURCE.shard(i)).read_bytes() == shard(i)
    assert len(visible()) == 41 and not hidden()
    assert result.moved_bytes == sum(len(shard(i)) for i in (*range(40), SHARDS - 1))  # no byte was kept twice
    assert 41 <= len(fake.store.seen) <= 41 * 3


def test_what_is_missing_is_listed_and_the_rest_is_kept(fake) -> None:
    bad = SOURCE.shard(1)
    fake.api.always[f"/datasets/{REPO}/resolve/main/{bad}"] = Step(status=404)
    result = go(shards=3)
    assert [missing.path for missing in result.missing] == [bad] and "HTTP 404" in result.missing[0].reason
    assert result.corpus is None and not (SOURCE.dir / "manifest.json").exists() and len(visible()) == 3
    fake.add(REPO, {bad: shard(1)}, listed=False)
    result = go(shards=3)
    assert list(result.fetched) == [bad] and result.moved_bytes == len(shard(1)) and result.corpus


def test_a_source_that_is_down_is_given_up(fake) -> None:
    for i in range(SHARDS):
        fake.api.always[f"/datasets/{REPO}/resolve/main/{SOURCE.shard(i)}"] = Step(status=404)
    result = go(shards=40, workers=2)
    assert len(result.missing) == 41 and any("given up" in missing.reason for missing in result.missing)
    assert len([s for s in fake.api.seen if "/resolve/" in s.path]) < 30


def test_bad_content_never_gets_its_name(fake) -> None:
    fake.add(REPO, {SOURCE.shard(0): b"PAR1 not parquet PAR1"})
    fake.list(REPO, [])
    out = io.BytesIO()
    parquet.write_table(pa.table({"words": ["a"]}), out)
    fake.add(REPO, {SOURCE.shard(1): out.getvalue()}, listed=False)
    out = io.BytesIO()
    parquet.write_table(pa.table({"text": ["a", None]}), out)
    fake.add(REPO, {SOURCE.shard(2): out.getvalue()}, listed=False)
    result = go(shards=3)
    assert [m.reason.split(",")[0] for m in result.missing] == [
        "not a whole parquet file",
        "a parquet file without a column of texts named text",
        "a shard with 1 documents without text",
    ]
    assert visible() == [SOURCE.val_shard] and not hidden()


def test_without_a_list_the_redirect_gives_the_hash(fake, log) -> None:
    for path in list(fake.api.files):
        del fake.api.files[path]
    fake.api.always.pop(f"/api/datasets/{REPO}/tree/main")
    fake.store.script[f"/store/{SOURCE.shard(0)}"] = [Step(body=shard(9))]
    assert not go(shards=1, log=log).missing
    assert (SOURCE.dir / SOURCE.shard(0)).read_bytes() == shard(0)
    assert "going on without the list" in log.texts("warning")[0]


@pytest.mark.parametrize("layout", ["hub", "folder"])
def test_mirrors_come_first(fake, monkeypatch, layout) -> None:
    with serving() as mirror:
        for i in (0, SHARDS - 1):
            prefix = f"/hf/datasets/{REPO}/resolve/main" if layout == "hub" else "/hf"
            mirror.files[f"{prefix}/{SOURCE.shard(i)}"] = shard(i)
        result = go(shards=1, mirrors=(f"{mirror.url}/hf/",))
        assert not result.missing and mirror.url in str(result.fetched[SOURCE.shard(0)].url)
        assert not fake.store.seen and not [s for s in mirror.seen if "authorization" in s.headers]
    with pytest.raises(ConfigError, match="mirror"):
        go(shards=2, mirrors=("/media/stick",))


def test_a_password_in_a_mirrors_address_is_never_shown(fake, nano, monkeypatch) -> None:
    with serving() as mirror:
        secret = mirror.url.replace("://", "://user:geheim@")
        told = nano("download", "climbmix", "-n", "1", "--mirror", secret, "--dry-run")
        assert mirror.url in told[1]
        told += nano("download", "climbmix", "-n", "1", "--mirror", secret, "--dry-run", "--json")
        monkeypatch.setenv("HF_ENDPOINT", secret)
        told += nano("download", "climbmix", "-n", "1", "--mirror", secret)  # which has none of it
        told += nano("download", "task", "--mirror", secret)
        told += nano("download", "climbmix", "--mirror", secret.removeprefix("http://"))
        told += nano("download", "climbmix", "--mirror", secret.replace("http", "ftp"))
    assert [code for code in told if isinstance(code, int)] == [0, 0, 1, 1, 2, 2]
    text = "".join(map(str, told))
    assert "geheim" not in text and "HTTP 404" in text and "not the address of a mirror: 127.0.0.1" in text


def test_from_a_folder_without_a_network(fake, tmp_path, monkeypatch) -> None:
    go(shards=2)
    stick = tmp_path / "stick"
    SOURCE.dir.rename(stick)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    result = go(shards=2, from_dir=stick)
    assert result.corpus and result.moved_bytes == sum(s.bytes for s in result.corpus.shards)
    fingerprint = result.corpus.fingerprint
    SOURCE.dir.rename(tmp_path / "aside")
    damaged = stick / SOURCE.shard(1)
    damaged.write_bytes(damaged.read_bytes()[:-9] + b"XXXXX" + damaged.read_bytes()[-4:])
    result = go(shards=2, from_dir=stick)
    assert [(m.path, "SHA-256" in m.reason) for m in result.missing] == [(SOURCE.shard(1), True)]
    (stick / "download.json").unlink()
    damaged.write_bytes(shard(1))
    assert go(shards=2, from_dir=stick).corpus.fingerprint == fingerprint


def test_a_disk_that_is_too_small_is_said_before(fake, monkeypatch) -> None:
    monkeypatch.setattr(acquire, "free_space", lambda _: 1000)
    with pytest.raises(EnvironmentLacks, match=r"not enough free disk for climbmix: .* needed, 1 kB free"):
        go(shards=3)
    assert not fake.store.seen and not visible()


def test_a_full_disk_stops_everything(fake, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise NanochatError("the disk is full while writing")

    monkeypatch.setattr("nanochat_cli.core.data.part.Part.write", full)
    with pytest.raises(NanochatError, match="disk is full"):
        go(shards=30, workers=2)
    assert len(fake.store.seen) < 10


def test_too_many_shards_and_foreign_corpora(fake, make_corpus, texts) -> None:
    with pytest.raises(ConfigError, match="44 shards to train on and one to validate on: 45"):
        go(shards=45)
    make_corpus(texts, name="climbmix")
    with pytest.raises(ConfigError, match="not downloaded"):
        go(shards=1)


def test_repair_fetches_what_is_damaged(fake) -> None:
    corpus = go(shards=2).corpus
    path = SOURCE.dir / SOURCE.shard(1)
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    (SOURCE.dir / SOURCE.shard(0)).unlink()
    bad = [check.file for check in downloaded.check(SOURCE) if check.problem]
    with Web(patience=PATIENCE, sleep=lambda _: None) as web:
        result = acquire.run(acquire.plan_repair(SOURCE, Wish(), web, bad), web)
    assert sorted(result.fetched) == [SOURCE.shard(0), SOURCE.shard(1)]
    assert result.corpus.fingerprint == corpus.fingerprint
    corpus.verify()


FETCH = """
import sys
from dataclasses import replace
from pathlib import Path
from nanochat_cli.core.data import acquire, sources
source = replace(sources.get("climbmix"), shards=45, approx_bytes=20_000)
with acquire.open_web(2) as web:
    result = acquire.run(acquire.plan(source, acquire.Wish(shards=4, workers=2), web), web)
print(result.moved_bytes, len(result.missing), result.corpus.fingerprint)
"""


def start() -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", FETCH], env=os.environ, stdout=pipe, stderr=pipe, text=True)


def half_there(fake: Hub) -> tuple[subprocess.Popen[str], Path]:
    """A process that got one part of a shard and hangs on the rest."""
    name = SOURCE.shard(0)
    cut = Step(claim=len(shard(0)), body=shard(0)[:1000])
    fake.store.script[f"/store/{name}"] = [replace(cut, trickle_s=0.001, body=shard(0))]
    process = start()
    part, deadline = part_path(SOURCE.dir / name), time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 200):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.005)
    return process, part


def test_a_killed_download_goes_on_where_it_was(fake) -> None:
    process, part = half_there(fake)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    here = part.stat().st_size
    others = sum(len(shard(i)) for i in (1, 2, 3, SHARDS - 1) if (SOURCE.dir / SOURCE.shard(i)).exists())
    parts = sum(p.stat().st_size for p in SOURCE.dir.glob(".*.part"))
    assert here > 200
    result = go(shards=4)
    whole = sum(s.bytes for s in result.corpus.shards)
    assert result.moved_bytes == whole - parts - others
    assert (SOURCE.dir / SOURCE.shard(0)).read_bytes() == shard(0) and not hidden()


def test_ctrl_c_leaves_what_can_be_continued(fake) -> None:
    process, part = half_there(fake)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=30)[1] and part.stat().st_size > 200
    assert go(shards=4).corpus


def test_two_processes_fetch_each_file_once(fake) -> None:
    both = [start(), start()]
    told = [process.communicate(timeout=60) for process in both]
    lines = [out.split() for out, _ in told]
    assert all(len(line) == 3 and line[1] == "0" for line in lines), told
    assert lines[0][2] == lines[1][2]
    assert sum(int(line[0]) for line in lines) == sum(s.bytes for s in Corpus.open("climbmix").shards)
    assert len(fake.store.seen) == 5 and not hidden()
    Corpus.open("climbmix").verify()


# ---- tasks and lists of files ----------------------------------------------------------------------------------------


def test_a_task_is_kept_as_it_comes(fake) -> None:
    files = {"main/train-00000.parquet": shard(1), "main/test-00000.parquet": shard(2), "README.md": b"hello"}
    fake.add("o/task", files)
    result = go(TASK)
    assert not result.missing and visible(TASK) == ["main/test-00000.parquet", "main/train-00000.parquet"]
    assert downloaded.folder_of(TASK) == TASK.dir
    assert all(check.problem is None for check in downloaded.check(TASK))
    fake.api.seen.clear()
    assert go(TASK).moved_bytes == 0 and not fake.api.seen
    (TASK.dir / "main/test-00000.parquet").write_bytes(b"short")
    assert [c.problem for c in downloaded.check(TASK) if c.problem] and not downloaded.is_complete(TASK)
    assert list(go(TASK).fetched) == ["main/test-00000.parquet"]


def test_an_incomplete_task_is_not_taken_for_one(fake) -> None:
    files = {"main/a.parquet": shard(1), "main/b.parquet": shard(2)}
    fake.add("o/task", files)
    fake.store.always["/store/main/b.parquet"] = Step(status=404)
    assert [m.path for m in go(TASK).missing] == ["main/b.parquet"]
    assert not downloaded.is_complete(TASK)
    with pytest.raises(NanochatError, match="not downloaded: task"):
        downloaded.folder_of(TASK)


@pytest.mark.parametrize(
    "name", ["../x.parquet", "/etc/x.parquet", "main/../../x.parquet", "main\\x.parquet", "main/.x.parquet", "a//b", ""]
)
def test_names_from_a_server_stay_inside(name) -> None:
    with pytest.raises(DamagedArtifact, match="cannot be kept"):
        hub.safe_path(name)


def test_a_list_with_a_bad_name_is_refused(fake) -> None:
    fake.list("o/task", [fake.entry("main/.shard.parquet", b"x")])
    with pytest.raises(DamagedArtifact, match="cannot be kept"):
        go(TASK)
    fake.list("o/task", [fake.entry("other/a.parquet", b"x")])
    with pytest.raises(DataError, match="no file of task"):
        go(TASK)


def test_a_list_may_not_go_on_elsewhere(fake) -> None:
    with serving() as other:
        other.files["/more"] = b"[]"
        path = "/api/datasets/o/task/tree/main"
        fake.api.files[path] = b"[]"
        fake.api.always[path] = Step(headers={"Link": f'<{other.url}/more>; rel="next"'})
        with pytest.raises(DataError, match="another server"):
            go(TASK)
        secret = other.url.replace("://", "://user:geheim@")
        fake.api.always[path] = Step(headers={"Link": f'<{secret}/more>; rel="next"'})
        with pytest.raises(DataError, match=f"another server: {other.url}/more "):
            go(TASK)
        assert not other.seen


def test_patterns_stay_within_a_folder() -> None:
    assert hub.matches("main/a.parquet", ("main/*.parquet",))
    assert not hub.matches("x/main/a.parquet", ("main/*.parquet",))
    assert not hub.matches("main/x/a.parquet", ("main/*.parquet",))


# ---- bundles ---------------------------------------------------------------------------------------------------------


def bundle(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return out.getvalue()


GOOD = {"eval_bundle/core.yaml": b"tasks: []", "eval_bundle/eval_data/a.jsonl": b"{}\n" * 100}


def test_a_bundle_is_unpacked_whole(fake) -> None:
    fake.store.files["/b.zip"] = bundle(GOOD)
    fake.store.script["/b.zip"] = [Step(cut_after=100)]
    source = replace(BUNDLE, url=f"{fake.store.url}/b.zip")
    result = go(source)
    assert not result.missing and result.moved_bytes == len(bundle(GOOD))
    assert (source.dir / "core.yaml").read_bytes() == b"tasks: []" and (source.dir / "eval_data/a.jsonl").exists()
    assert sorted(p.name for p in source.dir.parent.iterdir()) == [".download.lock", "bundle"]
    assert downloaded.read(source).archive.sha256 == sha(bundle(GOOD))
    assert go(source).moved_bytes == 0 and len(fake.store.seen) == 2
    (source.dir / "core.yaml").write_bytes(b"tasks: no")
    bad = [check.file for check in downloaded.check(source) if check.problem]
    assert bad == ["core.yaml"]
    with Web(patience=PATIENCE, sleep=lambda _: None) as web:
        acquire.run(acquire.plan_repair(source, Wish(), web, bad), web)
    assert (source.dir / "core.yaml").read_bytes() == b"tasks: []"


def test_two_at_once_unpack_a_bundle_once(fake) -> None:
    fake.store.files["/b.zip"] = bundle(GOOD)
    source = replace(BUNDLE, url=f"{fake.store.url}/b.zip")
    results: list[acquire.Result] = []
    threads = [threading.Thread(target=lambda: results.append(go(source))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(result.moved_bytes for result in results) == [0, 0, len(bundle(GOOD))]
    assert downloaded.is_complete(source) and len(fake.store.seen) == 1


def test_a_bundle_that_cannot_be_unpacked_leaves_nothing(fake) -> None:
    fake.store.files["/b.zip"] = bundle(GOOD | {"eval_bundle/../../evil": b"x"})
    source = replace(BUNDLE, url=f"{fake.store.url}/b.zip")
    result = go(source)
    assert "leads elsewhere" in result.missing[0].reason and not source.dir.exists()


# ---- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def nano(capsys, monkeypatch):
    from nanochat_cli import main

    monkeypatch.setattr(sources, "get", lambda name: {"climbmix": SOURCE, "task": TASK}[name])
    monkeypatch.setattr(sources, "find", lambda name: {"climbmix": SOURCE, "task": TASK}.get(name))

    def call(*argv: str) -> tuple[int, str, str]:
        code = main.run(["data", *argv])
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    return call


def test_the_command_and_what_it_says(fake, nano, monkeypatch) -> None:
    code, out, err = nano("download", "climbmix", "-n", "2", "--dry-run", "--json")
    dry = json.loads(out)
    assert code == 0 and dry["files_to_fetch"] == 3 and dry["sizes_are_exact"] and not SOURCE.dir.exists()
    code, out, err = nano("download", "climbmix", "-n", "2", "-w", "2", "--json")
    done = json.loads(out)
    assert code == 0 and done["moved_bytes"] == dry["bytes_to_fetch"] and done["missing"] == []
    code, out, err = nano("download", "climbmix", "-n", "2")
    assert code == 0 and "0 bytes moved" in err and "nanochat tok train --input climbmix" in err
    assert nano("verify", "climbmix")[0] == 0
    (SOURCE.dir / SOURCE.shard(0)).write_bytes(b"x")
    code, out, err = nano("verify", "climbmix")
    assert code == 1 and "hint: fetch them again: nanochat data repair climbmix" in err
    code, out, err = nano("repair", "climbmix", "--json")
    assert code == 0 and json.loads(out)["fetched"] == 1
    assert "nothing is damaged" in nano("repair", "climbmix")[1]
    fake.api.always[f"/datasets/{REPO}/resolve/main/{SOURCE.shard(2)}"] = Step(status=404)
    code, out, err = nano("download", "climbmix", "-n", "3")
    assert code == 1 and f"1 of 4 files of climbmix are missing: {SOURCE.shard(2)}" in err
    code, out, err = nano("download", "climbmix", "-n", "3", "--json")
    assert code == 1 and [m["path"] for m in json.loads(out)["missing"]] == [SOURCE.shard(2)]


def test_tasks_are_verified_and_repaired(fake, nano) -> None:
    fake.add("o/task", {"main/a.parquet": shard(1)})
    assert nano("verify", "task")[0] == 3
    assert nano("download", "task")[0] == 0 and nano("verify", "task")[0] == 0
    (TASK.dir / "main/a.parquet").unlink()
    code, _, err = nano("verify", "task")
    assert code == 1 and "main/a.parquet (missing)" in err and "nanochat data repair task" in err
    assert nano("repair", "task")[0] == 0 and nano("verify", "task")[0] == 0
    assert nano("download", "task", "-n", "3")[0] == 2


def test_repair_of_what_was_made_here_names_the_command(nano, base_dir) -> None:
    assert nano("synth", "--documents", "50", "--chats", "0", "--name", "world", "-q")[0] == 0
    assert nano("repair", "world")[0] == 0
    path = base_dir / "data" / "world" / "train-00000.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    code, _, err = nano("repair", "world")
    assert code == 1 and "nanochat data synth --name world --documents 50 --chats 0 --seed 0 --force" in err


def test_unknown_names_and_the_list(cli) -> None:
    done = cli("data", "download", "clmbmix")
    assert done.returncode == 2 and "did you mean climbmix?" in done.stderr
    assert cli("data", "download").returncode == 2
    listed = json.loads(cli("data", "download", "--list", "--json").stdout)
    assert {"climbmix", "fineweb-edu", "smoltalk", "mmlu", "arc", "gsm8k", "humaneval", "words"} <= {
        row["name"] for row in listed
    }
    assert all(row["here"] == "no" and row["licence"] and row["purpose"] for row in listed)
