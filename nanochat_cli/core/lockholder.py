"""Who holds a folder: what a lock file says of a process, and whether that can still be at work."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanochat_cli.core.errors import NanochatError


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process that holds a folder, and where it can be found. What is unknown is None or empty."""

    pid: int | None = None
    host: str = ""
    since: float | None = None
    boot: str = ""
    space: str = ""
    """The set of processes that it counts among: the same number in another container is another process."""
    started: str = ""
    """When the process began, as its kernel counts: a number is given again one day, together with this never."""
    token: str = ""

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process that this one could see. A machine's name may change, its boot does not."""
        boot, space = _boot(), _space()
        return (self.boot, self.space) == (boot, space) if boot and self.boot else self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether the process exists; only meaningful for one that `is_here`."""
        if self.pid is None:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # it exists and belongs to someone else
        return not self.started or _started(self.pid) in ("", self.started)

    def __str__(self) -> str:
        where = f" on {self.host}" if self.host else ""
        when = f", since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.since))}" if self.since else ""
        return f"pid {self.pid if self.pid is not None else 'unknown'}{where}{when}"


def me() -> Holder:
    """Return this process, with a token that no other holding of a folder has."""
    pid = os.getpid()
    return Holder(
        pid=pid,
        host=socket.gethostname(),
        since=time.time(),
        boot=_boot(),
        space=_space(),
        started=_started(pid),
        token=uuid.uuid4().hex,
    )


def sign(handle: int, who: Holder) -> None:
    """Write down who holds an open file."""
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(asdict(who)).encode() + b"\n", 0)


def read(path: Path) -> Holder:
    """Return whom a lock file names; an unknown holder if it cannot be read."""
    try:
        with path.open("rb") as file:
            return parse(file.read(4096))
    except OSError:
        return Holder()


def parse(content: bytes) -> Holder:
    """Return what a lock file says; earlier versions wrote the bare number of the process."""
    try:
        value = json.loads(content)
    except ValueError:
        return Holder()
    if isinstance(value, int):
        return Holder(pid=value)
    if not isinstance(value, dict):
        return Holder()
    kinds: dict[str, Any] = dict.fromkeys(Holder.__dataclass_fields__, str) | {"pid": int, "since": (int, float)}
    known: dict[str, Any] = {name: value[name] for name in kinds if isinstance(value.get(name), kinds[name])}
    return Holder(**known)


def _boot() -> str:
    return _first_line(Path("/proc/sys/kernel/random/boot_id"))


def _space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str:
    fields = _first_line(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip()
    except OSError:
        return ""


def running_here(folder: Path, who: Holder) -> NanochatError:
    return NanochatError(
        f"cannot take over from a process that runs on this machine: {folder} ({who})",
        hint=f"stop it first: kill {who.pid}" if who.pid else "stop it first",
    )
