"""`make faults`: `kill -9` at random moments of a whole recipe; it always completes, with the very same weights.

NANOCHAT_FAULT_RECIPE chooses the recipe (default demo-smoke), NANOCHAT_FAULT_KILLS how often it is killed (default 10),
NANOCHAT_FAULT_SEED the moments, NANOCHAT_FAULT_WHOLE the base directory of a finished run to compare with.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanochat_cli.core import files, runs

RECIPE = os.environ.get("NANOCHAT_FAULT_RECIPE", "demo-smoke")
KILLS = int(os.environ.get("NANOCHAT_FAULT_KILLS", "10"))
SEED = int(os.environ.get("NANOCHAT_FAULT_SEED", "0"))
WHOLE = os.environ.get("NANOCHAT_FAULT_WHOLE")
HOUR_S = 3600


def recipe_process(base: Path) -> subprocess.Popen[bytes]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("NANOCHAT_")}
    env["NANOCHAT_BASE_DIR"] = str(base)
    argv = [sys.executable, "-m", "nanochat_cli.main", "run", RECIPE]
    return subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def finish(base: Path) -> float:
    """Run the recipe to its end and return how long that took, in seconds."""
    began = time.monotonic()
    with recipe_process(base) as process:
        assert process.wait(timeout=HOUR_S) == 0
    return time.monotonic() - began


def weights(base: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))
    found = {}
    for stage in runs.STAGES:
        folder = runs.stage_dir(RECIPE, stage)
        last = folder / f"step-{runs.checkpoint_steps(folder)[-1]:06d}"
        found[stage] = files.sha256_file(last / "model.safetensors")
    return found


@pytest.mark.slow
@pytest.mark.timeout(2 * HOUR_S)
def test_kill_9_at_random_moments_of_a_whole_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path(WHOLE) if WHOLE else tmp_path / "whole"
    whole_s = finish(whole)
    if WHOLE:  # it was finished before: this call only checked so
        whole_s = float(os.environ.get("NANOCHAT_FAULT_WHOLE_S", "400"))
    torn = tmp_path / "torn"
    measured = whole / "cache" / "probe.json"  # which kernels are faster is a matter of noise, and decides the sums
    if measured.is_file():
        (torn / "cache").mkdir(parents=True)
        shutil.copy(measured, torn / "cache" / "probe.json")
    moments = sorted(random.Random(SEED).uniform(0, whole_s) for _ in range(KILLS))
    done_s = 0.0
    for moment in moments:  # each process lives until the next moment, so that the kills spread over all stages
        with recipe_process(torn) as process:
            time.sleep(max(1.0, moment - done_s))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
        done_s = moment
    finish(torn)
    assert weights(torn, monkeypatch) == weights(whole, monkeypatch)
