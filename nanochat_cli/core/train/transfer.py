"""Micro-batches on their way to a GPU: through two page-locked buffers used in turn, beside the computation.

A copy from page-locked memory returns before it has happened. So each buffer comes with an event that tells when its
last copy is over, and is not written to before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nanochat_cli.core.data.loader import Counted, count_targets

_BUFFERS = 2


class Event(Protocol):
    """Something that has happened or not, like `torch.cuda.Event`."""

    def synchronize(self) -> None:
        """Wait until it has happened."""
        ...


class Wire(Protocol):
    """The way to a device. All but `receive` is called by the sending thread."""

    def buffer(self, count: int, dtype: torch.dtype) -> Tensor:
        """Return flat memory that copies can start from."""
        ...

    def start(self, source: Tensor) -> tuple[Tensor, Event]:
        """Start a copy; return int64 of the same shape on the device, to be received, and when `source` is free."""
        ...

    def move(self, tensor: Tensor) -> Tensor:
        """Return a tensor on the device, to be received; `tensor` is free at once."""
        ...

    def mark(self) -> Event:
        """Return the event that everything started so far has arrived."""
        ...

    def receive(self, arrived: Event, tensors: Sequence[Tensor]) -> None:
        """Make what the calling thread computes from now on wait for `arrived` and keep `tensors` until it is done."""
        ...


@dataclass
class _Slot:
    """A buffer, and when it is free again."""

    memory: Tensor | None = None
    free: Event | None = None


class Transfer:
    """Sends pairs (x_BT, y_BT) as one copy each, in 32 bits if the vocabulary allows."""

    def __init__(self, wire: Wire, vocab_size: int) -> None:
        self._wire = wire
        self._dtype = torch.int32 if vocab_size <= 1 << 31 else torch.int64
        self._slots = [_Slot() for _ in range(_BUFFERS)]
        self._sent = 0

    def send(self, micros: Sequence[Sequence[Tensor]]) -> tuple[list[Counted], Callable[[], None]]:
        """Start moving micro-batches; return them as they will be, and a call to make before the first use."""
        sent = [Counted(self._pair(micro), count_targets(micro)) for micro in micros]
        arrived = self._wire.mark()
        return sent, lambda: self._wire.receive(arrived, [tensor for micro in sent for tensor in micro])

    def _pair(self, micro: Sequence[Tensor]) -> list[Tensor]:
        x_BT, y_BT, *others = micro
        slot = self._slots[self._sent % _BUFFERS]
        self._sent += 1
        if slot.free is not None:
            slot.free.synchronize()
        count = 2 * x_BT.numel()
        if slot.memory is None or slot.memory.numel() < count:
            slot.memory = self._wire.buffer(count, self._dtype)
        staged = slot.memory[:count].view(2, *x_BT.shape)
        # By numpy: torch would start a second team of threads from here.
        np.copyto(staged[0].numpy(), x_BT.numpy(), casting="same_kind")
        np.copyto(staged[1].numpy(), y_BT.numpy(), casting="same_kind")
        there, slot.free = self._wire.start(staged)
        return [there[0], there[1], *map(self._wire.move, others)]


class CudaWire:
    """To an NVIDIA or AMD GPU, on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def buffer(self, count: int, dtype: torch.dtype) -> Tensor:
        with torch.cuda.device(self._device):  # else every process would open the first GPU as well
            return torch.empty(count, dtype=dtype, pin_memory=True)

    def start(self, source: Tensor) -> tuple[Tensor, Event]:
        with torch.cuda.stream(self._stream):
            copied = source.to(self._device, non_blocking=True)
            return copied.long(), self.mark()

    def move(self, tensor: Tensor) -> Tensor:
        with torch.cuda.stream(self._stream):
            return tensor.to(self._device)

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(blocking=True)  # who waits for it sleeps
        event.record(self._stream)
        return event

    def receive(self, arrived: Event, tensors: Sequence[Tensor]) -> None:
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(arrived)  # type: ignore[arg-type]
        for tensor in tensors:
            # It was allocated for the other stream, which must not get the memory back while this one reads it.
            tensor.record_stream(stream)
