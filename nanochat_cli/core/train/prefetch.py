"""The next step's batch is made in a thread while the present one is trained on; what a step gets stays the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.train.loop import Batches, Micro
from nanochat_cli.core.train.transfer import CudaWire, Transfer, Wire

Made = tuple[Sequence[Micro], Callable[[], None]]
"""Micro-batches, and what the thread that uses them has to call first."""
Key = tuple[int, int, int, int | None]


class Prefetched:
    """Batches made one step ahead and, for a GPU, already moved there.

    A step is a function of its number: what was made in advance is handed out only if it is what is asked for, and made
    anew otherwise. An error arrives at the step that it belongs to. Call `close` when done.
    """

    def __init__(
        self, batches: Batches, *, device: torch.device, vocab_size: int, wire: Callable[[], Wire] | None = None
    ) -> None:
        """Raise ConfigError for batches that depend on the model's present weights. `wire` is for tests."""
        if getattr(batches, "made_by_the_model", False):
            raise ConfigError(f"these batches cannot be made in advance: {type(batches).__name__}")
        if wire is None and device.type == "cuda":
            wire = lambda: CudaWire(device)  # noqa: E731
        self._batches = batches
        self.indices = getattr(batches, "indices", None)
        """Which rows a step is made of, if the batches know."""
        self._transfer = Transfer(wire(), vocab_size) if wire else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: tuple[Key, Future[Made]] | None = None

    def step(self, step: int, rank: int = 0, world: int = 1, device_batch_size: int | None = None) -> Sequence[Micro]:
        """Return this rank's micro-batches of `step`, and start on those of the step after it."""
        key = (step, rank, world, device_batch_size)
        expected, self._ahead = self._ahead, None
        if expected is not None and expected[0] == key:
            coming = expected[1]
        else:
            if expected is not None:
                expected[1].cancel()  # if it has begun, the one thread finishes it first: buffers have one user
            coming = self._thread.submit(self._make, key)
        micros, receive = coming.result()
        after = (step + 1, rank, world, device_batch_size)
        self._ahead = after, self._thread.submit(self._make, after)
        receive()
        return micros

    def close(self) -> None:
        """End the thread; what it had made is dropped."""
        self._ahead = None
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _make(self, key: Key) -> Made:
        micros = self._batches.step(*key)
        return self._transfer.send(micros) if self._transfer else (micros, lambda: None)
