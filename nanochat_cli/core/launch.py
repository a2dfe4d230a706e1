"""Starts workers: writes the stage's config, spawns one process or torchrun, follows the events, explains failures."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_cli import __version__
from nanochat_cli.core import (
    config,
    errors,
    events,
    failures,
    files,
    heartbeat,
    leftovers,
    machine,
    paths,
    placement,
    runlock,
    runs,
    sinks,
    slurm,
)
from nanochat_cli.core.errors import ConfigError, EnvironmentLacks, InUse, NanochatError
from nanochat_cli.core.placement import Place

_POLL_S = 0.05
_STARTED = time.monotonic()
_WATCH_EVERY = 20
"""Polls of the events between two looks at the signs of life."""
# Training takes and returns the same tens of megabytes at every step. By default glibc hands them back to the system,
# which clears them anew each time, page by page; kept, and in huge pages, they cost a seventh of the page faults.
_KEEP_MEMORY = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=2147483648"
_SAME_SIZES = ("probe", "bench", "base", "mid", "sft")
"""Stages of which that is true; with replies of every length, kept memory would only pile up."""
# Threads that wait for each other spin for long by default: 4 % faster on an idle machine, several times slower on one
# with other work, where a spinning thread keeps the one it waits for from running.
_WAIT_SPINNING = "1000"
_NUMBERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Interrupted(NanochatError):
    """The user asked twice: the workers were ended at once."""

    exit_code = errors.EXIT_INTERRUPTED


class Hung(NanochatError):
    """Workers that showed no sign of life were ended."""


@dataclass(frozen=True)
class Plan:
    """One stage, ready to start."""

    stage: str
    run: str
    dir: Path
    config: Any
    resume: bool
    command: str
    place: Place = placement.ALONE
    resume_step: int | None = None
    attempt: int = 0
    takeover: bool = False
    """Work in the folder although another machine seems to do so: its user says that it is gone."""

    @property
    def procs(self) -> int:
        """Worker processes to start here: one per GPU, or as many as asked for on a CPU; one for a numbered rank."""
        return 1 if self.place.rank else placement.num_gpus(self.config.compute) or self.config.compute.procs

    @property
    def config_path(self) -> Path:
        """The file that the workers read."""
        return self.dir / f"config{self.place.suffix}.json"

    @property
    def log_path(self) -> Path:
        """The file that takes what the workers, and torchrun, say."""
        return self.dir / f"worker{self.place.suffix}.log"

    @property
    def argv(self) -> list[str]:
        """The command line of the workers."""
        return worker_argv(self.config_path, self.procs, self.place, f"{self.run}-{self.stage}")

    @property
    def resume_command(self) -> str | None:
        """What goes on with this stage; None if there is nothing saved to go on from."""
        return f"nanochat train {self.stage} --run {self.run} --resume" if runs.checkpoint_steps(self.dir) else None


def plan(
    stage: str,
    run: str,
    cfg: Any,
    *,
    resume: bool = False,
    resume_step: int | None = None,
    command: str | None = None,
) -> Plan:
    """Return the plan of a stage after checking that nothing is overwritten; else a ConfigError names two ways on."""
    folder = runs.stage_dir(run, stage)
    words = command or shlex.join(["nanochat", *sys.argv[1:]])
    if track := getattr(cfg, "track", None):
        sinks.check(track.to)
    if not resume:
        _refuse_started(stage, run, folder)
    place = placement.find(getattr(cfg, "cluster", None))
    return Plan(stage, run, folder, cfg, resume, words, place, resume_step)


def _refuse_started(stage: str, run: str, folder: Path) -> None:
    """Raise ConfigError if a training stage has something to lose in its folder."""
    finished = runs.is_finished(folder)
    if stage not in runs.STAGES or not (finished or runs.checkpoint_steps(folder)):
        return
    state = "is finished" if finished else "was started before"
    anew = "choose a new name with --run" if stage == "base" else "train it anew into another run with --into NAME"
    going_on = "" if finished else f"continue it with `nanochat train {stage} --run {run} --resume`, or "
    raise ConfigError(f"stage {stage} of run {run} {state}: {folder}", hint=f"{going_on}{anew}")


def saved_config(stage: str, run: str) -> Any:
    """Return the config that a stage was started with."""
    path = runs.stage_dir(run, stage) / "config.json"
    saved = files.read_json(path, "the stage's config")
    return config.from_dict(config_class(stage), saved.get("config", {}), str(path))


def config_class(stage: str) -> type:
    """Return the config class of a stage."""
    from nanochat_cli.core.settings import WORKER_CONFIGS

    return WORKER_CONFIGS[stage]


def worker_argv(config_path: Path, num_procs: int, place: Place = placement.ALONE, name: str = "nanochat") -> list[str]:
    """Return the command line of the workers; a pure function. `name` keeps trainings at one meeting point apart.

    Nodes meet by torchrun's static rendezvous: its newer one, c10d, numbers them in the order of their addresses, and
    the rank that writes would land on any of them.
    """
    worker = ["-m", "nanochat_cli.worker", str(config_path)]
    if place.rank is not None or (num_procs == 1 and place.nnodes == 1):
        return [sys.executable, *worker]
    nodes = ["--standalone"]
    if place.nnodes > 1:
        nodes = [f"--nnodes={place.nnodes}", f"--node-rank={place.node_rank}", "--rdzv-backend=static"]
        nodes += [f"--rdzv-endpoint={place.endpoint}", f"--rdzv-id={name}"]
    return [sys.executable, "-m", "torch.distributed.run", *nodes, f"--nproc-per-node={num_procs}", *worker]


def worker_env(compute: Any, num_procs: int, stage: str = "base", place: Place = placement.ALONE) -> dict[str, str]:
    """Return the environment of the workers: a thread per physical core in total, and a kernel cache that survives."""
    env = {name: value for name, value in os.environ.items() if place.rank is not None or name not in _NUMBERS}
    if place.rank is not None:
        env.update(_numbers(place.rank))
    threads = compute.threads or _threads(num_procs, place)
    env.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), PYTHONUNBUFFERED="1")
    env.setdefault("TORCHINDUCTOR_CACHE_DIR", str(paths.cache_dir() / "inductor"))
    if stage in _SAME_SIZES:
        env.setdefault("GLIBC_TUNABLES", _KEEP_MEMORY)
    env.setdefault("GOMP_SPINCOUNT", _WAIT_SPINNING)
    if compute.deterministic:
        env.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        env.setdefault("NCCL_ALGO", "Ring")
    if compute.gpus == 0 or (compute.gpus is None and not has_gpu()):
        env["CUDA_VISIBLE_DEVICES"] = ""
    elif "PYTORCH_ALLOC_CONF" not in env:  # the newer name of the same
        env.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if (place.nnodes == 1 and (num_procs > 1 or not place.alone)) or _meets_at_home(place):
        # several ranks on one machine: gloo must not look up the host's name
        env.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    return env


def _numbers(rank: placement.Rank) -> dict[str, str]:
    """Return what torchrun would set for a rank, under the names that the workers read."""
    values = (rank.rank, rank.local_rank, rank.world, rank.local_world, rank.host, rank.port)
    return dict(zip(_NUMBERS, map(str, values), strict=True))


def _threads(num_procs: int, place: Place) -> int:
    """Return the threads of one process: its share of the physical cores, or those that srun has given to it alone."""
    cores = machine.physical_cores()
    if place.rank is None:
        return max(1, cores // num_procs)
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if place.rank.by == "srun" and given.isdigit():
        threads = max(cores, machine.usable_cores())  # which is what Slurm counts
        return max(1, min(int(given) * cores // threads, cores))
    return max(1, cores // place.rank.local_world)


def _meets_at_home(place: Place) -> bool:
    """Whether all nodes are this machine, as in a trial."""
    host = placement.host_and_port(place.endpoint)[0] if place.endpoint else place.rank.host if place.rank else ""
    return host in ("localhost", "::1") or host.startswith("127.")


def has_gpu() -> bool:
    """Return whether the system shows an NVIDIA device (without importing torch)."""
    return machine.count_gpus() > 0


def run(job: Plan, on_event: Callable[[events.Event], None]) -> dict[str, Any]:
    """Run a stage in worker processes and return its result; `{"stopped": step}` if it was asked to stop.

    A stage that was asked too late, or cannot stop half-way, ends as usual; `asked_to_stop` then tells the caller.

    Ctrl-C or SIGTERM stops at the next step boundary with everything saved; a second one ends the workers at once.
    Raises the first failing worker's own error, and NanochatError if another command is working in the folder, before
    anything in it is touched. A stage that fails before its first step leaves no folder that was not there before.

    A command that does not lead (see `placement`) hands on no events and returns {}.
    """
    with contextlib.ExitStack() as held:
        lock = None
        with files.explain_os_errors("the run folder"):
            if job.place.leads:
                before = leftovers.Leftovers(job.run, job.dir, job.log_path)
                if paths.runs_dir() in job.dir.parents:  # a benchmark works in the cache and leaves no run behind
                    runs.create(job.run)
                files.make_dir(job.dir, "the stage folder")
                lock = hold(job.dir, held, takeover=job.takeover if job.stage in runs.STAGES else None)
                if job.place.alone:  # else other commands may be at work in there
                    held.push(before.leave)
                _prepare(job)
            else:
                files.make_dir(job.dir, "the stage folder")
                held.callback(job.config_path.unlink, missing_ok=True)
                _prepare_own(job)
            told = held.enter_context(_tracked(job, on_event))
        return _follow(job, lock, told)


def hold(folder: Path, held: contextlib.ExitStack, takeover: bool | None = None) -> int:
    """Lock a stage's folder for as long as `held` lasts and return the open file that does.

    A failed start clears away what it made: if that happens while this one waits for it, the folder is made anew.
    """
    for _ in range(3):
        files.make_dir(folder, "the stage folder")
        with contextlib.suppress(FileNotFoundError):
            return held.enter_context(runs.lock(folder, takeover=takeover))
    raise InUse(f"another process keeps taking this folder away: {folder}", hint="try again when it is done")


def _tracked(
    job: Plan, on_event: Callable[[events.Event], None]
) -> contextlib.AbstractContextManager[Callable[[events.Event], None]]:
    """Have the events go to the sinks of metrics that were asked for, as well."""
    return sinks.following(
        getattr(job.config, "track", None) if job.place.leads and job.stage in runs.STAGES else None,
        on_event,
        run=job.run,
        stage=job.stage,
        folder=job.dir,
        config=config.to_dict(job.config),
        resume=job.resume,
    )


def _follow(job: Plan, lock: int | None, on_event: Callable[[events.Event], None]) -> dict[str, Any]:
    """Start the workers, hand on their events until they end, and return the result or raise what went wrong."""
    tail = events.Tail(job.dir / "events.jsonl") if job.place.leads else None
    log_from = job.log_path.stat().st_size if job.log_path.exists() else 0
    _tell_of_nodes(job, on_event)
    stopped: dict[str, Any] | None = None
    watch = _watch_over(job)
    polls = 0
    with _stop_requests() as requests, _spawn(job, lock) as process:
        while True:
            ended = process.poll() is not None
            polls += 1
            if not ended and watch is not None and polls % _WATCH_EVERY == 0 and (hanging := watch.hanging()):
                watch.kill()
                _kill_group(process)
                raise _hung(job, hanging, watch.waited)
            if lock is not None and runlock.lost(lock):
                _kill_group(process)
                raise InUse(
                    f"another process has taken over this run, so this training was ended: {job.dir}",
                    hint="see who: nanochat runs ls",
                )
            for event in tail.poll() if tail else ():
                if event["kind"] == "stopped":
                    stopped = {"stopped": event["step"], **({"why": event["why"]} if event.get("why") else {})}
                on_event(event)
            if ended:
                break
            _obey(requests, job, process, on_event)
            time.sleep(_POLL_S)
    if process.returncode != 0 and watch is not None:
        watch.kill()  # a launcher that was ended leaves processes behind that hang
    if process.returncode != 0 and stopped is None:  # a launcher that was told to end says 1, though all is saved
        raise _failure(job, process.returncode, log_from)
    if not job.place.leads:
        return {}
    outcome = stopped if stopped is not None else runs.result(job.dir)
    return {**outcome, "asked_to_stop": True} if requests else outcome


def _prepare(job: Plan) -> None:
    """Clear away what an earlier attempt left, and write the config that the workers read. Needs the lock."""
    if not job.resume:
        _refuse_started(job.stage, job.run, job.dir)  # another command may have finished it in the meantime
    heartbeat.clear(job.dir)
    for name in (runs.STOP_FILE, "result.json"):
        (job.dir / name).unlink(missing_ok=True)
    for stale in job.dir.glob("error-*.json"):
        stale.unlink(missing_ok=True)
    if not job.resume:
        (job.dir / "events.jsonl").unlink(missing_ok=True)
    _write_config(job)


def _prepare_own(job: Plan) -> None:
    """Write the config that the workers of a command read that does not lead.

    In a folder of its own it clears away what an earlier attempt left; in a shared one that is the leader's task.
    """
    if not runs.is_held(job.dir):
        for stale in (job.dir / runs.STOP_FILE, *job.dir.glob("error-*.json")):
            stale.unlink(missing_ok=True)
    _write_config(job)


def _write_config(job: Plan) -> None:
    record = {
        "format": 1,
        "version": __version__,
        "stage": job.stage,
        "run": job.run,
        "resume": job.resume,
        "resume_step": job.resume_step,
        "attempt": job.attempt,
        "started": _STARTED,
        "command": job.command,
        "config": config.to_dict(job.config),
    }
    files.write_json(job.config_path, record)


def _watch_over(job: Plan) -> heartbeat.Watch | None:
    """Return who looks for signs of life of the workers; None if nobody shall."""
    guard = getattr(job.config, "guard", None)
    if guard is None or guard.hang_after_s is None:
        return None
    return heartbeat.Watch(job.dir, guard.hang_after_s)


def _hung(job: Plan, ranks: list[int], waited_s: float) -> Hung:
    who = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
    verb = "shows" if len(ranks) == 1 else "show"
    return Hung(
        f"{who} {verb} no sign of life for {waited_s:g} s, so training was ended",
        hint=job.resume_command or f"its last words are in {job.log_path}",
    )


def _tell_of_nodes(job: Plan, on_event: Callable[[events.Event], None]) -> None:
    """Say what this command waits for, or why it does not use all nodes of a Slurm job."""
    place, text = job.place, None
    if place.endpoint is not None:
        _check_meeting_point(place.endpoint)
        text = f"node {place.node_rank} of {place.nnodes}, meeting the others at {place.endpoint}"
        text += "" if place.leads else "; the first node shows how it goes"
    elif place.alone and slurm.current(os.environ) is None and (nodes := slurm.nodes_of_job(os.environ)) > 1:
        text = f"using one of the {nodes} nodes of this Slurm job; for all of them: srun {job.command}"
    if text:
        on_event({"kind": "note", "time": time.time(), "text": text})


def _check_meeting_point(endpoint: str) -> None:
    """Raise EnvironmentLacks for a host that nobody here knows: torchrun would wait for it for ten minutes."""
    host, port = placement.host_and_port(endpoint)
    try:
        socket.getaddrinfo(host, port)
    except OSError as problem:
        raise EnvironmentLacks(
            f"no such host: {host} ({problem.strerror or problem})", hint="--rdzv-endpoint names the first machine"
        ) from None


@contextlib.contextmanager
def _spawn(job: Plan, lock: int | None) -> Iterator[subprocess.Popen[bytes]]:
    """Start the workers in a session of their own, so that Ctrl-C reaches only us and we can end cleanly.

    Their standard input is a pipe that closes when this process dies, however it dies: the workers then end too. They
    inherit the lock, so the folder stays theirs until then.
    """
    with job.log_path.open("ab") as log:
        with _ignored(signal.SIGUSR1):  # torchrun has no handler for it, and would end; workers have one
            process = subprocess.Popen(
                job.argv,
                env=worker_env(job.config.compute, job.procs, job.stage, job.place),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=() if lock is None else (lock,),
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                _kill_group(process)
            if process.stdin:
                process.stdin.close()


@contextlib.contextmanager
def _ignored(kind: signal.Signals) -> Iterator[None]:
    """Ignore a signal in the block, and so in the programs that it starts."""
    try:
        before = signal.signal(kind, signal.SIG_IGN)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(kind, before)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collect requests to stop in a list instead of raising, while the block runs."""
    seen: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
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
    if sum(number != signal.SIGUSR1 for number in requests) >= 2:
        _kill_group(process)
        raise Interrupted(
            "ended at once; what was saved before is intact",
            hint=f"nanochat train {job.stage} --run {job.run} --resume" if job.stage in runs.STAGES else None,
        )
    stop = job.dir / runs.STOP_FILE
    if not stop.exists() and len(requests) == 1:
        try:
            files.write_atomic(stop, "Ctrl-C" if requests[0] == signal.SIGINT else signal.Signals(requests[0]).name)
        except NanochatError:  # no room for a file: the workers, or their launcher, are told directly
            process.send_signal(signal.SIGTERM)
            requests.append(signal.SIGUSR1)
        saving = " and saving" if job.stage in runs.STAGES else ""
        text = f"stopping after this step{saving}; press Ctrl-C again to leave at once"
        on_event({"kind": "note", "time": time.time(), "text": text})


def _failure(job: Plan, code: int, log_from: int) -> NanochatError:
    """Return why the workers ended: the first cause among all that can be seen from here."""
    place = job.place
    ended = failures.Ended(
        folder=job.dir,
        code=code,
        log=job.log_path,
        log_from=log_from,
        rank=place.rank.rank if place.rank and not place.alone else None,
        torchrun="torch.distributed.run" in job.argv,
        others=not place.alone,
        endpoint=place.endpoint,
        resume=job.resume_command,
        command=job.command,
    )
    problem = failures.cause(ended)
    if not place.leads:
        failures.publish(problem, job.dir, place.suffix)
    return problem
