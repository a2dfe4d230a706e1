"""What was measured once and holds for later runs: JSON objects that may be deleted at any time.

Several trainings may write at a time: each adds its entries to what the others have written meanwhile, under a lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nanochat_cli.core import files
from nanochat_cli.core.errors import NanochatError

_WAIT_S = 5.0  # for the lock: an entry that another writer loses is measured again, a training that hangs is worse


def read(path: Path) -> dict[str, Any]:
    """Return what the file holds; empty if it is missing, damaged or no JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def merge(path: Path, entries: Mapping[str, Any]) -> None:
    """Add entries to the file; of tables, only the keys that are given change. Does nothing where it cannot write."""
    with contextlib.suppress(OSError, NanochatError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_name(f".{path.name}.lock")):
            known = read(path)
            for key, value in entries.items():
                old = known.get(key)
                known[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, Mapping) else value
            files.write_json(path, known)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock, or go on without it where it cannot be had in time or the disk knows no locks.

    It lies beside the file, which each writer replaces by a new one.
    """
    import fcntl

    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + _WAIT_S
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.01)
            except OSError:
                break
        yield
    finally:
        os.close(handle)
