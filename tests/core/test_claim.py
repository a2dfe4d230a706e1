"""Claims on files and folders, with the system's locks and without: what is held is held, what died is free."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanochat_cli.core import lockmark
from nanochat_cli.core.claim import Claim, mark_of
from nanochat_cli.core.data import downloaded, journal, staging
from nanochat_cli.core.data.part import Note, hold, part_path
from nanochat_cli.core.errors import ConfigError

HOLD = """
import errno, fcntl, os, sys, time
from pathlib import Path
from nanochat_cli.core.claim import Claim
def refuses(*_): raise OSError(errno.ENOLCK, "no locks")
if sys.argv[2] == "none":
    fcntl.flock = refuses
assert Claim(Path(sys.argv[1])).take(os.open(sys.argv[1], os.O_RDONLY))
print("held", flush=True)
time.sleep(60)
"""


def refuses(*_: Any) -> None:
    raise OSError(errno.EOPNOTSUPP, "no locks here")


@pytest.fixture(params=["flock", "none"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "none":
        monkeypatch.setattr(fcntl, "flock", refuses)
    monkeypatch.setattr(lockmark, "GRACE_S", 0.3)
    return request.param


@pytest.fixture
def handle(tmp_path: Path) -> Iterator[int]:
    made = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    yield made
    os.close(made)


def test_only_one_has_it_and_nothing_stays(how, handle, tmp_path) -> None:
    first, second = Claim(tmp_path / "f"), Claim(tmp_path / "f")
    other = os.open(tmp_path / "f", os.O_RDWR)
    assert first.take(handle) and not second.take(other) and not second.take_now(other)
    assert (tmp_path / ".f.held").exists() == (how == "none")
    fcntl.flock(handle, fcntl.LOCK_UN) if how == "flock" else first.release()
    assert second.take(other)
    os.close(other)
    second.release()
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_it_is_kept_from_other_processes_until_they_die(how, handle, tmp_path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "f"), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        claim = Claim(tmp_path / "f")
        assert not claim.take_now(handle)
        process.kill()
        process.wait()
        claim.wait(handle)
        claim.release()
    assert not mark_of(tmp_path / "f").exists()


def test_what_the_data_commands_lock_is_locked(how, tmp_path) -> None:
    final = tmp_path / "c"
    with journal.workspace(final, "adding") as space:
        (space.dir / "x").write_text("x")
        with pytest.raises(ConfigError, match="another command is making this corpus right now: c"):
            with journal.workspace(final, "adding"):
                pass
        space.finished = True
    with staging.staged(final) as folder:
        os.utime(folder, (1, 1))
        staging.sweep(tmp_path)
        assert folder.is_dir()
    folder.mkdir()
    os.utime(folder, (1, 1))
    staging.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_threads_take_turns_at_a_record_and_at_a_part(how, tmp_path) -> None:
    inside: list[int] = []

    def one(number: int) -> None:
        with downloaded.locked(tmp_path / "d"):
            inside.append(number)
            time.sleep(0.02)
            assert inside[-1] == number
        with hold(tmp_path / "d" / "f", lambda s: time.sleep(s / 10)) as part:
            assert part.size == 0 or part.path.read_bytes() == b"x" * part.size
            part.begin(Note("x"))
            part.write(b"x")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(inside) == [0, 1, 2] and part_path(tmp_path / "d" / "f").read_bytes() == b"xxx"
    assert not list((tmp_path / "d").glob("*.held")) + list((tmp_path / "d").glob(".*.held"))
