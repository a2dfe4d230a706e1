"""One file over a bad network: what arrives is right, what was there is used, and nothing goes on for ever."""

from __future__ import annotations

import fcntl
import hashlib
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat_cli.core.data.download import FetchFailed, Got, Wanted, fetch
from nanochat_cli.core.data.part import Note, hold, note_path, part_path
from nanochat_cli.core.data.web import Patience, Stopped, Web, clean_url, retry_after
from nanochat_cli.core.errors import DataError
from tests.core.data.http_faults import Server, Step, etag_of, serving

DATA = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
PATIENCE = Patience(tries=6, worth_bytes=1 << 30, read_s=5, connect_s=5, window_s=0.2, slowest_bytes_per_s=2000)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        running.files["/f"] = DATA
        yield running


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def web(waits) -> Iterator[Web]:
    with Web(patience=PATIENCE, sleep=waits.append, chance=lambda: 1.0) as made:
        yield made


@pytest.fixture
def get(server, web, tmp_path):
    def call(path: str = "/f", *, known: bool = True, **more) -> Got:
        urls = more.pop("urls", (server.url + path,))
        facts = {"size": len(DATA), "sha256": SHA256} if known else {}
        wanted = Wanted(path="f", urls=urls, **{**facts, **more})
        return fetch(wanted, tmp_path / "d" / "f", web, check=more.pop("check", lambda _: None))

    return call


def whole(tmp_path: Path) -> None:
    """The file is right, and nothing else is left."""
    assert (tmp_path / "d" / "f").read_bytes() == DATA
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["f"]


@pytest.mark.parametrize("known", [True, False])
def test_a_file_comes_as_it_is(get, server, tmp_path, known) -> None:
    got = get(known=known)
    assert got == Got(size=len(DATA), sha256=SHA256, moved=len(DATA), etag=etag_of(DATA), url=f"{server.url}/f")
    whole(tmp_path)
    assert len(server.seen) == 1


@pytest.mark.parametrize("known", [True, False])
def test_what_broke_off_is_continued_and_not_sent_again(get, server, tmp_path, waits, known) -> None:
    server.script["/f"] = [Step(cut_after=n) for n in (100_000, 50_000, 1)]
    assert get(known=known).moved == len(DATA)
    whole(tmp_path)
    ranges = [seen.headers.get("range") for seen in server.requests("/f")]
    assert ranges == [None, "bytes=100000-", "bytes=150000-", "bytes=150001-"]
    assert all(seen.headers.get("if-range") == etag_of(DATA) for seen in server.requests("/f")[1:])
    assert waits == [1, 2, 4]


@pytest.mark.parametrize(
    ("step", "sent_again"),
    [
        (Step(body=bytes(len(DATA))), True),  # the right length, other bytes
        (Step(claim=1000), False),  # a length that is too small
        (Step(claim=len(DATA) + 1000), False),  # a length that never comes
        (Step(body=DATA + b"more"), True),
        (Step(body=b"<html>please log in</html>"), True),
        (Step(status=429, headers={"Retry-After": "7"}), False),
        (Step(status=503), False),
        (Step(status=500), False),
    ],
    ids=["bytes", "short", "long", "more", "html", "429", "503", "500"],
)
def test_each_fault_is_overcome(get, server, tmp_path, waits, step, sent_again) -> None:
    server.script["/f"] = [step]
    got = get()
    assert got.sha256 == SHA256 and len(server.seen) <= 4
    whole(tmp_path)
    assert (got.moved > len(DATA)) == sent_again
    if step.status == 429:
        assert waits == [7]


def test_a_wait_that_is_asked_for_is_bounded(get, server, waits) -> None:
    server.script["/f"] = [Step(status=503, headers={"Retry-After": "999999"})]
    get()
    assert waits == [PATIENCE.longest_asked_wait_s]


def test_retry_after_may_be_a_date() -> None:
    assert retry_after("Wed, 21 Oct 2015 07:28:10 GMT", now=1445412480.0) == 10
    assert (retry_after("5"), retry_after(None), retry_after("soon")) == (5, None, None)


