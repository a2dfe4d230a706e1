"""The process that programs are forked from: a small interpreter with common modules loaded, one child per job.

It runs no program and reads no job: the children read theirs, after they have given up their rights, from descriptors
that pass through here unread. So one program finds nothing of another in the memory it inherits.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from nanochat_cli.core.sandbox.inside import candidate, checker, frames, lockdown

# Loaded once, so that programs import them at no cost, and at all where they may open no files.
COMMON = [
    "abc",
    "array",
    "base64",
    "bisect",
    "calendar",
    "cmath",
    "collections",
    "collections.abc",
    "contextlib",
    "copy",
    "csv",
    "dataclasses",
    "datetime",
    "decimal",
    "difflib",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "io",
    "itertools",
    "json",
    "keyword",
    "math",
    "numbers",
    "operator",
    "os",
    "pathlib",
    "pprint",
    "queue",
    "random",
    "re",
    "secrets",
    "statistics",
    "string",
    "struct",
    "sys",
    "textwrap",
    "threading",
    "time",
    "traceback",
    "types",
    "typing",
    "unicodedata",
    "unittest",
    "urllib.parse",
    "uuid",
    "warnings",
    "zlib",
    "encodings.idna",
    "encodings.ascii",
    "encodings.latin_1",
    "encodings.utf_16",
]
LACKS = 97
"""Exit code of a child that could not give up its rights."""
_LOOK_S = 0.1


def main(control: int, base: str) -> None:
    """Serve jobs from the socket `control` until it closes; then remove `base`, which holds the programs' folders."""
    sys.set_int_max_str_digits(0)
    lockdown.hide_memory()
    os.environ.clear()
    for name in COMMON:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    try:
        with socket.socket(fileno=control) as line:
            line.sendall(b"ready")
            while job := _next(line):
                report = serve(job[0], job[1], base, line.fileno(), wake)
                line.sendall(json.dumps(report).encode())
    finally:
        remove(base)


def _next(line: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    try:
        text, handles, _, _ = socket.recv_fds(line, 65536, 8)
    except OSError:
        return None
    return (json.loads(text), handles) if text else None


def serve(job: dict[str, Any], handles: list[int], base: str, line: int, wake: int) -> dict[str, Any]:
    """Fork the children of one job and wait for them. Returns how each ended, and why any was stopped.

    `handles`: the candidate's channel and output, then, with a checker, its channel and control. Closed on return.
    """
    folder = os.path.join(base, "work")
    os.mkdir(folder, 0o700)
    pids = {"candidate": start("candidate", job, handles[:2], folder)}
    if len(handles) > 2:
        pids["checker"] = start("checker", job, [handles[2], handles[3], handles[3]], None)
    for handle in handles:
        os.close(handle)
    try:
        return wait(pids, job["limits"], folder, line, wake)
    finally:
        remove(folder)


def start(side: str, job: dict[str, Any], handles: list[int], folder: str | None) -> int:
    """Fork one child, which never returns from here.

    `handles`: a candidate's channel and output; a checker's channel, and its control to read from and to write to.
    """
    pid = os.fork()
    if pid:
        return pid
    code = LACKS
    try:
        _arrange(side, handles)
        os.chdir(folder or "/")
        tell = 3 if side == "candidate" else 5
        try:
            _give_up(side, job, folder)
        except Exception as problem:
            frames.send(tell, {"lacks": str(problem) or type(problem).__name__})
            os._exit(LACKS)
        code = 1
        candidate.serve(3) if side == "candidate" else checker.check(3, 4, 5)
        code = 0
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(code)


def _give_up(side: str, job: dict[str, Any], folder: str | None) -> None:
    sys.path[:] = lockdown.library()
    sys.argv[:] = [""]
    lockdown.limit(job["limits"])
    if side == "checker":
        lockdown.hide_memory()
    lockdown.lock(job["tier"], folder)


def _arrange(side: str, handles: list[int]) -> None:
    """Own session, default signals, and few descriptors: 0 nothing, 1 and 2 output, 3 channel, 4 and 5 control."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    lockdown.die_with_parent()
    null = os.open(os.devnull, os.O_RDWR)
    if side == "candidate":
        wanted = [null, handles[1], handles[1], handles[0]]
    else:
        wanted = [null, null, null, *handles]
    # First above all targets, so that no move closes what a later one needs.
    high = [os.dup2(handle, 200 + i, inheritable=False) for i, handle in enumerate(wanted)]
    for target, source in enumerate(high):
        os.dup2(source, target, inheritable=False)
    os.closerange(len(wanted), 1 << 16)


def wait(pids: dict[str, int], limits: dict[str, Any], folder: str, line: int, wake: int) -> dict[str, Any]:
    """Wait for all children; stop them when time or disk is used up, the starter is gone, or the checker has ended."""
    began = time.monotonic()
    ended: dict[str, Any] = {}
    stopped: str | None = None
    while True:
        for side, pid in pids.items():
            if side not in ended:
                found, status, used = os.wait4(pid, os.WNOHANG)
                if found:
                    ended[side] = [status, used.ru_utime + used.ru_stime, used.ru_maxrss]
        if len(ended) == len(pids):
            return {"ended": ended, "stopped": stopped, "seconds": time.monotonic() - began}
        left = began + limits["wall_s"] - time.monotonic()
        if stopped is None and "checker" not in ended:
            stopped = "time" if left <= 0 else "disk" if _bytes_in(folder) > limits["disk_mb"] << 20 else None
        # The starter says nothing while a job runs: a socket that can be read has been closed.
        ready = [] if stopped or "checker" in ended else _until_something(line, wake, min(left, _LOOK_S))
        if stopped or "checker" in ended or line in ready:
            stopped = stopped or ("gone" if line in ready else None)
            _kill([pid for side, pid in pids.items() if side not in ended])
            _until_something(None, wake, _LOOK_S)


def _until_something(line: int | None, wake: int, seconds: float) -> list[int]:
    ready, _, _ = select.select([wake] if line is None else [wake, line], [], [], max(0.0, seconds))
    with contextlib.suppress(BlockingIOError):
        os.read(wake, 4096)
    return ready


def _kill(pids: list[int]) -> None:
    stop: tuple[Callable[[int, int], None], ...] = (os.killpg, os.kill)
    for pid in pids:
        for function in stop:
            with contextlib.suppress(OSError):
                function(pid, signal.SIGKILL)


def _bytes_in(folder: str, depth: int = 0) -> int:
    """Size of what a program wrote; folders too deep or too full to count in passing count as huge."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for i, entry in enumerate(entries):
            if i > 1000 or depth > 20:
                return 1 << 40
            with contextlib.suppress(OSError):
                inner = _bytes_in(entry.path, depth + 1) if entry.is_dir(follow_symlinks=False) else 0
                total += 4096 + entry.stat(follow_symlinks=False).st_blocks * 512 + inner
            if total >= 1 << 40:
                return total
    return total


def remove(folder: str) -> None:
    """Remove a folder, whatever rights a program has taken from its parts."""

    def open_up(_: Any, path: str, __: Any) -> None:
        with contextlib.suppress(OSError):
            os.chmod(os.path.dirname(path), 0o700)
            if os.path.islink(path) or not os.path.isdir(path):
                os.unlink(path)
            else:
                os.chmod(path, 0o700)
                shutil.rmtree(path)

    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder, onerror=open_up)
