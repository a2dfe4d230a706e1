"""Locks: with flock, and with the file that stands in for it where a file system has none."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nanochat_cli.core import lockholder, lockmark, runlock
from nanochat_cli.core.errors import NanochatError

HOLD = """
import fcntl, errno, sys, time
from pathlib import Path
from nanochat_cli.core import runlock
if sys.argv[2] == "none":
    def refuses(*_): raise OSError(errno.ENOLCK, "no locks")
    fcntl.flock = refuses
with runlock.lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path, how: str = "flock") -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), how], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP])
def no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> None:
        raise OSError(request.param, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuses)


def mark(folder: Path, **facts: Any) -> Path:
    """A mark left by somebody else."""
    path = folder / runlock.MARK
    path.write_text(
        json.dumps({"pid": 1, "host": "far", "boot": "b", "space": "s", "token": "t", "since": 1.7e9} | facts)
    )
    return path


def test_the_holder_is_named_with_host_and_time(tmp_path: Path) -> None:
    with hold(tmp_path) as process:
        who = runlock.holder(tmp_path)
        assert who is not None and who.pid == process.pid and who.is_here and who.is_alive
        with pytest.raises(NanochatError, match=rf"\(pid {process.pid} on .+, since 2\d\d\d-") as caught:
            with runlock.lock(tmp_path, wait_s=0):
                pass
        assert "--takeover" not in (caught.value.hint or "")
        with pytest.raises(NanochatError, match="runs on this machine") as caught:
            with runlock.lock(tmp_path, wait_s=0, takeover=True):
                pass
        assert caught.value.hint == f"stop it first: kill {process.pid}"
        process.kill()
    assert runlock.holder(tmp_path) is None


def test_a_lock_kept_by_a_server_for_a_machine_that_is_gone_can_be_taken_over(tmp_path: Path) -> None:
    with hold(tmp_path) as process:
        (tmp_path / "lock").write_text(json.dumps({"pid": 7, "host": "far", "boot": "x", "space": "y"}))
        with pytest.raises(NanochatError, match="pid 7 on far") as caught:
            with runlock.lock(tmp_path, wait_s=0):
                pass
        assert "if far is gone for good: --takeover" in (caught.value.hint or "")
        with runlock.lock(tmp_path, wait_s=0, takeover=True):
            assert runlock.is_held(tmp_path)
        process.kill()


def test_a_lock_on_a_folder_that_was_taken_away_is_not_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    real = fcntl.flock

    def slow(handle: int, how: int) -> None:
        real(handle, how)
        if folder.exists():
            folder.rename(tmp_path / "b")

    monkeypatch.setattr(fcntl, "flock", slow)
    with pytest.raises(FileNotFoundError):
        with runlock.lock(folder, wait_s=1):
            pass


def test_the_lock_file_of_an_earlier_version_is_understood(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("1234")
    with (tmp_path / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert str(runlock.holder(tmp_path)) == "pid 1234"
    (tmp_path / "lock").write_bytes(b"\xff{[")
    with runlock.lock(tmp_path, wait_s=0):
        pass


# ---- without flock ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_flock")
def test_without_flock_a_mark_keeps_others_out_and_goes_with_its_holder(tmp_path: Path) -> None:
    with runlock.lock(tmp_path):
        assert runlock.is_held(tmp_path)
        who = runlock.holder(tmp_path)
        assert who is not None and who.pid == os.getpid()
        with pytest.raises(NanochatError, match=f"pid {os.getpid()} on "):
            with runlock.lock(tmp_path, wait_s=0):
                pass
    assert not runlock.is_held(tmp_path) and not (tmp_path / runlock.MARK).exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lock"]


@pytest.mark.usefixtures("no_flock")
def test_without_flock_a_killed_holder_frees_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockmark, "GRACE_S", 0.2)
    with hold(tmp_path, "none") as process:
        assert runlock.is_held(tmp_path)
        process.kill()
    assert not runlock.is_held(tmp_path) and runlock.has_stale_mark(tmp_path)
    with runlock.lock(tmp_path, wait_s=0):
        assert runlock.is_held(tmp_path)


@pytest.mark.usefixtures("no_flock")
def test_a_number_given_again_is_another_process(tmp_path: Path) -> None:
    me = lockholder.me()
    mark(tmp_path, pid=me.pid, host=me.host, boot=me.boot, space=me.space, started="1")
    assert not runlock.is_held(tmp_path)


@pytest.mark.usefixtures("no_flock")
def test_a_holder_elsewhere_is_dead_after_three_missed_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mark(tmp_path)
    assert runlock.is_held(tmp_path)
    os.utime(path, (time.time() - 60, time.time() - 60))
    assert not runlock.is_held(tmp_path)
    ahead = time.time() + 1e6  # its clock, or ours, is wrong: rather held than two at work
    os.utime(path, (ahead, ahead))
    assert runlock.is_held(tmp_path)
    monkeypatch.setattr(lockmark, "BEAT_S", 0.1)  # seen as still for three beats, whatever the clocks say
    began = time.monotonic()
    with runlock.lock(tmp_path, wait_s=0):
        assert time.monotonic() - began >= 0.3
        assert (runlock.holder(tmp_path) or lockholder.Holder()).pid == os.getpid()


@pytest.mark.usefixtures("no_flock")
def test_a_holder_elsewhere_that_beats_is_left_alone_unless_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark(tmp_path)
    real = lockmark.read_mark

    def beating(asked: Path) -> Any:
        found = real(asked)
        return found and (found[0], time.monotonic())

    with monkeypatch.context() as patch:
        patch.setattr(lockmark, "read_mark", beating)
        with pytest.raises(NanochatError, match="pid 1 on far, since 2023-") as caught:
            with runlock.lock(tmp_path, wait_s=0.3):
                pass
        assert "if far is gone for good: --takeover" in (caught.value.hint or "")
        with pytest.raises(NanochatError) as caught:  # a command without that option does not speak of it
            with runlock.lock(tmp_path, wait_s=0.3, takeover=None):
                pass
        assert "--takeover" not in (caught.value.hint or "")
    with runlock.lock(tmp_path, wait_s=0, takeover=True):
        assert (runlock.holder(tmp_path) or lockholder.Holder()).pid == os.getpid()


@pytest.mark.usefixtures("no_flock")
def test_the_mark_is_touched_and_not_after_it_was_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockmark, "BEAT_S", 0.02)
    with runlock.lock(tmp_path):
        path = tmp_path / runlock.MARK
        os.utime(path, (1e9, 1e9))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime < 1.5e9:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        mark(tmp_path)
    assert json.loads(path.read_text())["host"] == "far"  # released, it is not ours to delete