def test_waits_grow_to_a_bound_and_are_a_random_share(waits) -> None:
    with Web(patience=PATIENCE, sleep=waits.append, chance=lambda: 0.5) as web:
        for turn in range(9):
            web.wait(turn)
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_trickle_is_left_and_continued(get, server, tmp_path) -> None:
    server.script["/f"] = [Step(trickle_s=0.02)]
    got = get()
    whole(tmp_path)
    assert got.moved == len(DATA)
    first = int(server.requests("/f")[1].headers["range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < first < 1000


@pytest.mark.parametrize("known", [True, False])
def test_a_file_that_changes_between_two_parts_starts_over(get, server, tmp_path, known) -> None:
    old = random.Random(2).randbytes(len(DATA))
    server.script["/f"] = [Step(body=old, etag='"old"', cut_after=100_000)]
    got = get(known=known)
    whole(tmp_path)
    assert got.moved == len(DATA) + 100_000 and len(server.seen) == 2


def test_a_206_of_another_version_is_not_joined(get, server, tmp_path) -> None:
    """A server that heeds Range and not If-Range says so by its ETag only."""
    server.script["/f"] = [
        Step(body=bytes(len(DATA)), etag='"old"', cut_after=100_000),
        Step(etag='"old"', headers={"ETag": '"new"'}, no_etag=True),
    ]
    get(known=False)
    whole(tmp_path)


def test_a_server_without_ranges_sends_all_of_it(get, server, tmp_path) -> None:
    server.script["/f"] = [Step(cut_after=100_000), Step(ignore_range=True)]
    assert get().moved == len(DATA) + 100_000
    whole(tmp_path)


def test_a_part_that_is_too_long_starts_over(get, server, tmp_path) -> None:
    (tmp_path / "d").mkdir()
    with hold(tmp_path / "d" / "f", time.sleep) as part:
        part.begin(Note("x", etag_of(DATA), None, None))
        part.write(DATA + b"x")
    server.script["/f"] = [Step(status=416)]
    assert get(known=False).moved == len(DATA)
    whole(tmp_path)


def test_a_part_without_note_or_validator_is_not_trusted(get, server, tmp_path) -> None:
    (tmp_path / "d").mkdir()
    part_path(tmp_path / "d" / "f").write_bytes(b"x" * 1000)
    get(known=False)
    whole(tmp_path)
    (tmp_path / "d" / "f").unlink()
    server.script["/f"] = [Step(cut_after=1000, no_etag=True)]
    assert get(known=False).moved == len(DATA) + 1000
    whole(tmp_path)


def test_a_whole_part_moves_nothing(get, server, tmp_path) -> None:
    (tmp_path / "d").mkdir()
    with hold(tmp_path / "d" / "f", time.sleep) as part:
        part.begin(Note("x", etag_of(DATA), len(DATA), SHA256))
        part.write(DATA)
    assert get().moved == 0 and not server.seen
    whole(tmp_path)


def test_a_file_that_is_here_is_checked_and_kept(get, server, tmp_path) -> None:
    get()
    assert get().moved == 0 and len(server.seen) == 1
    (tmp_path / "d" / "f").write_bytes(DATA[:-1] + b"\0")
    assert get().moved == len(DATA)
    whole(tmp_path)


@pytest.mark.parametrize(
    "step", [Step(cut_after=0), Step(status=503), Step(body=bytes(len(DATA)))], ids=["cut", "503", "wrong"]
)
def test_tries_end(get, server, tmp_path, step) -> None:
    server.always["/f"] = step
    with pytest.raises(FetchFailed, match="tries"):
        get()
    assert len(server.seen) <= PATIENCE.tries
    assert not list((tmp_path / "d").iterdir())


def test_a_try_that_brought_something_new_does_not_count(server, tmp_path, waits) -> None:
    patience = Patience(tries=2, worth_bytes=10_000)
    server.script["/f"] = [Step(cut_after=20_000) for _ in range(9)]
    with Web(patience=patience, sleep=waits.append) as web:
        fetch(Wanted(path="f", urls=(f"{server.url}/f",), sha256=SHA256), tmp_path / "d" / "f", web)
    whole(tmp_path)
    server.always["/f"] = Step(cut_after=20_000, ignore_range=True)  # the same bytes again and again are nothing new
    with Web(patience=patience, sleep=waits.append) as web, pytest.raises(FetchFailed):
        fetch(Wanted(path="f", urls=(f"{server.url}/f",), sha256=SHA256), tmp_path / "e" / "f", web)


def test_the_next_mirror_is_asked(get, server, tmp_path) -> None:
    server.files["/m/f"] = DATA
    server.script["/m/f"] = [Step(cut_after=1000), Step(status=404)]
    got = get(urls=(f"{server.url}/none", f"{server.url}/m/f", f"{server.url}/f"))
    whole(tmp_path)
    assert got.moved == len(DATA) and got.url == f"{server.url}/f"
    assert len(server.requests("/none")) == 1  # never again after a 404
    (tmp_path / "d" / "f").unlink()
    with pytest.raises(FetchFailed, match=r"HTTP 404 from http://.*/none$"):
        get(urls=(f"{server.url}/none",))


@pytest.fixture
def two(server) -> tuple[str, str]:
    """Two mirrors of the file that name its content differently."""
    for name in ("a", "b"):
        server.files[f"/{name}"] = DATA
        server.always[f"/{name}"] = Step(etag=f'"{name}"')
    return f"{server.url}/a", f"{server.url}/b"


def cuts(name: str, *sizes: int) -> list[Step]:
    return [Step(etag=f'"{name}"', cut_after=size) for size in sizes]


def test_another_mirror_continues_what_has_a_known_hash(get, server, two, tmp_path) -> None:
    server.script |= {"/a": cuts("a", 100_000, 50_000), "/b": cuts("b", 20_000, 30_000)}
    assert get(urls=two).moved == len(DATA)
    whole(tmp_path)
    asked = [(seen.path, seen.headers.get("range"), seen.headers.get("if-range")) for seen in server.seen]
    assert [(path, offset) for path, offset, _ in asked] == [
        ("/a", None),
        ("/b", "bytes=100000-"),
        ("/a", "bytes=120000-"),
        ("/b", "bytes=170000-"),
        ("/a", "bytes=200000-"),
    ]
    assert {condition for _, _, condition in asked} == {None}


def test_without_a_hash_the_source_stays_the_same(get, server, two, tmp_path, web) -> None:
    server.script["/a"] = [*cuts("a", 100_000), Step(status=503), *cuts("a", 50_000)]
    assert get(urls=two, known=False).moved == len(DATA)
    whole(tmp_path)
    assert not server.requests("/b")
    (tmp_path / "d" / "f").unlink()
    server.script |= {"/a": [Step(status=503)], "/b": cuts("b", 100_000)}
    web._sleep = lambda _: web.stop.set() if server.requests("/b") else None
    with pytest.raises(Stopped):
        get(urls=two, known=False)
    web.stop.clear()
    before = len(server.seen)
    assert get(urls=two, known=False).moved == len(DATA) - 100_000  # a later run knows where it was
    assert [seen.path for seen in server.seen[before:]] == ["/b"]


def test_without_a_hash_a_source_that_gives_nothing_more_is_left(get, server, two, tmp_path) -> None:
    server.script["/a"] = cuts("a", 100_000)
    server.script["/a"] += [Step(status=503)] * 9
    got = get(urls=two, known=False)
    assert (got.moved, got.url) == (len(DATA) + 100_000, two[1])
    whole(tmp_path)


def test_a_mirror_with_another_version_costs_nothing(get, server, two, tmp_path) -> None:
    server.files["/b"] = DATA + b"more"
    server.script["/a"] = cuts("a", 100_000)
    assert get(urls=two).moved == len(DATA)
    whole(tmp_path)


def test_a_mirror_that_continues_with_other_bytes_is_found_out(get, server, two, tmp_path) -> None:
    server.files["/b"] = bytes(len(DATA))
    server.script["/a"] = cuts("a", 100_000)
    assert get(urls=two).sha256 == SHA256
    whole(tmp_path)


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://user:pw@m.example:8/a/b?token=pw#pw", "https://m.example:8/a/b"),
        ("https://m.example/a@b/c", "https://m.example/a@b/c"),
        ("user:pw@m.example/a", "m.example/a"),
        ("https://user:p/w@m.example/a", "(unreadable address)"),
        ("https://user:pw@[m.example/a", "(unreadable address)"),
    ],
)
def test_addresses_are_shown_without_what_is_secret(url, clean) -> None:
    assert clean_url(url) == clean


