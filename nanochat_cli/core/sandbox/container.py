"""The tier with an outer wall: each job in a fresh container without network, privileges or anything to write to."""

from __future__ import annotations

import contextlib
import functools
import json
import secrets
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from typing import IO

from nanochat_cli.core.errors import EnvironmentLacks
from nanochat_cli.core.sandbox.inside import frames
from nanochat_cli.core.sandbox.limits import Job, Limits, Outcome
from nanochat_cli.core.sandbox.worker import GRACE_S, INSIDE, Collected, judge

TIER = "container"
IMAGE = f"docker.io/library/python:{sys.version_info.major}.{sys.version_info.minor}-slim"
"""The interpreter that we run under ourselves. A person fetches it: nothing goes online unasked."""
_PACKAGE = INSIDE.parents[2]
_AT = "/opt/nanochat/nanochat_cli"


@functools.cache
def engine() -> str:
    """Path of docker or podman, whichever answers first. Raises EnvironmentLacks."""
    for name in ("docker", "podman"):
        path = shutil.which(name)
        if path is not None and _answers(path):
            return path
    raise EnvironmentLacks(
        "no container engine answers (looked for docker and podman)", hint="start one, or use --sandbox auto"
    )


def _answers(path: str) -> bool:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run([path, "info"], capture_output=True, timeout=20).returncode == 0
    return False


@functools.cache
def require_image() -> None:
    """Raise EnvironmentLacks, with the command that fetches it, if the engine does not have the image."""
    try:
        there = subprocess.run([engine(), "image", "inspect", IMAGE], capture_output=True, timeout=20).returncode == 0
    except subprocess.TimeoutExpired:
        there = False
    if not there:
        name = engine().replace("\\", "/").rpartition("/")[2]
        raise EnvironmentLacks(f"the container's image is not here: {IMAGE}", hint=f"{name} pull {IMAGE}")


class ContainerWorker:
    """Starts one container per job."""

    tier = TIER

    def command(self, name: str, limits: Limits) -> list[str]:
        """The command line of one job."""
        settings = json.dumps({"limits": asdict(limits)})
        return [
            engine(), "run", "--pull=never", "--rm", "-i", "--name", name,
            "--network", "none", "--read-only", "--cap-drop", "ALL",
            "--security-opt", "no-new-privileges", "--pids-limit", "16", "--user", "65534:65534",
            "--memory", f"{2 * limits.memory_mb + 128}m", "--memory-swap", f"{2 * limits.memory_mb + 128}m",
            "--tmpfs", f"/tmp:rw,noexec,nosuid,size={limits.disk_mb + 1}m",
            "-v", f"{_PACKAGE}/__init__.py:{_AT}/__init__.py:ro",
            "-v", f"{_PACKAGE}/core/__init__.py:{_AT}/core/__init__.py:ro",
            "-v", f"{INSIDE.parent}/__init__.py:{_AT}/core/sandbox/__init__.py:ro",
            "-v", f"{INSIDE}:{_AT}/core/sandbox/inside:ro",
            "-e", "PYTHONHASHSEED=0", IMAGE,
            "python", "-P", "-s", "-S", "-B", "-X", "utf8", f"{_AT}/core/sandbox/inside/__main__.py", "once", settings,
        ]  # fmt: skip

    def run(self, job: Job, limits: Limits) -> Outcome:
        """Put one program through its tests. Raises EnvironmentLacks if no container can be started."""
        require_image()
        nonce, name = secrets.token_hex(16), f"nanochat-{secrets.token_hex(8)}"
        began = time.monotonic()
        process = subprocess.Popen(
            self.command(name, limits), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        found, pipes = Collected(), (process.stdin, process.stdout, process.stderr)
        assert pipes[0] and pipes[1] and pipes[2]
        threads = [
            threading.Thread(target=_feed, args=(pipes[0], frames.pack(asdict(job) | {"nonce": nonce})), daemon=True),
            threading.Thread(target=_keep, args=(pipes[1], found.verdict, frames.MAX_BYTES), daemon=True),
            threading.Thread(target=_keep, args=(pipes[2], found.output, limits.output_bytes + 1), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            process.wait(limits.wall_s + GRACE_S)
        except subprocess.TimeoutExpired:
            found.report["stopped"] = "time"
            subprocess.run([engine(), "kill", name], capture_output=True, timeout=30)
            process.kill()
            process.wait()
        for thread in threads:
            thread.join(5)
        return self._judged(found, nonce, limits, process.returncode, time.monotonic() - began)

    def close(self) -> None:
        """Nothing is kept between jobs."""

    def _judged(self, found: Collected, nonce: str, limits: Limits, code: int, seconds: float) -> Outcome:
        if code in (125, 126, 127):  # the engine's own, which no program can bring about: it is not process 1
            words = found.output.decode(errors="replace").strip().splitlines()
            raise EnvironmentLacks(f"the container does not start: {words[-1][:200] if words else code}")
        if not found.verdict and seconds > limits.wall_s:
            found.report["stopped"] = "time"
        found.report.setdefault("seconds", seconds)
        found.truncated = len(found.output) > limits.output_bytes
        del found.output[limits.output_bytes :]
        return judge(found, nonce, limits, TIER, seconds)


def _feed(pipe: IO[bytes], data: bytes) -> None:
    with contextlib.suppress(OSError):
        pipe.write(data)
        pipe.close()


def _keep(pipe: IO[bytes], into: bytearray, most: int) -> None:
    with pipe:
        while piece := pipe.read1(65536):  # pyright: ignore[reportAttributeAccessIssue]
            into += piece[: max(0, most - len(into))]