def test_a_mark_is_respected_by_who_has_flock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hold(tmp_path, "none") as process:
        with pytest.raises(NanochatError, match=f"pid {process.pid} "):
            with runlock.lock(tmp_path, wait_s=0):
                pass
        process.kill()
    monkeypatch.setattr(lockmark, "GRACE_S", 0.1)
    with runlock.lock(tmp_path, wait_s=0):
        assert not (tmp_path / runlock.MARK).exists()


def test_only_one_of_many_gets_it(tmp_path: Path) -> None:
    code = HOLD.replace("time.sleep(60)", "(Path(sys.argv[1]) / str(__import__('os').getpid())).touch(); time.sleep(1)")
    code = code.replace("lock(Path(sys.argv[1]))", "lock(Path(sys.argv[1]), wait_s=0)")
    for how in ("flock", "none"):
        folder = tmp_path / how
        folder.mkdir()
        argv = [sys.executable, "-c", code, str(folder), how]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        several = [subprocess.Popen(argv, **quiet) for _ in range(4)]  # type: ignore[call-overload]
        codes = [process.wait() for process in several]
        got = [path for path in folder.iterdir() if path.name.isdigit()]
        assert len(got) == codes.count(0) >= 1
        if codes.count(0) > 1:  # a slow start: the first had left before the last came
            continue
        assert codes.count(1) == 3


def test_a_folder_that_may_only_be_read_can_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with runlock.lock(tmp_path):
        pass
    real = os.open

    def reads_only(path: Any, flags: int, *more: Any) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise OSError(errno.EROFS, "read-only")
        return real(path, flags, *more)

    def no_locks(*_: Any) -> None:
        raise OSError(errno.EBADF, "not for a file that is only read")

    monkeypatch.setattr(os, "open", reads_only)
    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert not runlock.is_held(tmp_path) and runlock.holder(tmp_path) is None


# ---- losing it -------------------------------------------------------------------------------------------------------


def wait_until_lost(handle: int) -> None:
    deadline = time.monotonic() + 20
    while not runlock.lost(handle):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.usefixtures("no_flock")
def test_a_holder_whose_mark_was_taken_over_finds_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockmark, "BEAT_S", 0.02)
    with runlock.lock(tmp_path) as handle:
        time.sleep(0.1)
        assert not runlock.lost(handle)
        path = mark(tmp_path)
        wait_until_lost(handle)
    assert json.loads(path.read_text())["host"] == "far"


@pytest.mark.usefixtures("no_flock")
def test_so_does_one_whose_successor_has_left_again_but_not_one_that_was_only_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lockmark, "BEAT_S", 0.02)
    monkeypatch.setattr(lockmark, "_LOOK_AGAIN_S", 0.3)
    with runlock.lock(tmp_path) as handle:
        path = tmp_path / runlock.MARK
        path.rename(tmp_path / "away")
        time.sleep(0.1)
        (tmp_path / "away").rename(path)  # as `_remove` does with a mark that turns out to be another's
        time.sleep(0.5)
        assert not runlock.lost(handle)
        path.unlink()
        wait_until_lost(handle)


@pytest.mark.usefixtures("no_flock")
def test_a_disk_that_does_not_answer_for_a_while_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockmark, "BEAT_S", 0.01)
    asked: list[Path] = []

    def stale(path: Path) -> Any:
        asked.append(path)
        raise OSError(errno.ESTALE, "stale")

    with runlock.lock(tmp_path) as handle:
        with monkeypatch.context() as patch:
            patch.setattr(lockmark, "_owner", stale)
            while len(asked) < 5:
                time.sleep(0.01)
        assert not runlock.lost(handle)


def test_a_lock_that_was_taken_over_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runlock, "_LOOK_EVERY_S", 0.0)
    with runlock.lock(tmp_path) as handle:
        assert not runlock.lost(handle)
        (tmp_path / "lock").write_text(json.dumps({"pid": 7, "host": "far", "boot": "x", "space": "y"}))
        with runlock.lock(tmp_path, wait_s=0, takeover=True) as other:
            assert runlock.lost(handle) and not runlock.lost(other)
