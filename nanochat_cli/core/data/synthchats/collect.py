"""Asking for conversations: many at a time, tried again where that may help, and none paid for twice.

One thread decides and writes the journal; the others make one request at a time and bring back what came of it. They
are daemons, so that a stopped command does not wait for answers that are still on their way.
"""

from __future__ import annotations

import contextlib
import heapq
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nanochat_cli.core.data.journal import Workspace
from nanochat_cli.core.data.synthchats import answer, request
from nanochat_cli.core.data.synthchats.answer import Junk, Turn
from nanochat_cli.core.data.synthchats.budget import Meter, Usage
from nanochat_cli.core.data.synthchats.endpoint import Reply, Unfit
from nanochat_cli.core.data.web import Refused, Transient
from nanochat_cli.core.errors import NanochatError
from nanochat_cli.core.events import Log

Ask = Callable[[Mapping[str, Any]], Reply]
_FIRST_WAIT_S, _LONGEST_WAIT_S, _LONGEST_ASKED_WAIT_S = 1.0, 60.0, 300.0
_GIVEN_UP_IN_A_ROW = 5
"""Requests without any success between them after which no further money is spent."""
_GRACE_S = 3.0
"""How long a stopped command waits for answers that are nearly there: they are paid for."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How hard is tried. `chance` is there for tests."""

    workers: int = 8
    tries: int = 6
    max_turns: int = 6
    first_wait_s: float = _FIRST_WAIT_S
    chance: Callable[[], float] = random.random

    def wait(self, turn: int, asked_s: float | None) -> float:
        """Return the wait before try `turn` + 1: a random share of a growing time, and not less than was asked for."""
        share = min(_LONGEST_WAIT_S, self.first_wait_s * 2**turn) * self.chance()
        return share if asked_s is None else min(asked_s, _LONGEST_ASKED_WAIT_S) + share


@dataclass
class Counts:
    """What became of the requests of this run."""

    asked: int = 0
    junk: int = 0
    given_up: int = 0
    capped: bool = False
    why: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    number: int
    turn: int
    body: Mapping[str, Any]
    held: tuple[int, int]


