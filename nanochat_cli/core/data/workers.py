"""A few processes that share a list of jobs. What travels between them is JSON, and a worker ends with its parent.

A worker is started fresh (spawn), so no thread or lock of the parent is copied into it, and it hears no Ctrl-C: the
parent does, and ends it. When the parent is killed, the worker finds its pipe closed at the next thing it tells.

A pipe holds little before its writer has to wait. So a worker gets a job only when it waits for one: with a job sent
ahead, parent and worker could each wait for the other to read a long line first.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from nanochat_cli.core.errors import NanochatError, rebuild

Tell = Callable[[float], None]
Work = Callable[[dict[str, Any], Tell], dict[str, Any]]
TELL_EVERY_S = 0.25
BYTES_EACH = 128 << 20  # of input that make a process of its own worth its start: with 100 MB two were no quicker


def default_workers(memory_each: int, input_bytes: int) -> int:
    """Return how many processes suit an input and this machine: one per core that is ours, as far as memory goes.

    A small input is read by this process alone before another has started.
    """
    worth = max(1, input_bytes // BYTES_EACH)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return min(worth, cores)
    return max(1, min(worth, cores, memory // 2 // memory_each))


def run(
    work: Work,
    jobs: Iterable[dict[str, Any]],
    workers: int,
    *,
    on_progress: Callable[[int, float], None] = lambda number, done: None,
    idle: Callable[[], bool] = lambda: False,
) -> Generator[tuple[int, dict[str, Any]], None, None]:
    """Yield (number of a job, its result) as jobs get done, in any order.

    `work` is a function at the top of a module; it is called with a job and a function to tell how far it is. While
    workers work, `idle` is called again and again for as long as it returns True (that it had something to do).
    Errors of a job are raised here; a worker that dies is one, too.
    """
    waiting = iter(enumerate(jobs))
    first = list(itertools.islice(waiting, max(1, workers)))
    waiting = itertools.chain(first, waiting)
    if len(first) <= 1:
        for number, job in waiting:
            yield number, work(job, lambda done, number=number: on_progress(number, done))
            while idle():
                pass
        return
    team = [_Worker(work) for _ in first]
    try:
        yield from _share_out(team, waiting, on_progress, idle)
    finally:
        for worker in team:
            worker.end()


class _Worker:
    """The parent's side of one process."""

    def __init__(self, work: Work) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(work, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.busy = False

    def give(self, number: int, job: dict[str, Any]) -> None:
        """Hand a job to a worker that has none."""
        self.busy = True
        try:
            self.pipe.send_bytes(json.dumps([number, job]).encode())
        except (BrokenPipeError, ConnectionResetError):
            raise self.gone() from None

    def hear(self) -> tuple[int, str, Any]:
        """Return (number of the job, kind, value) of the next thing that the worker tells."""
        try:
            return json.loads(self.pipe.recv_bytes())
        except (EOFError, ConnectionResetError):
            raise self.gone() from None

    def gone(self) -> NanochatError:
        """Return the error to raise for a process that has ended."""
        self.process.join()
        return NanochatError(
            f"a worker process ended in the middle of its work (exit code {self.process.exitcode})",
            hint="if memory ran out, use fewer with -w; run the same command again to go on",
        )

    def end(self) -> None:
        self.process.terminate()
        self.process.join()
        self.process.close()
        self.pipe.close()


def _share_out(
    team: list[_Worker],
    waiting: Iterator[tuple[int, dict[str, Any]]],
    on_progress: Callable[[int, float], None],
    idle: Callable[[], bool],
) -> Generator[tuple[int, dict[str, Any]], None, None]:
    for worker in team:
        if job := next(waiting, None):
            worker.give(*job)
    by_pipe = {worker.pipe: worker for worker in team}
    while any(worker.busy for worker in team):
        more = idle()
        for pipe in wait([w.pipe for w in team if w.busy], timeout=0 if more else None):
            worker = by_pipe[pipe]  # type: ignore[index]
            number, kind, value = worker.hear()
            if kind == "progress":
                on_progress(number, value)
            elif kind == "error":
                raise rebuild(*value)
            elif kind == "bug":
                raise RuntimeError(value)
            else:
                worker.busy = False
                if job := next(waiting, None):
                    worker.give(*job)
                yield number, value
    while idle():
        pass


def _serve(work: Work, pipe: Connection) -> None:
    """The worker's side: do jobs until the parent closes the pipe or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            number, job = json.loads(pipe.recv_bytes())
            _answer(work, pipe, number, job)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


def _answer(work: Work, pipe: Connection, number: int, job: dict[str, Any]) -> None:
    last = 0.0

    def say(kind: str, value: Any) -> None:
        pipe.send_bytes(json.dumps([number, kind, value]).encode())

    def tell(done: float) -> None:
        nonlocal last
        if time.monotonic() - last >= TELL_EVERY_S:
            last = time.monotonic()
            say("progress", done)

    try:
        say("result", work(job, tell))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise  # the parent is gone
    except NanochatError as problem:
        say("error", [type(problem).__name__, str(problem), problem.hint])
    except Exception as problem:
        where = traceback.extract_tb(problem.__traceback__)[-1]
        say("bug", f"{type(problem).__name__}: {problem} ({os.path.basename(where.filename)}:{where.lineno})")
