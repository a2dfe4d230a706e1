from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat_cli.core import faults
from nanochat_cli.core.errors import ConfigError


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    faults.arm(environ={})


def arm(text: str, rank: int = 0, attempt: int = 0) -> None:
    faults.arm(rank=rank, attempt=attempt, environ={"NANOCHAT_FAULT": text})


def test_without_the_variable_nothing_happens() -> None:
    faults.arm(environ={})
    faults.at_step(0)
    faults.at_phase("rename")
    assert faults.on_batch(0) is None and faults.on_write(0, 17) == 17


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("explode@step:3", "no fault"),
        ("kill", "no fault"),
        ("kill@step:x", "not a number"),
        ("kill@phase:nowhere", "no phase"),
        ("nan@step:3", "knows no: step"),
    ],
)
def test_a_bad_fault_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        arm(text)


def test_batches_give_no_number_or_too_large_a_one() -> None:
    arm("nan@batch:4,times:2;spike@batch:9,by:50")
    found = [faults.on_batch(batch) for batch in range(11)]
    assert [i for i, f in enumerate(found) if f is not None] == [4, 5, 9]
    assert math.isnan(found[4] or 0) and found[9] == 50


def test_the_disk_is_full_at_a_byte_of_every_checkpoint() -> None:
    arm("enospc@byte:100")
    for _ in range(2):
        assert faults.on_write(0, 64) == 64 and faults.on_write(64, 64) == 36
        with pytest.raises(OSError, match="No space") as caught:
            faults.on_write(100, 1)
        assert caught.value.errno == errno.ENOSPC
    arm("enospc@byte:0,times:1")
    with pytest.raises(OSError, match="No space"):
        faults.on_write(0, 1)
    assert faults.on_write(0, 1) == 1


def test_a_fault_may_be_one_process_s_and_one_attempt_s(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(number))
    for rank, attempt in ((0, 0), (1, 0), (1, 1)):
        arm("kill@step:3,rank:1,attempt:0", rank, attempt)
        faults.at_step(2)
        faults.at_step(3)
    assert killed == [signal.SIGKILL]


def test_a_bit_flips(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(range(9)))
    arm("flip@byte:4")
    faults.on_published(path)
    assert path.read_bytes() == bytes([0, 1, 2, 3, 5, 5, 6, 7, 8])


def test_every_phase_is_one_of_a_save() -> None:
    """A phase that is only in the list would be a test of nothing."""
    core = Path(faults.__file__).parent
    text = (core / "snapshot.py").read_text() + (core / "stepdirs.py").read_text()
    assert all(f'at_phase("{phase}")' in text for phase in faults.PHASES)


def test_a_kill_is_a_kill() -> None:
    code = "from nanochat_cli.core import faults; faults.arm(); faults.at_phase('rename'); print('alive')"
    env = {**os.environ, "NANOCHAT_FAULT": "kill@phase:rename"}
    ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "")
