"""Metrics for other eyes: wandb and tensorboard get what a run tells, and can neither slow nor stop it.

A stage's own history is `events.jsonl`, always. The process that follows that file hands each event to a thread per
sink here, outside the processes that train. A thread reads from a bounded queue: what a slow sink cannot take in time
is dropped and counted, a sink that fails is left alone from then on, and both are said once. Secrets come from the
environment or from ~/.netrc and are read by the sink's own library; here it only counts whether there are any.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import math
import os
import queue
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nanochat_cli.core import config, files, wandb_key
from nanochat_cli.core.errors import ConfigError, EnvironmentLacks
from nanochat_cli.core.events import Event

QUEUE = 4096
CLOSING_S = 20.0
"""Seconds that the end of a run waits for all its sinks together; what they have not sent by then is given up."""
_MEMORY = "track.json"
_NOT_METRICS = ("kind", "time", "step", "num_steps", "metric", "value")


class TrackOptions(Protocol):
    """The part of `settings.TrackSection` that is used here."""

    @property
    def to(self) -> Sequence[str]: ...
    @property
    def project(self) -> str: ...
    @property
    def name(self) -> str | None: ...


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """What a sink knows about the stage it shows. `id` is the same for all attempts at one run of the stage."""

    run: str
    stage: str
    dir: Path
    id: str
    project: str
    name: str
    config: Mapping[str, Any]
    resume: bool


class Sink(Protocol):
    """Another place to see metrics. Used by one thread; may be slow, and may raise whatever it likes."""

    def resumed(self, step: int) -> None:
        """What was told about later steps is void: they are done again."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take in some numbers of one step."""

    def close(self, result: Mapping[str, Any]) -> None:
        """Take in the result (empty if there is none) and send everything."""


# ---- which there are -------------------------------------------------------------------------------------------------


