"""Faults on demand, for tests: what must survive a kill, a full disk or a bad batch is tried with the real thing.

`NANOCHAT_FAULT` names them, separated by semicolons, each as KIND@WHERE:VALUE,…; without it nothing here does a thing.

    kill@step:37,rank:1        the process ends as by `kill -9` when it begins step 37
    kill@phase:publish         … at this point of a save (see PHASES)
    kill@byte:4096             … in the middle of a write, after so many bytes of a checkpoint: a torn write
    hang@step:12               the process stops answering
    nan@batch:40,times:3       batches 40, 41 and 42 give no number
    spike@batch:40,by:1000     the loss of that batch is so many times too large
    enospc@byte:4096           the disk is full after so many bytes of each checkpoint
    flip@byte:100              a bit of the published weights flips
    slow@write_mb_s:50         checkpoints are written no faster than that

`attempt:N` limits a fault to the N-th restart by a supervisor (0: the first start), `rank:R` to one process, `times:N`
to so many hits (nan, spike: batches). Steps count updates from 0, as batches do.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nanochat_cli.core.errors import ConfigError

VARIABLE = "NANOCHAT_FAULT"
PHASES = (
    "space",
    "stage",
    "weights",
    "weights-synced",
    "optimizer",
    "optimizer-synced",
    "json",
    "tokenizer",
    "hashes",
    "manifest",
    "rename",
    "renamed",
    "latest",
    "prune",
    "pruned",
)
"""The points of a save at which `kill@phase:` ends the process, in their order."""
_KINDS = {
    "kill": {"step", "phase", "byte"},
    "hang": {"step", "phase"},
    "nan": {"batch"},
    "spike": {"batch", "by"},
    "enospc": {"byte"},
    "flip": {"byte"},
    "slow": {"write_mb_s"},
}
_ALWAYS = {"rank", "attempt", "times"}
_FORM = re.compile(r"([a-z]+)@(\w+:[\w.+-]+(?:,\w+:[\w.+-]+)*)")


@dataclass
class Fault:
    """One fault and where it strikes; `hits` counts how often it did."""

    kind: str
    where: dict[str, str]
    hits: int = field(default=0, compare=False)

    def number(self, key: str) -> int:
        """The value of a key as a whole number."""
        return int(self.where[key])


def parse(text: str) -> list[Fault]:
    """Return the faults that a text names. Raises ConfigError for what is none."""
    found = []
    for part in filter(None, (word.strip() for word in text.split(";"))):
        match = _FORM.fullmatch(part)
        if not match or match[1] not in _KINDS:
            raise ConfigError(f"no fault: {part}", hint=f"kinds: {', '.join(_KINDS)}, as in kill@step:37,rank:1")
        where = dict(pair.split(":", 1) for pair in match[2].split(","))
        if strange := set(where) - _KINDS[match[1]] - _ALWAYS:
            raise ConfigError(f"the fault {match[1]} knows no: {', '.join(sorted(strange))}")
        if bad := [key for key, value in where.items() if key != "phase" and not _is_number(value)]:
            raise ConfigError(f"not a number in the fault {part}: {where[bad[0]]}")
        if where.get("phase", PHASES[0]) not in PHASES:
            raise ConfigError(f"no phase of a save: {where['phase']}", hint=f"phases: {', '.join(PHASES)}")
        found.append(Fault(match[1], where))
    return found


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", text) is not None


_faults: list[Fault] = []
_place = {"rank": 0, "attempt": 0}


def arm(*, rank: int = 0, attempt: int = 0, environ: Mapping[str, str] | None = None) -> None:
    """Read the faults that this process shall suffer. Called once at its start; raises ConfigError for bad ones."""
    _faults[:] = parse((os.environ if environ is None else environ).get(VARIABLE, ""))
    _place.update(rank=rank, attempt=attempt)


def at_step(step: int) -> None:
    """Suffer what strikes at the beginning of this step."""
    for fault in _faults:
        if fault.where.get("step") == str(step) and _mine(fault):
            _suffer(fault)


def at_phase(phase: str) -> None:
    """Suffer what strikes at this point of a save."""
    for fault in _faults:
        if fault.where.get("phase") == phase and _mine(fault):
            _suffer(fault)


def on_batch(batch: int) -> float | None:
    """Return the factor that a fault puts on the loss of this batch (nan, or a spike's height); None for none."""
    for fault in _faults:
        first = int(fault.where.get("batch", -1))
        if (
            fault.kind in ("nan", "spike")
            and first <= batch < first + int(fault.where.get("times", 1))
            and _mine(fault)
        ):
            return float("nan") if fault.kind == "nan" else float(fault.where.get("by", 1000))
    return None


def on_write(done: int, coming: int) -> int:
    """Return how many of the coming bytes of a checkpoint can be written after `done` of them.

    Raises OSError where the disk is full.
    """
    for fault in _faults:
        if not _mine(fault):
            continue
        if fault.kind == "slow":
            time.sleep(coming / (float(fault.where["write_mb_s"]) * 1e6))
        if fault.kind in ("enospc", "kill") and "byte" in fault.where:
            left = fault.number("byte") - done
            if left <= 0:
                if fault.kind == "kill":
                    _suffer(fault)
                fault.hits += 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            coming = min(coming, left)
    return coming


def on_published(path: os.PathLike[str]) -> None:
    """Damage a file that was just published, if a fault says so."""
    for fault in _faults:
        if fault.kind == "flip" and _mine(fault):
            fault.hits += 1
            with open(path, "rb+") as file:
                file.seek(fault.number("byte"))
                byte = file.read(1)
                file.seek(fault.number("byte"))
                file.write(bytes([byte[0] ^ 1]))


def _mine(fault: Fault) -> bool:
    """Whether a fault strikes in this process, and has not done so often enough."""
    if any(key in fault.where and fault.number(key) != value for key, value in _place.items()):
        return False
    return fault.kind in ("nan", "spike") or fault.hits < int(fault.where.get("times", 2**62))


def _suffer(fault: Fault) -> Any:
    fault.hits += 1
    if fault.kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault.kind == "hang":
        while True:
            time.sleep(3600)
