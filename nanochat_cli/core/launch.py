"""Starts workers: writes the stage's config, spawns one process or torchrun, follows the events, explains failures."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_cli import __version__
from nanochat_cli.core import config, errors, events, files, machine, paths, runs
from nanochat_cli.core.errors import EXIT_BUG, ConfigError, NanochatError

STOP_FILE = "stop"
_POLL_S = 0.05
_NEXT_TO_NOTHING = 64 << 10
"""Bytes of free disk below which a failure without a report is put down to the full disk."""
# Training takes and returns the same tens of megabytes at every step. By default glibc hands them back to the system,
# which clears them anew each time, page by page; kept, and in huge pages, they cost a seventh of the page faults.
_KEEP_MEMORY = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=2147483648"
_SAME_SIZES = ("probe", "base", "mid", "sft")
"""Stages of which that is true; with replies of every length, kept memory would only pile up."""
# Threads that wait for each other spin for long by default: 4 % faster on an idle machine, several times slower on one
# with other work, where a spinning thread keeps the one it waits for from running.
_WAIT_SPINNING = "1000"


class Interrupted(NanochatError):
    """The user asked twice: the workers were ended at once."""

    exit_code = errors.EXIT_INTERRUPTED


@dataclass(frozen=True)
class Plan:
    """One stage, ready to start."""

    stage: str
    run: str
    dir: Path
    config: Any
    resume: bool
    command: str

    @property
    def procs(self) -> int:
        """Worker processes: one per GPU, or as many as asked for on a CPU."""
        compute = self.config.compute
        return max(1, compute.gpus) if compute.gpus else compute.procs


def plan(stage: str, run: str, cfg: Any, *, resume: bool = False, command: str | None = None) -> Plan:
    """Return the plan of a stage after checking that nothing is overwritten; else a ConfigError names two ways on."""
    folder = runs.stage_dir(run, stage)
    words = command or shlex.join(["nanochat", *sys.argv[1:]])
    if not resume:
        _refuse_started(stage, run, folder)
    return Plan(stage, run, folder, cfg, resume, words)


def _refuse_started(stage: str, run: str, folder: Path) -> None:
    """Raise ConfigError if a training stage has something to lose in its folder."""
    finished = runs.is_finished(folder)
    if stage not in runs.STAGES or not (finished or runs.checkpoint_steps(folder)):
        return
    state = "is finished" if finished else "was started before"
    anew = "choose a new name with --run" if stage == "base" else "train it anew into another run with --into NAME"
    raise ConfigError(
        f"stage {stage} of run {run} {state}: {folder}",
        hint=f"continue it with `nanochat train {stage} --run {run} --resume`, or {anew}",
    )


def saved_config(stage: str, run: str) -> Any:
    """Return the config that a stage was started with."""
    path = runs.stage_dir(run, stage) / "config.json"
    saved = files.read_json(path, "the stage's config")
    return config.from_dict(config_class(stage), saved.get("config", {}), str(path))


def config_class(stage: str) -> type:
    """Return the config class of a stage."""
    from nanochat_cli.core.settings import WORKER_CONFIGS

    return WORKER_CONFIGS[stage]


def worker_argv(config_path: Path, num_procs: int) -> list[str]:
    """Return the command line of the workers; a pure function."""
    worker = ["-m", "nanochat_cli.worker", str(config_path)]
    if num_procs == 1:
        return [sys.executable, *worker]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_procs}", *worker]


def worker_env(compute: Any, num_procs: int, stage: str = "base") -> dict[str, str]:
    """Return the environment of the workers: one thread per core in total, and a kernel cache that survives."""
    threads = compute.threads or max(1, machine.usable_cores() // num_procs)
    env = dict(os.environ)
    env.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), PYTHONUNBUFFERED="1")
    env.setdefault("TORCHINDUCTOR_CACHE_DIR", str(paths.cache_dir() / "inductor"))
    if stage in _SAME_SIZES:
        env.setdefault("GLIBC_TUNABLES", _KEEP_MEMORY)
    env.setdefault("GOMP_SPINCOUNT", _WAIT_SPINNING)
    if compute.gpus == 0 or (compute.gpus is None and not has_gpu()):
        env["CUDA_VISIBLE_DEVICES"] = ""
    if num_procs > 1:  # several ranks on one machine: gloo must not look up the host's name
        env.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    return env


def has_gpu() -> bool:
    """Return whether the system shows an NVIDIA device (without importing torch)."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def run(job: Plan, on_event: Callable[[events.Event], None]) -> dict[str, Any]:
    """Run a stage in worker processes and return its result; `{"stopped": step}` if it was asked to stop.

    A stage that was asked too late, or cannot stop half-way, ends as usual; `asked_to_stop` then tells the caller.

    Ctrl-C or SIGTERM stops at the next step boundary with everything saved; a second one ends the workers at once.
    Raises the first failing worker's own error, and NanochatError if another command is working in the folder, before
    anything in it is touched.
    """
    with contextlib.ExitStack() as held:
        with files.explain_os_errors("the run folder"):
            runs.create(job.run)
            files.make_dir(job.dir, "the stage folder")
            lock = held.enter_context(runs.lock(job.dir))
            _prepare(job)
        return _follow(job, lock, on_event)


