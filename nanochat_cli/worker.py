"""Entry of every spawned process: a saved config goes in, one core stage runs, events come out on a file.

Usage: python -m nanochat_cli.worker PATH/config.json (started by `core.launch`, alone or under torchrun, which holds
the lock on the stage's folder).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat_cli.core import config, events, failures, faults, files, interrupts, launch, runs
from nanochat_cli.core.errors import EXIT_BUG, ConfigError, NanochatError, PeerFailed

if TYPE_CHECKING:
    from nanochat_cli.core.dist import Dist

_MODULE = {
    "base": "nanochat_cli.core.train.base",
    "mid": "nanochat_cli.core.train.mid",
    "sft": "nanochat_cli.core.train.sft",
    "rl": "nanochat_cli.core.train.rl",
    "eval": "nanochat_cli.core.eval.stage",
    "probe": "nanochat_cli.core.train.calibrate",
    "bench": "nanochat_cli.core.train.bench",
}


def main() -> int:
    """Run the stage that the config file on the command line describes and return the exit code."""
    path = Path(sys.argv[1])
    rank = int(os.environ.get("RANK", "0"))
    _end_with_parent()
    log: events.Log = events.NULL
    try:
        saved = files.read_json(path, "the stage's config")
        context = runs.RunContext(
            saved["run"],
            saved["stage"],
            path.parent,
            saved["resume"],
            saved["command"],
            resume_step=saved.get("resume_step"),
            started=saved.get("started"),
            attempt=saved.get("attempt", 0),
        )
        faults.arm(rank=rank, attempt=context.attempt)
        if context.stage in runs.STAGES:  # who asks this process itself to end gets a checkpoint, too
            interrupts.listen(signal.SIGTERM, signal.SIGUSR1)
        cfg = config.from_dict(launch.config_class(context.stage), saved["config"], str(path))
        if rank == 0:
            _settle(context)
            log = events.FileLog(context.dir / "events.jsonl")
        _work(context, cfg, log)
        return 0
    except NanochatError as problem:
        _report(path.parent, rank, log, type(problem).__name__, problem, problem.hint)
        return problem.exit_code
    except Exception as problem:
        _report(path.parent, rank, log, "bug", problem, None)
        return EXIT_BUG


def _settle(context: runs.RunContext) -> None:
    """Clear away what a killed worker left. What commands write beside it, such as a request to stop, is not ours."""
    files.sweep_staging(context.dir, "step-", "latest.", "best.json.", "result.json.")
    if context.stage in runs.STAGES:
        from nanochat_cli.core import stepdirs

        stepdirs.recover(context.dir)


def _work(context: runs.RunContext, cfg: Any, log: events.Log) -> None:
    """Run the stage; its result is published last, so a folder with a result is a finished stage."""
    log.emit("stage", name=context.stage, purpose=runs.purpose(context.stage, cfg), run=context.run)
    began = time.perf_counter()
    from nanochat_cli.core import dist as processes

    stage = importlib.import_module(_MODULE[context.stage])
    dist = processes.init(cfg.compute.gpus)
    if dist.world > 1:
        _check_same(context, cfg, dist)
    outcome = stage.run(cfg, context, dist, log)
    if dist.is_main and "stopped" not in outcome:
        outcome = {"seconds": round(time.perf_counter() - began, 2), **outcome}
        files.write_json(context.dir / "result.json", outcome)
        log.emit("done", **outcome)
    dist.close()  # only on a clean end: after an error in one rank the others would wait here for the whole time-out


def _check_same(context: runs.RunContext, cfg: Any, dist: Dist) -> None:
    """Raise ConfigError if another command has started this process with other options than the main one's.

    Commands on several machines settle their options each by itself; here is where they first meet.
    """
    mine = {f"the {key}": getattr(context, key) for key in ("stage", "run", "resume")}
    mine["the newest checkpoint"] = runs.checkpoint_steps(context.dir)[-1:] if context.resume else []
    mine |= {
        path: [Path(text).name for text in value] if path == "chats.data" else value  # its folder may be another here
        for path, value in config.flatten(config.to_dict(cfg), "config").items()
        if not path.startswith("cluster.") and path != "compute.threads"
    }
    theirs = json.loads(dist.main_text(json.dumps(mine)))
    wrong = next((key for key, value in mine.items() if theirs.get(key) != value), None)
    if not dist.any(wrong is not None):
        return
    if wrong is None:
        raise PeerFailed("another process was started with other options")
    raise ConfigError(
        f"{wrong} is not what the first process has, which is {theirs.get(wrong)}: {mine[wrong]}",
        hint="start the same command on all machines, with the same data in the same state",
    )


def _report(folder: Path, rank: int, log: events.Log, kind: str, problem: Exception, hint: str | None) -> None:
    """Leave the cause where the parent looks for it; a full disk must not hide it behind a second error."""
    message = f"{type(problem).__name__}: {problem}" if kind == "bug" else str(problem)
    lost_peer = int(os.environ.get("WORLD_SIZE", "1")) > 1 and failures.is_lost_peer(problem)
    record = {"time": time.time(), "rank": rank, "type": kind, "message": message, "hint": hint, "lost_peer": lost_peer}
    with contextlib.suppress(OSError, NanochatError):
        files.write_json(folder / f"error-rank{rank}.json", record)
    with contextlib.suppress(OSError, NanochatError):
        log.emit("error", message=message, hint=hint, type=kind)
    with contextlib.suppress(OSError):
        traceback.print_exc()


def _end_with_parent() -> None:
    """End this process as soon as the command that started it is gone: its end of our standard input closes."""

    def watch() -> None:
        with contextlib.suppress(OSError, ValueError):
            while os.read(0, 1024):
                pass
        os._exit(EXIT_BUG)

    threading.Thread(target=watch, daemon=True).start()


def _leave(code: int) -> None:
    """End the process. One of several leaves at once: threads of the process group may abort a slower end."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    _leave(main())