@pytest.mark.parametrize("address", ["https://user:p/w@m.example", "https://user:pw@[m.example", "ftp://u:pw@m"])
def test_an_address_that_cannot_be_asked_is_not_shown_with_its_password(get, address) -> None:
    with pytest.raises(FetchFailed) as caught:
        get(urls=(f"{address}/f",))
    assert "pw" not in str(caught.value) and "'p'" not in str(caught.value)


def test_a_refusal_says_what_may_help(get, server) -> None:
    server.always["/f"] = Step(status=401)
    with pytest.raises(FetchFailed, match=r"HTTP 401 .*HF_TOKEN"):
        get()


def test_content_that_the_check_refuses(server, web, tmp_path) -> None:
    def check(path: Path) -> None:
        assert path.read_bytes() == DATA
        raise DataError("not what it should be")

    with pytest.raises(FetchFailed, match="not what it should be, after 5 tries"):
        fetch(Wanted(path="f", urls=(f"{server.url}/f",)), tmp_path / "d" / "f", web, check=check)
    assert not (tmp_path / "d" / "f").exists()


def test_a_file_of_unknown_size_is_bounded(get, tmp_path) -> None:
    with pytest.raises(FetchFailed, match="1,000 at most are expected"):
        get(known=False, limit=1000)


def test_the_redirect_of_the_hub_tells_hash_and_size(server, web, tmp_path) -> None:
    headers = {"X-Linked-Etag": f'"{SHA256}"', "X-Linked-Size": str(len(DATA))}
    server.always["/hub"] = Step(redirect="/f", headers=headers)
    server.script["/f"] = [Step(body=bytes(len(DATA)))]
    got = fetch(Wanted(path="f", urls=(f"{server.url}/hub",)), tmp_path / "d" / "f", web)
    assert got.moved == 2 * len(DATA)
    whole(tmp_path)