def _follow(job: Plan, lock: int, on_event: Callable[[events.Event], None]) -> dict[str, Any]:
    """Start the workers, hand on their events until they end, and return the result or raise what went wrong."""
    tail = events.Tail(job.dir / "events.jsonl")
    stopped: dict[str, Any] | None = None
    with _stop_requests() as requests, _spawn(job, lock) as process:
        while True:
            ended = process.poll() is not None
            for event in tail.poll():
                if event["kind"] == "stopped":
                    stopped = {"stopped": event["step"]}
                on_event(event)
            if ended:
                break
            _obey(requests, job, process, on_event)
            time.sleep(_POLL_S)
    if process.returncode != 0:
        raise _failure(job, process.returncode)
    outcome = stopped if stopped is not None else runs.result(job.dir)
    return {**outcome, "asked_to_stop": True} if requests else outcome


def _prepare(job: Plan) -> None:
    """Clear away what an earlier attempt left, and write the config that the workers read. Needs the lock."""
    if not job.resume:
        _refuse_started(job.stage, job.run, job.dir)  # another command may have finished it in the meantime
    for name in (STOP_FILE, "result.json"):
        (job.dir / name).unlink(missing_ok=True)
    for stale in job.dir.glob("error-rank*.json"):
        stale.unlink()
    if not job.resume:
        (job.dir / "events.jsonl").unlink(missing_ok=True)
    record = {
        "format": 1,
        "version": __version__,
        "stage": job.stage,
        "run": job.run,
        "resume": job.resume,
        "command": job.command,
        "config": config.to_dict(job.config),
    }
    files.write_json(job.dir / "config.json", record)


@contextlib.contextmanager
def _spawn(job: Plan, lock: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start the workers in a session of their own, so that Ctrl-C reaches only us and we can end cleanly.

    Their standard input is a pipe that closes when this process dies, however it dies: the workers then end too. They
    inherit the lock, so the folder stays theirs until then.
    """
    argv = worker_argv(job.dir / "config.json", job.procs)
    with (job.dir / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            argv,
            env=worker_env(job.config.compute, job.procs, job.stage),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                _kill_group(process)
            if process.stdin:
                process.stdin.close()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of raising, while the block runs."""
    seen: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM)
    try:
        before = [signal.signal(kind, lambda number, _frame: seen.append(number)) for kind in kinds]
    except ValueError:  # not the main thread: the caller stops us through the stop file
        yield seen
        return
    try:
        yield seen
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def _obey(
    requests: list[int], job: Plan, process: subprocess.Popen[bytes], on_event: Callable[[events.Event], None]
) -> None:
    if not requests:
        return
    if len(requests) >= 2:
        _kill_group(process)
        raise Interrupted(
            "ended at once; what was saved before is intact",
            hint=f"nanochat train {job.stage} --run {job.run} --resume" if job.stage in runs.STAGES else None,
        )
    stop = job.dir / STOP_FILE
    if not stop.exists():
        stop.touch()
        text = "stopping after this step and saving; press Ctrl-C again to leave at once"
        on_event({"kind": "note", "time": time.time(), "text": text})


def _failure(job: Plan, code: int) -> NanochatError:
    """Return the error of the first rank that failed, or what the exit code alone can tell."""
    reports = []
    for path in job.dir.glob("error-rank*.json"):
        with contextlib.suppress(ValueError, OSError):
            reports.append(json.loads(path.read_text()))
    log = job.dir / "worker.log"
    resume = f"nanochat train {job.stage} --run {job.run} --resume" if runs.checkpoint_steps(job.dir) else None
    if reports:
        first = min(reports, key=lambda report: report["time"])
        if first["type"] == "bug":
            problem = NanochatError(f"a worker failed: {first['message']}", hint=f"the traceback is in {log}")
            problem.exit_code = EXIT_BUG
            return problem
        return errors.rebuild(first["type"], first["message"], first["hint"] or resume)
    if files.free_space(job.dir) < _NEXT_TO_NOTHING:  # too full even for the report
        return NanochatError(f"the disk is full: {job.dir}", hint=f"free some space, then: {resume or job.command}")
    if code < 0:
        name = signal.Signals(-code).name
        likely = " (the system may have run out of memory)" if -code == signal.SIGKILL else ""
        return NanochatError(f"the worker was ended by {name}{likely}", hint=resume or f"its last words are in {log}")
    problem = NanochatError(f"the worker ended with exit code {code}", hint=f"its last words are in {log}")
    problem.exit_code = EXIT_BUG
    return problem
