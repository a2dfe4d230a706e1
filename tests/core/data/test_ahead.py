from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from nanochat_cli.core.data.ahead import read_ahead


def test_items_come_in_order_and_errors_where_they_occurred() -> None:
    def items() -> Iterator[int]:
        yield from range(50)
        raise ValueError("broken")

    seen = []
    with pytest.raises(ValueError, match="broken"):
        for item in read_ahead(items()):
            seen.append(item)
    assert seen == list(range(50))
    assert list(read_ahead([])) == []


def test_nothing_is_read_far_ahead_and_the_thread_ends_with_its_reader() -> None:
    made = []

    def items() -> Iterator[int]:
        for item in range(1000):
            made.append(item)
            yield item

    before = threading.active_count()
    reader = read_ahead(items(), depth=3)
    assert next(reader) == 0
    reader.close()  # type: ignore[attr-defined]
    for _ in range(100):
        if threading.active_count() == before:
            break
        threading.Event().wait(0.05)
    assert threading.active_count() == before
    assert len(made) < 10
