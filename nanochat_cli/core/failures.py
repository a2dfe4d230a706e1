"""Why workers ended: the one cause among many processes, from their reports and from what torchrun says of the rest.

When one process of several dies, the others fail in their next exchange with it, often sooner than it can say why. So
reports of processes that only lost a peer count last, however early they are; before them come those of processes that
failed by themselves, and then the processes that left none, because a signal ended them.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nanochat_cli.core import errors, files
from nanochat_cli.core.errors import EXIT_BUG, NanochatError

_NEXT_TO_NOTHING = 64 << 10
"""Bytes of free disk below which a failure without a report is put down to the full disk."""
_LOG_BYTES = 1 << 20
_LATE_S = 5.0
"""How long the report of a process on another node may take after ours has lost it."""
_ENTRY = re.compile(r"rank +: (\d+) \(local_rank: \d+\)\s+exitcode +: (-?\d+) ")
_LOST = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|socket|gloo|nccl|timed out|remote process",
    re.IGNORECASE,
)
_JOINED = re.compile(r"(\d+)/(\d+) clients joined")
_UNREACHED = re.compile(r"client socket has timed out|failed to connect|RendezvousConnectionError|Connection refused")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What is left of the workers that one command started.

    `rank`: of its only worker, if another launcher has numbered it; `torchrun`: whether we started them through it;
    `others`: whether other commands have workers, too; `log_from`: where this attempt begins in the log, in bytes.
    """

    folder: Path
    code: int
    log: Path
    log_from: int = 0
    rank: int | None = None
    torchrun: bool = False
    others: bool = False
    endpoint: str | None = None
    resume: str | None = None
    command: str = ""


class Death(NamedTuple):
    """A process that ended without a report; `rank` is None if it was the only one."""

    rank: int | None
    code: int


def is_lost_peer(problem: BaseException) -> bool:
    """Return whether an error in an exchange between processes may only mean that another one has gone."""
    if isinstance(problem, errors.PeerFailed):
        return True
    kinds = {cls.__name__ for cls in type(problem).__mro__}
    if kinds & {"DistError", "DistBackendError", "DistNetworkError", "DistStoreError"}:
        return True
    return type(problem) is RuntimeError and bool(_LOST.search(str(problem)))


def cause(ended: Ended) -> NanochatError:
    """Return the error to show for workers that did not end well."""
    reports = _reports(ended.folder)
    log = _tail(ended.log, ended.log_from)
    silent = _silent_deaths(ended, log, {report["rank"] for report in reports})
    if ended.others and reports and not (silent and _is_suspect(silent[0].code)):
        reports = _with_late_ones(reports, ended.folder)
    first = _own_fault(reports)
    if first is not None:
        return _rebuilt(first, ended)
    if files.free_space(ended.folder) < _NEXT_TO_NOTHING:  # too full even for the report
        return NanochatError(
            f"the disk is full: {ended.folder}", hint=f"free some space, then: {ended.resume or ended.command}"
        )
    if silent and _is_suspect(silent[0].code):
        return _death(silent[0], ended)
    if reports:
        return _lost_peer(min(reports, key=_when), ended)
    if silent:
        return _death(silent[0], ended)
    return _never_met(ended, log) or _death(Death(None, ended.code), ended)


