"""Which sandbox works here: found by letting known-bad programs try to get out, never by what the system promises."""

from __future__ import annotations

import functools
import os
import socket
import sys
import tempfile
from pathlib import Path

from nanochat_cli.core.errors import ConfigError, EnvironmentLacks
from nanochat_cli.core.sandbox import container
from nanochat_cli.core.sandbox.container import ContainerWorker
from nanochat_cli.core.sandbox.inside import BARE, LANDLOCK, SEATBELT, SECCOMP
from nanochat_cli.core.sandbox.limits import Job, Limits, Mode
from nanochat_cli.core.sandbox.worker import Worker

MODES: tuple[Mode, ...] = ("auto", "strict", "container", "none")

# Each attempt returns if it got through and raises if not.
_ESCAPES = """
import os, socket

def read():
    with open({canary!r}) as file:
        assert file.read() == {secret!r}

def write():
    with open({canary!r} + ".written", "w") as file:
        file.write("x")

def connect():
    socket.create_connection(("127.0.0.1", {port}), timeout=1)

def fork():
    if os.fork() == 0:
        os._exit(0)

def execute():
    os.execv({python!r}, ["python", "-c", ""])

def signal():
    os.kill(os.getppid(), 0)

def escapes(names):
    found = []
    for name in names:
        try:
            globals()[name]()
        except Exception:
            continue
        found.append(name)
    return found
"""
_GOOD = "import collections, math\ndef good(x):\n    return collections.Counter([math.isqrt(x)] * 2)\n"
_PROBE = Limits(wall_s=10, cpu_s=5)


def worker_for(tier: str) -> Worker | ContainerWorker:
    """A new worker of a tier."""
    return ContainerWorker() if tier == container.TIER else Worker(tier)


@functools.cache
def find(mode: Mode) -> str:
    """Return the tier that a mode stands for here, proven; once per process.

    Raises EnvironmentLacks if none holds (`none` always does, as it promises nothing), ConfigError for another mode.
    """
    if mode not in MODES:
        raise ConfigError(f"no such sandbox: {mode}", hint=f"choose one of: {', '.join(MODES)}")
    if mode == "none":
        return BARE
    native = [SEATBELT] if sys.platform == "darwin" else [LANDLOCK] if mode == "strict" else [LANDLOCK, SECCOMP]
    tiers = [container.TIER] if mode == "container" else native + [container.TIER] * (mode == "auto")
    problems, hint = [], "start docker or podman; or, on a machine you can lose, --sandbox none"
    for tier in tiers:
        try:
            prove(tier)
        except EnvironmentLacks as problem:
            problems.append(f"{tier}: {problem}")
            if tier == container.TIER and problem.hint and "pull" in problem.hint:
                hint = f"{problem.hint}; or, on a machine you can lose, --sandbox none"
            continue
        return tier
    raise EnvironmentLacks(
        f"generated code cannot be run safely here: {'; '.join(problems)}",
        hint=hint,
    )


def prove(tier: str) -> None:
    """Raise EnvironmentLacks unless a harmless program passes in this tier and no escape works."""
    worker = worker_for(tier)
    try:
        good = worker.run(Job(program=_GOOD, tests="assert good(9) == {3: 2}", entry="good"), _PROBE)
        if not good.passed:
            raise EnvironmentLacks(f"a harmless program does not run: {good.reason} {good.detail}".strip())
        with tempfile.TemporaryDirectory(prefix="nanochat-canary-") as folder:
            _try_to_escape(worker, Path(folder) / "canary")
    finally:
        worker.close()


def _try_to_escape(worker: Worker | ContainerWorker, canary: Path) -> None:
    secret = os.urandom(8).hex()
    canary.write_text(secret, encoding="utf-8")
    names = ["read", "write", "connect"]
    if worker.tier != container.TIER:  # a container has processes of its own to play with
        names += ["fork", "signal", "execute"]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        port = listener.getsockname()[1]
        program = _ESCAPES.format(canary=str(canary), secret=secret, port=port, python=sys.executable)
        tests = f"found = escapes({names!r})\nassert not found, found"
        bad = worker.run(Job(program=program, tests=tests, entry="escapes"), _PROBE)
    if not bad.passed or canary.with_name("canary.written").exists():
        raise EnvironmentLacks(f"a program got out of its sandbox: {bad.detail or bad.reason}")
