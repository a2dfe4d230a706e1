"""What a sandboxed program may use, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["auto", "strict", "container", "none"]
Reason = Literal["passed", "failed", "error", "time", "memory", "disk", "ended"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds for one program, and for the process that tests it."""

    wall_s: float = 10.0
    cpu_s: int = 5
    memory_mb: int = 512
    """Address space, the interpreter's own 40 MB included."""
    output_bytes: int = 65_536
    """What is kept of the output; the rest is read and dropped."""
    file_mb: int = 8
    """Size of any one file."""
    disk_mb: int = 32
    """Size of all files together; looked at ten times a second."""
    open_files: int = 64


@dataclass(frozen=True, kw_only=True)
class Job:
    """A program and the tests that it has to pass."""

    program: str
    tests: str
    prelude: str = ""
    """Code of the data set that the tests rely on; what it defines comes before the program's functions."""
    entry: str | None = None
    """Name of a function that the program must define."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended. `detail` and `output` are words of an untrusted program: shorten and escape to show them.

    Reasons: `failed` a test did not hold, `error` the program could not be loaded or raised, `time`, `memory` and
    `disk` a limit, `ended` the program's process stopped by itself.
    """

    reason: Reason
    tier: str
    detail: str = ""
    output: str = ""
    truncated: bool = False
    seconds: float = 0.0
    cpu_s: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether all tests ran and held."""
        return self.reason == "passed"
