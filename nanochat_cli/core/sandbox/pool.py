"""The sandbox as the rest of the program sees it: jobs in, outcomes out, as many at a time as there are cores."""

from __future__ import annotations

import atexit
import functools
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from nanochat_cli.core import machine
from nanochat_cli.core.errors import EnvironmentLacks
from nanochat_cli.core.sandbox import tiers
from nanochat_cli.core.sandbox.container import ContainerWorker
from nanochat_cli.core.sandbox.inside import BARE
from nanochat_cli.core.sandbox.limits import Job, Limits, Mode, Outcome
from nanochat_cli.core.sandbox.worker import Worker


class Sandbox:
    """Runs untrusted programs; may be used from any thread. Opening it proves its tier, once per process.

    Raises EnvironmentLacks where no sandbox holds.
    """

    def __init__(self, mode: Mode = "auto", *, workers: int | None = None, limits: Limits | None = None) -> None:
        self.tier = tiers.find(mode)
        self.limits = limits or Limits()
        self.workers = workers or max(1, machine.usable_cores())
        self._idle: list[Worker | ContainerWorker] = []
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(self.workers)
        self._owner = os.getpid()

    @property
    def warning(self) -> str | None:
        """What a person must be told before code runs in this tier; None where all is well."""
        return "generated code runs with all rights of this user: --sandbox none" if self.tier == BARE else None

    def check(self, job: Job, limits: Limits | None = None) -> Outcome:
        """Put one program through its tests; waits for a free core."""
        with self._free:
            worker = self._take()
            try:
                outcome = self._run(worker, job, limits or self.limits)
            except BaseException:
                worker.close()
                raise
            with self._lock:
                self._idle.append(worker)
        return outcome

    def check_all(self, jobs: Iterable[Job], limits: Limits | None = None) -> list[Outcome]:
        """Outcomes of many jobs, in their order."""
        with ThreadPoolExecutor(self.workers, thread_name_prefix="sandbox") as threads:
            return list(threads.map(lambda job: self.check(job, limits), jobs))

    def close(self) -> None:
        """End all processes of the pool. It may be used again; they start anew."""
        with self._lock:
            idle, self._idle = self._idle, []
        if self._owner == os.getpid():
            for worker in idle:
                worker.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self) -> Worker | ContainerWorker:
        with self._lock:
            if self._owner != os.getpid():  # a forked copy must not talk to the templates of the original
                self._idle, self._owner = [], os.getpid()
            return self._idle.pop() if self._idle else tiers.worker_for(self.tier)

    def _run(self, worker: Worker | ContainerWorker, job: Job, limits: Limits) -> Outcome:
        try:
            return worker.run(job, limits)
        except EnvironmentLacks:
            # A template that died (killed for memory, say) is replaced once: no fault of this job is known.
            return worker.run(job, limits)


@functools.cache
def shared(mode: Mode = "auto") -> Sandbox:
    """The sandbox of this process for a mode, closed when the process ends. Raises EnvironmentLacks."""
    sandbox = Sandbox(mode)
    atexit.register(sandbox.close)
    return sandbox
