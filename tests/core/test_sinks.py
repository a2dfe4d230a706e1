"""Metrics reach wandb and tensorboard; whatever those do, the run neither waits nor fails."""

from __future__ import annotations

import importlib.util
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from nanochat_cli.core import config, launch, sinks
from nanochat_cli.core.errors import ConfigError, EnvironmentLacks
from nanochat_cli.core.events import Event
from nanochat_cli.core.settings import BaseTrainConfig, TrackSection

CONFIG = {"model": {"depth": 4}}


def step(number: int, **more: Any) -> Event:
    return {"kind": "step", "time": 0.0, "step": number, "num_steps": 9, "loss": 1.0 / number, "eta_s": None, **more}


def follow(folder: Path, told: list[Event], events: list[Event], *, resume: bool = False, to: str = "fake") -> None:
    track = TrackSection(to=(to,))
    with sinks.following(
        track, told.append, run="r", stage="base", folder=folder, config=CONFIG, resume=resume
    ) as on_event:
        for event in events:
            on_event(event)


class Fake:
    """A sink that keeps what it gets; a test may make it wait or fail."""

    package = "json"
    heard: list[Any]
    on_scalars: Callable[[], None] | None = None

    def __init__(self, tracked: sinks.Tracked) -> None:
        type(self).heard = [tracked]

    @staticmethod
    def check() -> None: ...

    def resumed(self, step: int) -> None:
        self.heard.append(("resumed", step))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if self.on_scalars is not None:
            self.on_scalars()
        self.heard.append((step, dict(values)))

    def close(self, result: Mapping[str, Any]) -> None:
        self.heard.append(("closed", dict(result)))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Fake]]:
    class Mine(Fake):
        pass

    monkeypatch.setitem(sinks.SINKS, "fake", Mine)  # type: ignore[arg-type]
    yield Mine


def warnings(told: list[Event]) -> list[str]:
    return [event["text"] for event in told if event["kind"] == "warning"]


def test_a_sink_gets_numbers_and_the_result_in_order(fake: type[Fake], tmp_path: Path) -> None:
    told: list[Event] = []
    events = [
        {"kind": "stage", "time": 0.0, "name": "base"},
        step(1, raw_loss=float("inf"), mfu=True, note="x"),
        {"kind": "eval", "time": 0.0, "step": 1, "metric": "val_bpb", "value": 0.9, "bytes": 5},
        {"kind": "sample", "time": 0.0, "step": 1, "text": "a"},
        {"kind": "eval", "time": 0.0, "step": 2, "metric": "val_bpb", "value": "nan"},
        {"kind": "done", "time": 0.0, "step": 2, "loss": 0.5, "measured": {"a": 1}},
    ]
    follow(tmp_path, told, events)
    assert told == events, "the one who draws gets every event"
    tracked, *heard = fake.heard
    assert heard == [
        (1, {"train/loss": 1.0}),
        (1, {"eval/val_bpb": 0.9}),
        ("closed", {"time": 0.0, "step": 2, "loss": 0.5}),
    ]
    assert (tracked.name, tracked.project, tracked.config, tracked.resume) == ("r/base", "nanochat", CONFIG, False)


def test_without_track_nothing_stands_between(tmp_path: Path) -> None:
    told: list[Event] = []
    for track in (None, TrackSection()):
        with sinks.following(
            track, told.append, run="r", stage="base", folder=tmp_path, config={}, resume=False
        ) as on_event:
            on_event(step(1))
    assert len(told) == 2
    assert not list(tmp_path.iterdir())


def test_a_failing_sink_is_left_alone_after_one_warning(fake: type[Fake], tmp_path: Path) -> None:
    def fail(self: Fake) -> None:
        raise SystemExit("no network\nat all")

    fake.on_scalars = fail  # type: ignore[assignment]
    told: list[Event] = []
    follow(tmp_path, told, [step(n) for n in range(1, 50)])
    assert [e["step"] for e in told if e["kind"] == "step"] == list(range(1, 50))
    assert warnings(told) == [
        "fake failed and gets no more metrics: SystemExit: no network (events.jsonl has them all)"
    ]


