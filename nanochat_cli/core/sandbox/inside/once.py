"""One job, then the end: for a container, whose standard streams are all that reaches it.

Standard input brings the limits, then the checker's job; standard output carries its verdict; the program's own output
goes to standard error.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import socket
import sys
import tempfile

from nanochat_cli.core.sandbox.inside import BARE, LANDLOCK, SECCOMP, lockdown, template


def main(settings: str) -> None:
    """Run the job whose limits are given as JSON; inside the container the strongest tier that works is added."""
    lockdown.hide_memory()
    job = json.loads(settings)
    job["tier"] = next(tier for tier in (LANDLOCK, SECCOMP, BARE) if _works(tier))
    sys.set_int_max_str_digits(0)
    os.environ.clear()
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    silent, _ = os.pipe()
    left, right = socket.socketpair()
    folder = tempfile.mkdtemp(prefix="nanochat-sandbox-")
    gc.collect()
    pids = {
        "candidate": template.start("candidate", job, [left.fileno(), 2], folder),
        "checker": template.start("checker", job, [right.fileno(), 0, 1], None),
    }
    left.close()
    right.close()
    try:
        template.wait(pids, job["limits"], folder, silent, wake)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _works(tier: str) -> bool:
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1] == 0
    try:
        lockdown.lock(tier, None)
        os._exit(0)
    finally:
        os._exit(1)