class Collector:
    """Requests by number, their answers in a journal. `answers` maps numbers to conversations."""

    def __init__(
        self, body: Callable[[int], dict[str, Any]], ask: Ask, space: Workspace, meter: Meter, effort: Effort, log: Log
    ) -> None:
        self._body, self._ask, self._space, self.meter = body, ask, space, meter
        self.effort, self.log = effort, log
        self.answers: dict[int, list[Turn]] = {}
        self.counts = Counts()
        self._known = space.resume(lambda key: True)
        for facts in self._known.values():
            if (usage := _usage(facts)) is not None:
                meter.spend(usage)
        self.resumed = len([key for key in self._known if not key.startswith("junk/")])
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[_Job, Reply | Exception]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._in_flight = 0
        self._failed_in_a_row = 0

    def collect(self, numbers: Iterable[int], *, wanted: int) -> None:
        """Bring the answers of these requests; ends early, with `counts.capped`, where the limits of cost are reached.

        `wanted` is the number of answers that progress counts up to. Raises NanochatError if the endpoint refuses, or
        brings nothing usable any more; what has come by then is in the journal.
        """
        due = [(0.0, 0, number) for number in numbers if not self._take_known(number)]
        heapq.heapify(due)
        self._tell(wanted)
        try:
            while due or self._in_flight:
                self._send(due)
                if self.counts.capped and not self._in_flight:
                    return
                self._receive(due, wanted)
        except KeyboardInterrupt:
            self._drain()
            raise

    def close(self) -> None:
        """End the threads that are idle."""
        for _ in self._threads:
            self._jobs.put(None)

    def _take_known(self, number: int) -> bool:
        facts = self._known.get(request.key(self._body(number)))
        if facts is None:
            return False
        try:
            self.answers[number] = answer.checked(facts.get("messages"), max_turns=self.effort.max_turns)
        except Junk:
            return False
        return True

    # ---- sending -----------------------------------------------------------------------------------------------------

    def _send(self, due: list[tuple[float, int, int]]) -> None:
        now = time.monotonic()
        while due and due[0][0] <= now and self._in_flight < self.effort.workers and not self.counts.capped:
            _, turn, number = due[0]
            body = self._body(number)
            held = (request.prompt_tokens(body), int(body["max_tokens"]))
            if not self.meter.hold(*held):
                if not self._in_flight:  # nothing on its way could turn out cheaper
                    self.counts.capped = True
                    due.clear()
                return
            heapq.heappop(due)
            self._in_flight += 1
            self.counts.asked += 1
            if len(self._threads) < self._in_flight:
                self._threads.append(threading.Thread(target=self._work, daemon=True))
                self._threads[-1].start()
            self._jobs.put(_Job(number, turn, body, held))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                outcome: Reply | Exception = self._ask(job.body)
            except Exception as problem:
                outcome = problem
            self._results.put((job, outcome))

    # ---- receiving ---------------------------------------------------------------------------------------------------

    def _receive(self, due: list[tuple[float, int, int]], wanted: int) -> None:
        """Wait for one answer, or until a request is due again."""
        pause = max(0.0, due[0][0] - time.monotonic()) if due else 1.0
        room = self._in_flight < self.effort.workers
        try:
            job, outcome = self._results.get(timeout=min(1.0, pause) if room and pause > 0 else 1.0)
        except queue.Empty:
            return
        if (later := self._settle(job, outcome)) is not None:
            heapq.heappush(due, later)
        self._tell(wanted)

    def _settle(self, job: _Job, outcome: Reply | Exception) -> tuple[float, int, int] | None:
        """Take in how a request ended; return when it is due again, if it is to be tried again."""
        self._in_flight -= 1
        self.meter.release(*job.held)
        if isinstance(outcome, Reply):
            problem = self._take(job, outcome)
            if problem is None:
                return None
        elif isinstance(outcome, Transient | Unfit):
            problem = outcome
        elif isinstance(outcome, Refused):
            raise NanochatError(f"the endpoint refuses: {outcome}", hint="what has come so far is kept")
        else:
            raise outcome
        if job.turn + 1 < self.effort.tries and not isinstance(problem, Unfit):
            asked_s = problem.after_s if isinstance(problem, Transient) else None
            wait = 0.0 if isinstance(problem, Junk) else self.effort.wait(job.turn, asked_s)
            return time.monotonic() + wait, job.turn + 1, job.number
        self._give_up(problem)
        return None

    def _take(self, job: _Job, reply: Reply) -> Junk | None:
        """Write an answer into the journal, and what it cost; return what is wrong with it, if anything."""
        written = request.estimated_tokens(reply.text)
        known = reply.tokens_in is not None and reply.tokens_out is not None
        usage = Usage(
            job.held[0] if reply.tokens_in is None else reply.tokens_in,
            written if reply.tokens_out is None else reply.tokens_out,
            not known,
        )
        self.meter.spend(usage)
        cost = {"usage": [usage.tokens_in, usage.tokens_out], "estimated": usage.estimated}
        try:
            if reply.cut:
                raise Junk(f"cut off at {job.body['max_tokens']} tokens")
            messages = answer.conversation(reply.text, max_turns=self.effort.max_turns)
        except Junk as problem:
            self.counts.junk += 1
            self._note(str(problem))
            self._add(f"junk/{len(self._known)}", cost)
            return problem
        self._failed_in_a_row = 0
        self.answers[job.number] = messages
        self._add(request.key(dict(job.body)), {**cost, "messages": messages})
        return None

    def _add(self, key: str, facts: dict[str, Any]) -> None:
        self._space.add(key, facts)
        self._known[key] = facts

    def _give_up(self, problem: Exception) -> None:
        self.counts.given_up += 1
        self._failed_in_a_row += 1
        if not isinstance(problem, Junk):
            self._note(str(problem))
        if self._failed_in_a_row >= _GIVEN_UP_IN_A_ROW:
            raise NanochatError(
                f"{self._failed_in_a_row} requests in a row brought nothing usable, the last: {problem}",
                hint="what has come so far is kept; run the same command again to go on",
            )

    def _note(self, what: str) -> None:
        self.counts.why[what] = self.counts.why.get(what, 0) + 1

    def _drain(self) -> None:
        """Keep what arrives within a moment; another interruption ends that as well."""
        limit = time.monotonic() + _GRACE_S
        while self._in_flight and (left := limit - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty, NanochatError):
                self._settle(*self._results.get(timeout=left))

    def _tell(self, wanted: int) -> None:
        cost = self.meter.cost
        spent = f"{self.meter.tokens_in + self.meter.tokens_out:,} tokens" if cost is None else f"${cost:.4f}"
        self.log.progress("asking for conversations", len(self.answers), wanted, "conversations", spent)


def _usage(facts: Mapping[str, Any]) -> Usage | None:
    counts = facts.get("usage")
    if not isinstance(counts, list) or len(counts) != 2 or not all(isinstance(c, int) and c >= 0 for c in counts):
        return None
    return Usage(counts[0], counts[1], bool(facts.get("estimated")))