def test_a_sink_that_hangs_delays_nothing_and_drops_are_counted(
    fake: type[Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, stuck = threading.Event(), threading.Event()

    def hang(self: Fake) -> None:
        stuck.set()
        release.wait()

    fake.on_scalars = hang  # type: ignore[assignment]
    monkeypatch.setattr(sinks, "CLOSING_S", 0.1)
    told: list[Event] = []
    tracked = sinks.Tracked(run="r", stage="s", dir=tmp_path, id="i", project="p", name="n", config={}, resume=False)
    feed = sinks.Feed("fake", lambda: fake(tracked), size=10)
    tracking = sinks.Tracking([feed], told.append)
    tracking.on_event(step(1))
    assert stuck.wait(10)
    for n in range(2, 102):  # were one of them to wait for the sink, this would never end
        tracking.on_event(step(n))
    assert feed.dropped == 90
    tracking.close()
    assert warnings(told) == [
        "fake is slower than the run: some metrics are left out there (events.jsonl has them all)",
        "fake did not finish within 0.1 s, some metrics may be missing there (events.jsonl has them all)",
        "fake was too slow for 90 records, which it lacks (events.jsonl has them all)",
    ]
    release.set()
    assert feed.ended(10), "and what fitted into the queue is sent once the sink moves again"
    assert len(fake.heard) == 1 + 11 + 1


def test_a_resume_goes_on_under_the_same_id_and_a_new_start_does_not(fake: type[Fake], tmp_path: Path) -> None:
    follow(tmp_path, [], [step(1)])
    first = fake.heard[0].id
    assert first.startswith("r-base-")
    follow(tmp_path, [], [{"kind": "resumed", "time": 0.0, "step": 1}, step(2)], resume=True)
    assert fake.heard[0].id == first
    assert fake.heard[1] == ("resumed", 1)
    follow(tmp_path, [], [step(1)])
    assert fake.heard[0].id != first


# ---- the two that are offered ----------------------------------------------------------------------------------------


def test_unknown_and_missing_sinks_are_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="unknown sink of metrics: mlflow"):
        sinks.check(["mlflow"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentLacks, match="not installed: tensorboard") as caught:
        launch.plan("base", "r", config.build(BaseTrainConfig, {"track.to": ("tensorboard",)}), command="x")
    assert "pip install 'nanochat[track]'" in (caught.value.hint or "")


def test_wandb_is_never_left_to_ask_for_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", "/nowhere/netrc")
    with pytest.raises(EnvironmentLacks, match="WANDB_API_KEY is not set"):
        sinks.check(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    sinks.check(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "k")
    sinks.check(["wandb"])


class FakeWandbRun:
    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []
        self.axes: list[tuple[str, str | None]] = []
        self.summary: dict[str, Any] = {}
        self.finished = False

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes.append((name, step_metric))

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished = True


def test_wandb_gets_config_metrics_and_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run, asked = FakeWandbRun(), list[dict[str, Any]]()
    module = types.ModuleType("wandb")
    module.Settings = lambda **given: given  # type: ignore[attr-defined]

    def init(**given: Any) -> FakeWandbRun:
        asked.append(given)
        return run

    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    told: list[Event] = []
    for resume in (False, True):
        begin = [{"kind": "resumed", "time": 0.0, "step": 1}] if resume else []
        follow(tmp_path, told, [*begin, step(2), {"kind": "done", "step": 2, "loss": 0.5}], resume=resume, to="wandb")
    assert warnings(told) == []
    assert asked[0] == asked[1] and asked[0]["resume"] == "allow" and asked[0]["id"].startswith("r-base-")
    assert asked[0]["config"] == CONFIG and asked[0]["project"] == "nanochat" and asked[0]["dir"] == str(tmp_path)
    assert asked[0]["settings"]["console"] == "off"
    assert run.axes[:2] == [("step", None), ("*", "step")]
    assert run.logged == [{"step": 2, "train/loss": 0.5}] * 2
    assert run.summary == {"result/step": 2, "result/loss": 0.5} and run.finished


def test_tensorboard_drops_the_steps_that_are_done_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    heard: list[Any] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            heard.append((Path(folder).name, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            heard.append((name, value, step))

        def add_text(self, name: str, text: str, step: int) -> None:
            heard.append((name, text.strip(), step))

        def close(self) -> None:
            heard.append("closed")

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    stale = tmp_path / "tensorboard"
    stale.mkdir()
    told: list[Event] = []
    follow(tmp_path, told, [step(1)], to="tensorboard")
    assert not stale.exists(), "curves of an attempt that is made anew are gone"
    assert heard == [("tensorboard", 1), ("config", "model.depth = 4", 0), ("train/loss", 1.0, 1), "closed"]
    heard.clear()
    stale.mkdir()
    events = [{"kind": "resumed", "time": 0.0, "step": 4}, step(5), {"kind": "done", "step": 5, "loss": 0.5}]
    follow(tmp_path, told, events, resume=True, to="tensorboard")
    assert stale.exists()
    assert heard[0] == ("tensorboard", 5) and ("train/loss", 0.2, 5) in heard
    assert heard[-2] == ("result", "step = 5\n    loss = 0.5", 5)
    assert warnings(told) == []