def _with_late_ones(reports: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Return the reports as soon as one of them tells an own fault; after some seconds, as they are."""
    deadline = time.monotonic() + _LATE_S
    while _own_fault(reports) is None and time.monotonic() < deadline:
        time.sleep(0.1)
        reports = _reports(folder)
    return reports


def publish(problem: NanochatError, folder: Path, suffix: str) -> None:
    """Leave the cause of this machine's failure for the command that leads, should it share the folder."""
    record = {"time": time.time(), "rank": -1, "type": type(problem).__name__, "message": str(problem)}
    path = folder / f"error{suffix}.json"
    if not isinstance(problem, errors.PeerFailed) and not path.exists():
        with contextlib.suppress(OSError, NanochatError):
            files.write_json(path, {**record, "hint": problem.hint, "lost_peer": False})


def _reports(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in folder.glob("error-*.json"):
        with contextlib.suppress(ValueError, OSError):
            found.append(json.loads(path.read_text()))
    return found


def _when(report: dict[str, Any]) -> float:
    return report["time"]


def _own_fault(reports: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the first report of a process that did not merely lose another one."""
    return min((report for report in reports if not report.get("lost_peer")), key=_when, default=None)


def _rebuilt(report: dict[str, Any], ended: Ended) -> NanochatError:
    if report["type"] == "bug":
        return _bug(f"a worker failed: {report['message']}", ended, "the traceback is in")
    return errors.rebuild(report["type"], report["message"], report["hint"] or ended.resume)


def _lost_peer(report: dict[str, Any], ended: Ended) -> NanochatError:
    """Return the error for processes that all lost one that says nothing here."""
    if ended.others:
        hint = "what happened to it is told where it was started" + (f"; then: {ended.resume}" if ended.resume else "")
        return errors.PeerFailed(f"process {report['rank']} lost another one: {report['message']}", hint=hint)
    return _bug(f"a worker lost another one: {report['message']}", ended, "the traceback is in")


def _silent_deaths(ended: Ended, log: str, spoken: set[int]) -> list[Death]:
    """Return the processes that ended without a report, the one nearest to the cause first."""
    if ended.torchrun:
        found = [Death(int(rank), int(code)) for rank, code in _ENTRY.findall(log)]
        found = [death for death in found if death.rank not in spoken]
    else:
        found = [] if (ended.rank or 0) in spoken else [Death(ended.rank, ended.code)]
    return sorted(found, key=lambda death: (not _is_suspect(death.code), death.code >= 0))


def _is_suspect(code: int) -> bool:
    """Whether a process ended on its own account: torchrun and NCCL end the rest with SIGTERM and SIGABRT."""
    return -code not in (signal.SIGTERM, signal.SIGABRT)


def _death(death: Death, ended: Ended) -> NanochatError:
    who = "the worker" if death.rank is None else f"rank {death.rank}"
    if death.code >= 0:
        return _bug(f"{who} ended with exit code {death.code}", ended, "its last words are in")
    try:
        name = signal.Signals(-death.code).name
    except ValueError:
        name = f"signal {-death.code}"
    likely = " (the system may have run out of memory)" if -death.code == signal.SIGKILL else ""
    return NanochatError(
        f"{who} was ended by {name}{likely}", hint=ended.resume or f"its last words are in {ended.log}"
    )


def _never_met(ended: Ended, log: str) -> NanochatError | None:
    """Return the error for nodes that waited for each other in vain, as torchrun's store tells."""
    if ended.endpoint is None:
        return None
    if "EADDRINUSE" in log:
        return NanochatError(
            f"the port is taken: {ended.endpoint}", hint="choose another with --rdzv-endpoint HOST:PORT"
        )
    if joined := _JOINED.findall(log):
        came, wanted = joined[-1]
        return NanochatError(f"the other nodes did not come to {ended.endpoint}: {came} of {wanted} are there")
    if _UNREACHED.search(log):
        return NanochatError(
            f"the first node cannot be reached: {ended.endpoint}", hint="is it running, and the port open?"
        )
    return None


def _bug(message: str, ended: Ended, where: str) -> NanochatError:
    problem = NanochatError(message, hint=f"{where} {ended.log}")
    problem.exit_code = EXIT_BUG
    return problem


def _tail(path: Path, begin: int) -> str:
    """Return what was written to the log from `begin` on, its last part if that is much."""
    with contextlib.suppress(OSError), path.open("rb") as handle:
        end = handle.seek(0, 2)
        handle.seek(max(begin, end - _LOG_BYTES))
        return handle.read().decode(errors="replace")
    return ""