def test_the_token_stays_with_its_origin(server, tmp_path) -> None:
    with serving() as other:
        other.files["/cdn"] = DATA
        server.always["/hub"] = Step(redirect="/again")
        server.always["/again"] = Step(redirect=f"{other.url}/cdn?signature=1")
        other.always["/back"] = Step(redirect=f"{server.url}/f")
        with Web(token="hf_secret", token_origin=server.url, patience=PATIENCE, sleep=lambda _: None) as web:
            got = fetch(Wanted(path="f", urls=(f"{server.url}/hub",)), tmp_path / "d" / "f", web)
            fetch(Wanted(path="f", urls=(f"{other.url}/cdn",)), tmp_path / "e" / "f", web)
        assert [seen.headers.get("authorization") for seen in server.seen] == ["Bearer hf_secret"] * 2
        assert len(other.seen) == 2 and not [seen for seen in other.seen if "authorization" in seen.headers]
    assert got.url == f"{server.url}/hub"


@pytest.mark.parametrize("address", ["http://hub.example", "ftp://hub.example"])
def test_a_token_is_not_sent_in_the_clear(address) -> None:
    with Web(token="hf_secret", token_origin=address) as web:
        assert web._token is None


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.org/x"])
def test_redirects_lead_to_the_web_only(get, server, target) -> None:
    server.always["/f"] = Step(redirect=target)
    with pytest.raises(FetchFailed, match="not safe"):
        get()


def test_redirects_in_a_circle_end(get, server) -> None:
    server.always["/f"] = Step(redirect="/f")
    with pytest.raises(FetchFailed, match="redirects"):
        get()
    assert len(server.seen) < 10


def test_stopping_leaves_a_part_that_is_continued(get, server, web, tmp_path, waits) -> None:
    server.script["/f"] = [Step(cut_after=100_000)]
    web._sleep = lambda _: web.stop.set()
    with pytest.raises(Stopped):
        get()
    assert part_path(tmp_path / "d" / "f").stat().st_size == 100_000 and note_path(tmp_path / "d" / "f").exists()
    web.stop.clear()
    assert get().moved == len(DATA) - 100_000
    whole(tmp_path)


def test_two_at_once_fetch_it_once(server, tmp_path) -> None:
    got: list[Got] = []

    def one() -> None:
        with Web(patience=PATIENCE, sleep=lambda s: time.sleep(min(s, 0.01))) as web:
            got.append(fetch(Wanted(path="f", urls=(f"{server.url}/f",), sha256=SHA256), tmp_path / "d" / "f", web))

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(one.moved for one in got) == [0] * 5 + [len(DATA)]
    assert len(server.seen) == 1
    whole(tmp_path)


def test_a_part_that_got_its_name_meanwhile_is_no_part(tmp_path, monkeypatch) -> None:
    """Between opening and locking it, another process may have published it: to write on would ruin the final file."""
    final, real = tmp_path / "f", fcntl.flock
    part_path(final).write_bytes(DATA)

    def late(handle: int, how: int) -> None:
        if part_path(final).exists() and not final.exists():
            part_path(final).replace(final)
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with hold(final, time.sleep) as part:
        part.begin(Note("x"))
        part.write(b"other")
    assert final.read_bytes() == DATA and part_path(final).read_bytes() == b"other"


def test_a_part_without_note_is_nothing_even_at_full_size(get, server, tmp_path) -> None:
    (tmp_path / "d").mkdir()
    part_path(tmp_path / "d" / "f").write_bytes(bytes(len(DATA)))
    get(sha256=None)
    whole(tmp_path)


def test_copies_from_a_folder_are_checked_too(web, tmp_path) -> None:
    (tmp_path / "usb").write_bytes(DATA)
    wanted = Wanted(path="f", file=tmp_path / "usb", sha256=SHA256)
    assert fetch(wanted, tmp_path / "d" / "f", web).moved == len(DATA)
    whole(tmp_path)
    (tmp_path / "usb").write_bytes(DATA[:-1] + b"\0")
    with pytest.raises(FetchFailed, match="SHA-256"):
        fetch(wanted, tmp_path / "e" / "f", web)
    with pytest.raises(FetchFailed, match="cannot be read"):
        fetch(Wanted(path="f", file=tmp_path / "none"), tmp_path / "e" / "f", web)
    assert not list((tmp_path / "e").iterdir())
