from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat_cli.core.data.loader import Batches, Counted
from nanochat_cli.core.data.packing import PackedRows
from nanochat_cli.core.train import transfer
from nanochat_cli.core.train.prefetch import Prefetched
from nanochat_cli.core.train.transfer import CudaWire, Transfer


class LateWire:
    """A device that reads a buffer only when someone waits for that, in the order of the copies."""

    def __init__(self, *, honest: bool = True) -> None:
        self.honest = honest
        self.lock = threading.Lock()
        self.coming: list[tuple[Tensor, Tensor]] = []
        self.started = self.arrived = 0
        self.buffers: list[Tensor] = []
        self.received: list[Tensor] = []

    def buffer(self, count: int, dtype: torch.dtype) -> Tensor:
        self.buffers.append(torch.empty(count, dtype=dtype))
        return self.buffers[-1]

    def start(self, source: Tensor) -> tuple[Tensor, transfer.Event]:
        there = torch.full(source.shape, -7)
        with self.lock:
            self.coming.append((source, there))
            self.started += 1
        return there, self.mark() if self.honest else LateEvent(lambda: None)

    def move(self, tensor: Tensor) -> Tensor:
        return tensor.clone()

    def mark(self) -> transfer.Event:
        number = self.started
        return LateEvent(lambda: self.arrive(number))

    def arrive(self, number: int) -> None:
        with self.lock:  # who receives and who sends may wait at the same time
            while self.arrived < number:
                source, there = self.coming.pop(0)
                there.copy_(source)
                self.arrived += 1

    def receive(self, arrived: transfer.Event, tensors: Sequence[Tensor]) -> None:
        arrived.synchronize()
        self.received += tensors


class LateEvent:
    def __init__(self, synchronize: Callable[[], None]) -> None:
        self.synchronize = synchronize


@pytest.fixture
def plain(rows: PackedRows) -> Batches:
    return Batches(rows, rows_per_step=8, seed=3)


def all_equal(one: Sequence[Sequence[Tensor]], two: Sequence[Sequence[Tensor]]) -> bool:
    return all(torch.equal(a, b) for p, q in zip(one, two, strict=True) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("honest", [True, False])
def test_a_buffer_in_flight_is_not_overwritten(plain: Batches, honest: bool) -> None:
    """With events that do not wait, the same check must find wrong rows: else it would show nothing."""
    wire = LateWire(honest=honest)
    ahead = Prefetched(plain, device=torch.device("cpu"), vocab_size=300, wire=lambda: wire)
    right = []
    for step in (0, 1, 2, 9):
        got = ahead.step(step, device_batch_size=1)
        right.append(all_equal(got, plain.step(step, device_batch_size=1)))
    ahead.close()
    assert right == [honest] * 4
    assert len(wire.buffers) == 2 and wire.started > 24


def test_what_arrives_is_64_bits_and_counted_and_what_travels_is_32(plain: Batches) -> None:
    for vocab_size, travels in ((1 << 31, torch.int32), (1 << 40, torch.int64)):
        wire = LateWire()
        sent, receive = Transfer(wire, vocab_size).send(plain.step(0, device_batch_size=3))
        receive()
        assert [b.dtype for b in wire.buffers] == [travels] * 2
        assert all(tensor.dtype == torch.int64 for micro in sent for tensor in micro)
        assert all(isinstance(m, Counted) and m.targets == int((m[1] != -1).sum()) for m in sent)
        assert len(wire.received) == 6


def test_buffers_grow_and_weights_travel_along() -> None:
    wire = LateWire()
    made = Transfer(wire, 100)
    for width in (4, 9, 2, 30, 30):
        micro = (torch.arange(width)[None], torch.full((1, width), -1), torch.rand(1, width))
        (sent,), receive = made.send([micro])
        receive()
        assert all_equal([sent], [micro]) and sent.targets == 0
    assert [b.numel() for b in wire.buffers] == [8, 18, 60, 60]


class Stream:
    """Stands for a CUDA stream: keeps what it is told."""

    def __init__(self, told: list[Any]) -> None:
        self.told = told

    def wait_event(self, event: Any) -> None:
        self.told.append(("wait", event))


def test_the_cuda_wire_waits_for_the_copy_and_keeps_the_memory(plain: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every CUDA call is replaced, so this shows the sequence only; on a GPU the test below is run as well."""
    told: list[Any] = []
    main, side = Stream(told), Stream(told)

    class Event:
        def __init__(self, blocking: bool) -> None: ...
        def record(self, stream: Stream) -> None:
            told.append(("record", self, stream))

        def synchronize(self) -> None:
            told.append(("synchronize", self))

    empty = torch.empty
    for name, fake in {
        "Stream": lambda device: side,
        "stream": lambda stream: nullcontext(told.append(("on", stream))),
        "device": lambda device: nullcontext(),
        "current_stream": lambda device: main,
        "Event": Event,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory, **k: empty(*a, **k))
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: told.append(("keep", stream)))
    sent, receive = Transfer(CudaWire(torch.device("cpu")), 300).send(plain.step(0, device_batch_size=2))
    assert all_equal(sent, plain.step(0, device_batch_size=2))
    before = len(told)
    receive()
    records = [entry for entry in told if entry[0] == "record"]
    assert all(entry[2] is side for entry in records) and len(records) == 4 + 1
    assert [e[1] for e in told if e[0] == "synchronize"] == [records[0][1], records[1][1]]  # third and fourth copy
    assert told[before:] == [("wait", records[-1][1])] + [("keep", main)] * 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(plain: Batches) -> None:
    device = torch.device("cuda", 0)
    ahead = Prefetched(plain, device=device, vocab_size=300)
    for step in (*range(40), 7, 8):
        for got, want in zip(ahead.step(step, 0, 1, 1), plain.step(step, 0, 1, 1), strict=True):
            assert got[0].device == device and all_equal([[t.cpu() for t in got]], [want])
    ahead.close()
