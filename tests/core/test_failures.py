"""The cause is the process that failed by itself, not those that then lost it, however early they speak."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nanochat_cli.core import errors, failures
from nanochat_cli.core.errors import Diverged, NanochatError, PeerFailed

KILLED = """
nanochat_cli.worker FAILED
Failures:
[1]:
  time      : 2026-01-01_00:00:00
  host      : box
  rank      : 0 (local_rank: 0)
  exitcode  : 70 (pid: 105)
  error_file: <N/A>
Root Cause (first observed failure):
[0]:
  rank      : 9 (local_rank: 1)
  exitcode  : {code} (pid: 106)  (SIGKILL)
  traceback : Signal 9 (SIGKILL) received by PID 106
"""
LOST = "RuntimeError: [gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:1"


def ended(folder: Path, log: str = "", code: int = 1, **more: Any) -> failures.Ended:
    (folder / "worker.log").write_text(log)
    more = {"torchrun": True, "resume": "nanochat go on", **more}
    return failures.Ended(folder=folder, code=code, log=folder / "worker.log", **more)


def report(folder: Path, rank: int, at: float, kind: str, message: str, *, lost_peer: bool = False) -> None:
    record = {"time": at, "rank": rank, "type": kind, "message": message, "hint": None, "lost_peer": lost_peer}
    (folder / f"error-rank{rank}.json").write_text(json.dumps(record))


def test_who_lost_a_peer_is_not_the_cause(tmp_path: Path) -> None:
    report(tmp_path, 0, 1.0, "bug", LOST, lost_peer=True)
    report(tmp_path, 1, 2.0, "Diverged", "the loss is nan at step 7")
    problem = failures.cause(ended(tmp_path))
    assert (type(problem), str(problem), problem.hint) == (Diverged, "the loss is nan at step 7", "nanochat go on")


def test_a_killed_rank_is_the_cause_though_only_others_reported(tmp_path: Path) -> None:
    report(tmp_path, 0, 1.0, "bug", LOST, lost_peer=True)
    problem = failures.cause(ended(tmp_path, KILLED.format(code=-9)))
    assert str(problem) == "rank 9 was ended by SIGKILL (the system may have run out of memory)"
    assert (problem.exit_code, problem.hint) == (1, "nanochat go on")


def test_a_rank_that_left_without_a_word(tmp_path: Path) -> None:
    report(tmp_path, 0, 1.0, "bug", LOST, lost_peer=True)
    problem = failures.cause(ended(tmp_path, KILLED.format(code=3)))
    assert (str(problem), problem.exit_code) == ("rank 9 ended with exit code 3", errors.EXIT_BUG)


def test_whom_nccl_aborted_is_a_follower_too(tmp_path: Path) -> None:
    report(tmp_path, 0, 1.0, "bug", LOST, lost_peer=True)
    assert "lost another one" in str(failures.cause(ended(tmp_path, KILLED.format(code=-6))))
    (tmp_path / "error-rank0.json").unlink()
    both = KILLED.format(code=-6) + KILLED.format(code=-11).replace("rank      : 9", "rank      : 5")
    assert str(failures.cause(ended(tmp_path, both))) == "rank 5 was ended by SIGSEGV"


def test_an_earlier_attempt_in_the_log_does_not_count(tmp_path: Path) -> None:
    old = KILLED.format(code=-9)
    problem = failures.cause(ended(tmp_path, old + "nothing more", log_from=len(old)))
    assert str(problem) == "the worker ended with exit code 1"


def test_a_report_of_another_node_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report(tmp_path, 0, 1.0, "bug", LOST, lost_peer=True)
    before = failures.cause
    theirs = NanochatError("rank 3 was ended by SIGKILL", hint="resume")
    monkeypatch.setattr(failures.time, "sleep", lambda _: failures.publish(theirs, tmp_path, "-node1"))
    assert str(before(ended(tmp_path, others=True))) == "rank 3 was ended by SIGKILL"


def test_nodes_that_only_lost_one_point_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_LATE_S", 0.2)
    report(tmp_path, 0, 1.0, "bug", LOST, lost_peer=True)
    problem = failures.cause(ended(tmp_path, others=True))
    assert isinstance(problem, PeerFailed)
    assert "where it was started" in (problem.hint or "")
    failures.publish(problem, tmp_path, "-node1")
    assert not (tmp_path / "error-node1.json").exists(), "that would be no cause for anyone"


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("DistStoreError: Timed out after 601 seconds waiting for clients. 1/2 clients joined.", "1 of 2 are there"),
        ("DistNetworkError: The client socket has timed out after 600000ms", "the first node cannot be reached: a:7"),
        ("The server socket has failed to listen: EADDRINUSE, address already in use", "the port is taken: a:7"),
    ],
)
def test_nodes_that_never_met(tmp_path: Path, log: str, message: str) -> None:
    problem = failures.cause(ended(tmp_path, log, others=True, endpoint="a:7"))
    assert message in str(problem)
    assert problem.exit_code == 1


@pytest.mark.parametrize(
    ("problem", "lost"),
    [
        (RuntimeError(LOST), True),
        (PeerFailed("x"), True),
        (type("DistBackendError", (RuntimeError,), {})("NCCL error"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (Diverged("the socket of the loss"), False),
        (OSError("Connection reset by peer"), False),
    ],
)
def test_which_errors_may_mean_a_lost_peer(problem: Exception, lost: bool) -> None:
    assert failures.is_lost_peer(problem) == lost
