"""Reading ahead: the next items are made in a thread while the present one is worked on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def read_ahead(items: Iterable[T], depth: int = 1) -> Iterator[T]:
    """Yield what `items` yields, up to `depth` of them made in advance; errors arrive where they occurred.

    Worth it when making an item lets go of the interpreter lock, as reading and unpacking a file does. The thread ends
    soon after the reader has gone.
    """
    waiting: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=depth)
    gone = threading.Event()

    def put(item: T | None, problem: BaseException | None) -> None:
        while not gone.is_set():
            try:
                waiting.put((item, problem), timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for item in items:
                put(item, None)
                if gone.is_set():
                    return
        except BaseException as problem:  # whatever it is, the reader is to see it
            put(None, problem)
        else:
            put(None, StopIteration())

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            item, problem = waiting.get()
            if isinstance(problem, StopIteration):
                return
            if problem is not None:
                raise problem
            yield item  # type: ignore[misc]
    finally:
        gone.set()
