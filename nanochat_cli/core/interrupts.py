"""Signals at a moment that suits: between two steps that belong together, never inside."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

_asked: list[str] = []


def listen(*kinds: signal.Signals) -> None:
    """From now on, let these signals only be noted, for `asked`. Must be called in the main thread."""
    for kind in kinds:
        signal.signal(kind, lambda number, _frame: _asked.append(signal.Signals(number).name))


def asked() -> str | None:
    """Return the name of the first signal that was noted; None if none was."""
    return _asked[0] if _asked else None


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put Ctrl-C off to the end of the block; keep the block short. Does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield
        return
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: seen.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if seen:
        signal.raise_signal(signal.SIGINT)
