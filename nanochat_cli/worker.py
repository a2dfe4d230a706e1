"""Entry of every spawned process: a saved config goes in, one core stage runs, events come out on a file.

Usage: python -m nanochat_cli.worker PATH/config.json (started by `core.launch`, alone or under torchrun, which holds
the lock on the stage's folder).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from nanochat_cli.core import config, events, files, launch, runs
from nanochat_cli.core.errors import EXIT_BUG, NanochatError

_MODULE = {
    "base": "nanochat_cli.core.train.base",
    "mid": "nanochat_cli.core.train.mid",
    "sft": "nanochat_cli.core.train.sft",
    "rl": "nanochat_cli.core.train.rl",
    "eval": "nanochat_cli.core.eval.stage",
    "probe": "nanochat_cli.core.train.calibrate",
}


def main() -> int:
    """Run the stage that the config file on the command line describes and return the exit code."""
    path = Path(sys.argv[1])
    rank = int(os.environ.get("RANK", "0"))
    _end_with_parent()
    log: events.Log = events.NULL
    try:
        saved = files.read_json(path, "the stage's config")
        context = runs.RunContext(saved["run"], saved["stage"], path.parent, saved["resume"], saved["command"])
        cfg = config.from_dict(launch.config_class(context.stage), saved["config"], str(path))
        if rank == 0:
            files.sweep_staging(context.dir)
            log = events.FileLog(context.dir / "events.jsonl")
        _work(context, cfg, log)
        return 0
    except NanochatError as problem:
        _report(path.parent, rank, log, type(problem).__name__, str(problem), problem.hint)
        return problem.exit_code
    except Exception as problem:
        _report(path.parent, rank, log, "bug", f"{type(problem).__name__}: {problem}", None)
        return EXIT_BUG


def _work(context: runs.RunContext, cfg: Any, log: events.Log) -> None:
    """Run the stage; its result is published last, so a folder with a result is a finished stage."""
    log.emit("stage", name=context.stage, purpose=runs.PURPOSE[context.stage], run=context.run)
    began = time.perf_counter()
    from nanochat_cli.core import dist as processes

    stage = importlib.import_module(_MODULE[context.stage])
    dist = processes.init(cfg.compute.gpus)
    outcome = stage.run(cfg, context, dist, log)
    if dist.is_main and "stopped" not in outcome:
        outcome = {"seconds": round(time.perf_counter() - began, 2), **outcome}
        files.write_json(context.dir / "result.json", outcome)
        log.emit("done", **outcome)
    dist.close()  # only on a clean end: after an error in one rank the others would wait here for the whole time-out


def _report(folder: Path, rank: int, log: events.Log, kind: str, message: str, hint: str | None) -> None:
    """Leave the cause where the parent looks for it; a full disk must not hide it behind a second error."""
    record = {"time": time.time(), "rank": rank, "type": kind, "message": message, "hint": hint}
    with contextlib.suppress(OSError, NanochatError):
        files.write_json(folder / f"error-rank{rank}.json", record)
    with contextlib.suppress(OSError, NanochatError):
        log.emit("error", message=message, hint=hint)
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
