"""One template process, and the talk with it: hands over descriptors, feeds the job, collects verdict and output."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nanochat_cli.core.errors import EnvironmentLacks
from nanochat_cli.core.sandbox import inside
from nanochat_cli.core.sandbox.inside import frames, template
from nanochat_cli.core.sandbox.limits import Job, Limits, Outcome, Reason

INSIDE = Path(inside.__file__).parent
GRACE_S = 10.0
"""How long after a job's own limit the template is given up."""
START_S = 60.0
_OVER_TIME = (signal.SIGKILL, signal.SIGXCPU)


@dataclass(kw_only=True)
class Collected:
    """What came back from the processes of one job."""

    verdict: bytearray = field(default_factory=bytearray)
    output: bytearray = field(default_factory=bytearray)
    truncated: bool = False
    report: dict[str, Any] = field(default_factory=dict)


class Worker:
    """A template process; runs one job at a time. Start is paid once, at the first job."""

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._folder: str | None = None

    def run(self, job: Job, limits: Limits) -> Outcome:
        """Put one program through its tests. Raises EnvironmentLacks if its processes cannot be locked up."""
        line = self._started()
        nonce = secrets.token_hex(16)
        wanted = frames.pack(asdict(job) | {"nonce": nonce})
        if len(wanted) > frames.MAX_BYTES:
            return Outcome(reason="error", tier=self.tier, detail="program and tests are too long")
        began = time.monotonic()
        try:
            found = self._exchange(line, wanted, limits)
        except TimeoutError as problem:
            self.close()
            return Outcome(reason="time", tier=self.tier, detail=str(problem), seconds=time.monotonic() - began)
        except (OSError, ValueError) as problem:
            self.close()
            raise EnvironmentLacks(f"the sandbox broke down: {problem or type(problem).__name__}") from problem
        return judge(found, nonce, limits, self.tier, time.monotonic() - began)

    def close(self) -> None:
        """End the template, and with it whatever still runs."""
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._process is not None:
            try:
                self._process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(OSError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._process = None
        if self._folder is not None:
            template.remove(self._folder)  # it did so itself, unless it was killed
            self._folder = None

    # ---- details -----------------------------------------------------------------------------------------------------

    def _started(self) -> socket.socket:
        if self._line is not None and self._process is not None and self._process.poll() is None:
            return self._line
        self.close()
        mine, theirs = socket.socketpair()
        self._folder = tempfile.mkdtemp(prefix="nanochat-sandbox-")
        # -P -s -S rather than -I, which would drop the hash seed: the same program gets the same verdict every time.
        argv = [sys.executable, "-P", "-s", "-S", "-B", "-X", "utf8", str(INSIDE / "__main__.py")]
        null = subprocess.DEVNULL
        with theirs:
            self._process = subprocess.Popen(
                [*argv, str(theirs.fileno()), self._folder],
                stdin=null, stdout=null, stderr=null, pass_fds=(theirs.fileno(),),
                env={"PYTHONHASHSEED": "0"}, cwd="/", start_new_session=True,
            )  # fmt: skip
        mine.settimeout(START_S)
        self._line = mine
        try:
            alive = mine.recv(16) == b"ready"
        except OSError:
            alive = False
        if not alive:
            self.close()
            raise EnvironmentLacks("the interpreter for generated code does not start", hint="nanochat doctor")
        return mine

    def _exchange(self, line: socket.socket, wanted: bytes, limits: Limits) -> Collected:
        """Start the job's processes and serve them until both have ended. Raises OSError, TimeoutError."""
        ask, answer = socket.socketpair()
        control, control_far = socket.socketpair()
        output, output_far = os.pipe()
        try:
            with ask, answer, control_far:
                order = json.dumps({"tier": self.tier, "limits": asdict(limits)}).encode()
                handles = [ask.fileno(), output_far, answer.fileno(), control_far.fileno()]
                socket.send_fds(line, [order], handles)
        finally:
            os.close(output_far)
        with control, os.fdopen(output, "rb", buffering=0) as reader:
            return _collect(line, control, reader.fileno(), wanted, limits)


def _collect(line: socket.socket, control: socket.socket, output: int, wanted: bytes, limits: Limits) -> Collected:
    found, left = Collected(), memoryview(wanted)
    deadline = time.monotonic() + limits.wall_s + GRACE_S
    control.setblocking(False)
    with selectors.DefaultSelector() as ready:
        ready.register(control, selectors.EVENT_READ | selectors.EVENT_WRITE)
        ready.register(output, selectors.EVENT_READ)
        ready.register(line, selectors.EVENT_READ)
        # Both processes have ended when the report is here; then what they wrote is all there, up to the end.
        while ready.get_map():
            events = ready.select(max(0.0, deadline - time.monotonic()))
            if not events:
                raise TimeoutError("no answer within the time limit")
            for key, mask in events:
                if key.fileobj is line:
                    found.report = json.loads(line.recv(65536))
                    ready.unregister(line)
                elif key.fileobj is control:
                    left = _control(control, mask, left, found, ready)
                elif not _output(output, found, limits):
                    ready.unregister(output)
    return found


def _control(
    control: socket.socket, mask: int, left: memoryview, found: Collected, ready: selectors.BaseSelector
) -> memoryview:
    """Write the next stretch of the job, read the next of the verdict; returns what is left to write."""
    try:
        if mask & selectors.EVENT_WRITE:
            left = left[control.send(left) :]
            if not left:
                ready.modify(control, selectors.EVENT_READ)
        if mask & selectors.EVENT_READ:
            piece = control.recv(65536)
            found.verdict += piece
            if not piece:
                ready.unregister(control)
    except BlockingIOError:
        pass
    except OSError:
        ready.unregister(control)
    return left


def _output(output: int, found: Collected, limits: Limits) -> bool:
    piece = os.read(output, 65536)
    room = limits.output_bytes - len(found.output)
    found.output += piece[:room]
    found.truncated |= len(piece) > room
    return bool(piece)


def judge(found: Collected, nonce: str, limits: Limits, tier: str, seconds: float) -> Outcome:
    """The outcome that verdict and report amount to. Raises EnvironmentLacks if a process could not be locked up."""
    verdict = _verdict(found.verdict)
    if "lacks" in verdict:
        raise EnvironmentLacks(f"generated code cannot be locked up here: {verdict['lacks']}")
    ended: dict[str, Any] = found.report.get("ended", {})
    cpu = sum(side[1] for side in ended.values())
    reason, detail = _reason(verdict, nonce, found.report, limits)
    return Outcome(
        reason=reason,
        tier=tier,
        detail=detail,
        output=found.output.decode("utf-8", errors="replace"),
        truncated=found.truncated,
        seconds=seconds,
        cpu_s=cpu,
    )


def _verdict(data: bytes | bytearray) -> dict[str, Any]:
    """What the checker said; nothing if it said less, or more, than one whole message."""
    if len(data) < 4 or int.from_bytes(data[:4], "little") != len(data) - 4:
        return {}
    try:
        value = json.loads(data[4:])
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _reason(verdict: dict[str, Any], nonce: str, report: dict[str, Any], limits: Limits) -> tuple[Reason, str]:
    if secrets.compare_digest(str(verdict.get("nonce", "")).encode(), nonce.encode()):
        return "passed", ""
    stopped = report.get("stopped")
    if stopped in ("time", "disk"):
        return stopped, f"stopped after {report.get('seconds', 0):.1f} s"
    kind, text = verdict.get("failed", ["", ""])
    detail = f"{kind}: {text}" if text else str(kind)
    if kind == "MemoryError":
        return "memory", detail
    if not kind or (kind == "ProgramError" and "ended itself" in text):
        # The kernel enforces the limit by counting ticks, which on a busy machine runs ahead of the time reported.
        if any(side[0] in _OVER_TIME and side[1] > limits.cpu_s / 2 for side in report.get("ended", {}).values()):
            return "time", f"used its {limits.cpu_s} s of processor time"
        return "ended", detail or "no verdict"
    if kind == "AssertionError" and verdict.get("in") == "tests":
        return "failed", detail
    return "error", detail