class Tensorboard:
    """Event files in the stage's folder, to be shown by `tensorboard --logdir`."""

    package = "tensorboard"

    def __init__(self, tracked: Tracked) -> None:
        self._dir = tracked.dir / "tensorboard"
        if not tracked.resume and self._dir.is_dir():
            shutil.rmtree(self._dir)  # of an attempt that is made anew
        self._text = "\n".join(f"    {path} = {value}" for path, value in flat(tracked.config).items())
        self._made: Any = None

    @property
    def _writer(self) -> Any:
        """Made when it is known from which step on the files of an earlier attempt are void."""
        if self._made is None:
            self.resumed(0)
        return self._made

    @staticmethod
    def check() -> None:
        """Nothing but the package is needed."""

    def resumed(self, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if self._made is not None:
            self._made.close()
        self._made = SummaryWriter(str(self._dir), purge_step=step + 1)
        self._made.add_text("config", self._text, step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, result: Mapping[str, Any]) -> None:
        if result:
            told = "\n".join(f"    {name} = {value}" for name, value in result.items())
            self._writer.add_text("result", told, int(result.get("step", 0)))
        if self._made is not None:
            self._made.close()


class Wandb:
    """A run on Weights & Biases, or, with WANDB_MODE=offline, its files in the stage's folder."""

    package = "wandb"

    def __init__(self, tracked: Tracked) -> None:
        wandb: Any = importlib.import_module("wandb")  # by name: an extra that type checkers need not have
        # The terminal belongs to the run's own progress; code and console output stay on this machine.
        quiet: dict[str, Any] = {"console": "off", "silent": True, "disable_code": True, "disable_git": True}
        for limit in ("init_timeout", "finish_timeout"):  # which count as well for what it does as the program ends
            if limit in getattr(wandb.Settings, "model_fields", {}):
                quiet[limit] = CLOSING_S
        self._run = wandb.init(
            project=tracked.project,
            name=tracked.name,
            group=tracked.run,
            job_type=tracked.stage,
            id=tracked.id,
            resume="allow",
            dir=str(tracked.dir),
            config={section: dict(values) for section, values in tracked.config.items()},
            settings=wandb.Settings(**quiet),
        )
        # An axis of its own: wandb's counter refuses the steps that are done again after a resume.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    @staticmethod
    def check() -> None:
        """Raise EnvironmentLacks where wandb would stop to ask for a key."""
        mode = os.environ.get("WANDB_MODE", "online")
        if mode in ("online", "shared") and (lacks := wandb_key.lacking(os.environ)):
            raise EnvironmentLacks(
                f"wandb has no key: {lacks}",
                hint="wandb login, or set WANDB_API_KEY, or set WANDB_MODE=offline to keep all local",
            )

    def resumed(self, step: int) -> None:
        """Nothing to do: repeated steps lie on the same points."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self, result: Mapping[str, Any]) -> None:
        for name, value in result.items():
            self._run.summary[f"result/{name}"] = value
        self._run.finish()


SINKS: dict[str, type[Tensorboard] | type[Wandb]] = {"wandb": Wandb, "tensorboard": Tensorboard}


def check(to: Sequence[str]) -> None:
    """Raise ConfigError for an unknown sink, EnvironmentLacks for one whose package or key is missing."""
    for name in to:
        if name not in SINKS:
            raise ConfigError(f"unknown sink of metrics: {name}", hint=f"choose from: {', '.join(sorted(SINKS))}")
        package = SINKS[name].package
        if importlib.util.find_spec(package) is None:
            raise EnvironmentLacks(
                f"--track {name} needs a package that is not installed: {package}",
                hint="pip install 'nanochat[track]', or leave --track out: events.jsonl is written always",
            )
        SINKS[name].check()


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return {section: {key: value}} as {"section.key": value}."""
    return config.flatten(tree, "config")


# ---- from events to sinks --------------------------------------------------------------------------------------------


def numbers(event: Event) -> dict[str, float]:
    """Return what an event tells in numbers, by the name that a sink shows; empty for most kinds."""
    kind = event["kind"]
    if kind not in ("step", "eval"):
        return {}
    found = {f"train/{key}": event[key] for key in event if key not in _NOT_METRICS} if kind == "step" else {}
    if kind == "eval":
        found = {f"eval/{event['metric']}": event["value"]}
    return {k: v for k, v in found.items() if type(v) in (int, float) and math.isfinite(v)}


class Feed:
    """One sink with its thread and queue. No method waits for the sink, except `close`, for a limited time."""

    def __init__(self, name: str, open_sink: Callable[[], Sink], *, size: int = QUEUE) -> None:
        self.name, self.dropped = name, 0
        self.problem: str | None = None
        self._open = open_sink
        self._queue: queue.Queue[Event | None] = queue.Queue(size)
        self._result: dict[str, Any] = {}
        self._closing = threading.Event()
        # A daemon: a sink that hangs must not keep the command from ending.
        self._thread = threading.Thread(target=self._work, name=f"sink-{name}", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Hand an event on, or count it as dropped."""
        if self.problem is not None:
            return
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self.dropped += 1

    def ask_to_close(self, result: Mapping[str, Any]) -> None:
        """Let the thread send what it has and end."""
        self._result = dict(result)
        self._closing.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)  # wakes a thread that waits

    def ended(self, within_s: float) -> bool:
        """Return whether the thread has ended, after waiting that long at most."""
        self._thread.join(max(0.0, within_s))
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            sink = self._open()
            while (event := self._next()) is not None:
                _tell(sink, event)
            sink.close(self._result)
        except BaseException as problem:  # SystemExit as well: whatever a library does, the run goes on
            said = str(problem).strip().splitlines()
            self.problem = f"{type(problem).__name__}: {said[0][:200]}" if said else type(problem).__name__

    def _next(self) -> Event | None:
        """The next event; None once the run has ended and the queue is empty."""
        while True:
            try:
                event = self._queue.get(block=not self._closing.is_set())
            except queue.Empty:
                return None
            if event is not None:
                return event


def _tell(sink: Sink, event: Event) -> None:
    if event["kind"] == "resumed":
        sink.resumed(int(event["step"]))
    elif values := numbers(event):
        sink.scalars(int(event["step"]), values)


class Tracking:
    """Stands between a run's events and the one who draws them, and copies them to all sinks."""

    def __init__(self, feeds: Sequence[Feed], on_event: Callable[[Event], None]) -> None:
        self._feeds, self._on_event = feeds, on_event
        self._said: set[tuple[str, str]] = set()
        self._result: dict[str, Any] = {}

    def on_event(self, event: Event) -> None:
        """Hand on one event. Never waits for a sink, never raises for one."""
        self._on_event(event)
        if event["kind"] == "done":
            self._result = {k: v for k, v in event.items() if isinstance(v, int | float | str) and k != "kind"}
        for feed in self._feeds:
            feed.put(event)
            self._complain(feed)

    def close(self) -> None:
        """Let all sinks finish at the same time, and say what they lost."""
        deadline = time.monotonic() + CLOSING_S
        for feed in self._feeds:
            feed.ask_to_close(self._result)
        for feed in self._feeds:
            if not feed.ended(deadline - time.monotonic()):
                self._warn(feed, "slow", f"did not finish within {CLOSING_S:g} s, some metrics may be missing there")
            self._complain(feed)
            if feed.dropped:
                self._warn(feed, "lost", f"was too slow for {feed.dropped:,} records, which it lacks")

    def _complain(self, feed: Feed) -> None:
        if feed.problem is not None:
            self._warn(feed, "failed", f"failed and gets no more metrics: {feed.problem}")
        elif feed.dropped:
            self._warn(feed, "drops", "is slower than the run: some metrics are left out there")

    def _warn(self, feed: Feed, kind: str, text: str) -> None:
        if (feed.name, kind) not in self._said:
            self._said.add((feed.name, kind))
            text = f"{feed.name} {text} (events.jsonl has them all)"
            self._on_event({"kind": "warning", "time": time.time(), "text": text})


@contextlib.contextmanager
def following(
    track: TrackOptions | None,
    on_event: Callable[[Event], None],
    *,
    run: str,
    stage: str,
    folder: Path,
    config: Mapping[str, Any],
    resume: bool,
) -> Iterator[Callable[[Event], None]]:
    """Yield the function to call with each event: `on_event` itself, or one that feeds sinks as well."""
    if track is None or not track.to:
        yield on_event
        return
    tracked = Tracked(
        run=run,
        stage=stage,
        dir=folder,
        id=_remembered_id(folder, run, stage, resume=resume),
        project=track.project,
        name=track.name or f"{run}/{stage}",
        config=config,
        resume=resume,
    )
    feeds = [Feed(name, functools.partial(SINKS[name], tracked)) for name in dict.fromkeys(track.to)]
    tracking = Tracking(feeds, on_event)
    try:
        yield tracking.on_event
    finally:
        tracking.close()


def _remembered_id(folder: Path, run: str, stage: str, *, resume: bool) -> str:
    """Return the id of this run of a stage for others: a resume goes on under the same, a new start gets a new one."""
    path = folder / _MEMORY
    if resume and path.is_file():
        saved = files.read_json(path, "the id for --track").get("id")
        if isinstance(saved, str):
            return saved
    new = f"{run}-{stage}-{secrets.token_hex(4)}"
    files.write_json(path, {"id": new})
    return new
