"""Folders under construction: locked by their writer, so that what a killed process left can be told and removed."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from nanochat_cli.core.claim import Claim
from nanochat_cli.core.files import staging_dir

FRESH_SECONDS = 10  # a folder this young may have an owner who is about to lock it


@contextlib.contextmanager
def staged(final: Path) -> Iterator[Path]:
    """Yield an empty folder beside `final`, to be published within the block; what is left at its end is deleted."""
    sweep(final.parent)
    folder = staging_dir(final)
    handle = os.open(folder, os.O_RDONLY)
    claim = Claim(folder)
    try:
        claim.wait(handle)
        yield folder
    finally:
        os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)
        claim.release()


def sweep(parent: Path) -> None:
    """Delete what killed processes left half-written in `parent`: folders that nobody holds a lock on."""
    for path in parent.glob(".*.tmp"):
        try:
            if not path.is_dir() or time.time() - path.stat().st_mtime < FRESH_SECONDS:
                continue
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue  # published, or swept by another process, since it was listed
        claim = Claim(path)
        try:
            if claim.take_now(handle):  # else its writer is alive
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(handle)
            claim.release()
