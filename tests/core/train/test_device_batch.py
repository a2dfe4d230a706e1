"""As many rows at a time as fit: found by trying, remembered, and cut smaller when memory runs out on the way."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat_cli.core import events, files, planning, runs, stepdirs
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import EnvironmentLacks
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import from_depth
from nanochat_cli.core.settings import BatchSection, ComputeSection
from nanochat_cli.core.train import device_batch, loop, stage
from nanochat_cli.core.train.device_batch import Pass
from tests.core.train.conftest import MakeJob
from tests.core.train.test_two_processes import ROOT, free_port

HERE = Dist()
WORK = Pass(rows=12, dtype="fp32", attention="fused")


def small(**changes: Any) -> LanguageModel:
    return build(from_depth(2, vocab_size=50, max_seq_len=16, n_embd=32, n_head=2, **changes), seed=1)


def limited(model: LanguageModel, most: int, tried: list[int] | None = None) -> LanguageModel:
    """The same model on a device that holds `most` rows at a time."""
    right = model.losses

    def losses(x_BT: Tensor, y_BT: Tensor) -> Tensor:
        if tried is not None:
            tried.append(x_BT.size(0))
        if x_BT.size(0) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
        return right(x_BT, y_BT)

    model.losses = losses  # type: ignore[method-assign]
    return model


# ---- before training -------------------------------------------------------------------------------------------------


def test_halved_until_it_fits_and_remembered(tmp_path: Path) -> None:
    cache, tried = tmp_path / "cache" / "rows.json", list[int]()
    model = limited(small(), 5, tried)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert device_batch.choose(model, WORK, HERE, cache_path=cache) == 3
    assert tried == [12, 6, 3]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(param.grad is None for param in model.parameters())
    assert device_batch.choose(model, WORK, HERE, cache_path=cache) == 3
    assert tried == [12, 6, 3], "an equal question is answered from the cache"
    for other in (dataclasses.replace(WORK, dtype="bf16"), dataclasses.replace(WORK, rows=10)):
        assert device_batch.choose(model, other, HERE, cache_path=cache) in (3, 5)
    assert device_batch.choose(limited(small(rope_base=500.0), 12), WORK, HERE, cache_path=cache) == 12
    assert len(json.loads(cache.read_text())) == 4


def test_what_memory_cannot_hold_is_not_even_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    monkeypatch.setattr(device_batch, "free_memory", lambda device: 12_000_000)
    model = limited(build(from_depth(4, vocab_size=4096, max_seq_len=64)), 9, tried)
    monkeypatch.setattr(device_batch, "_BYTES_PER_WEIGHT", 4)  # the rest of this tiny model is all weights
    assert device_batch.choose(model, WORK, HERE, cache_path=tmp_path / "c") == tried[0] < 12


@pytest.mark.parametrize(("free", "expected"), [(0, 32), (200 * 2**30, 32), (1, 1)])
def test_the_estimate_is_bounded(free: int, expected: int) -> None:
    config = from_depth(20, vocab_size=65_536, max_seq_len=2048)
    assert device_batch.estimate(config, 561_000_000, "bf16", free, torch.device("cuda")) == expected


def test_the_estimate_for_a_known_device_is_of_the_right_size() -> None:
    """Depth 20 on 80 GB is known to train with 16 to 32 rows of 2,048 tokens; the guess may be halved, never grows."""
    config = from_depth(20, vocab_size=65_536, max_seq_len=2048)
    assert 16 <= device_batch.estimate(config, 561_000_000, "bf16", 79 * 2**30, torch.device("cuda")) <= 40


def test_not_one_row_fits(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentLacks, match=r"not even one row .* of cpu .*depth 2, width 32, context 16") as caught:
        device_batch.choose(limited(small(), 0), WORK, HERE, cache_path=tmp_path / "c")
    assert "--depth" in (caught.value.hint or "")
    assert not (tmp_path / "c").exists()


def test_other_failures_are_no_lack_of_memory() -> None:
    model = small()

    def losses(x_BT: Tensor, y_BT: Tensor) -> Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    model.losses = losses  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="shapes"):
        device_batch.fits(model, WORK, 1)
    assert device_batch.is_oom(
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    )
    assert device_batch.is_oom(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"))
    assert not device_batch.is_oom(ValueError("out of memory, says a test"))


def test_trying_leaves_the_model_as_it_was() -> None:
    model = small()
    model.register_buffer("count", torch.zeros(()))
    right = model.losses

    def losses(x_BT: Tensor, y_BT: Tensor) -> Tensor:
        model.count += 1  # type: ignore[operator]
        return right(x_BT, y_BT)

    model.losses = losses  # type: ignore[method-assign]
    assert device_batch.fits(model, WORK, 2)
    assert model.count == 0
    assert all(param.grad is None for param in model.parameters())


# ---- as a stage asks -------------------------------------------------------------------------------------------------


def context(folder: Path, *, resume: bool) -> runs.RunContext:
    return runs.RunContext("r", "base", folder, resume, "nanochat train base")


def settled(folder: Path, model: LanguageModel, *, resume: bool = False, device: int | None = None) -> int:
    batch = BatchSection(total_batch_size=12 * 16, device_batch_size=device)
    where = context(folder, resume=resume)
    return stage.settled(batch, model, ComputeSection(), where, HERE, events.NULL).device


def test_a_resumed_run_cuts_as_before(tmp_path: Path) -> None:
    assert settled(tmp_path, limited(small(), 5)) == 3
    assert settled(tmp_path, small(), device=6) == 6
    (tmp_path / "execution.json").write_text(json.dumps({"dtype": "fp32", "device_batch_size": 4}))
    assert settled(tmp_path, limited(small(), 0), resume=True) == 4
    assert settled(tmp_path, small(), device=6, resume=True) == 4, "it was halved on the way"
    assert settled(tmp_path, limited(small(), 5)) == 3, "a new start asks anew"


def test_planning_leaves_it_open_on_a_gpu_alone() -> None:
    auto = BatchSection(total_batch_size=64 * 256)
    assert planning.settle_batch(auto, 256, ComputeSection(gpus=1)).device_batch_size is None
    assert planning.settle_batch(auto, 256, ComputeSection(gpus=0)).device_batch_size == 32
    given = BatchSection(total_batch_size=64 * 256, device_batch_size=8)
    assert planning.settle_batch(given, 256, ComputeSection(gpus=1)).device_batch_size == 8


# ---- on the way ------------------------------------------------------------------------------------------------------


def weights(job: loop.Job) -> str:
    return files.sha256_file(stepdirs.step_dir(job.stage_dir, job.schedule.num_steps) / "model.safetensors")


def failing(job: loop.Job, fails: Callable[[int, int], bool]) -> loop.Losses:
    """The job's losses on a device that runs out of memory when `fails(rows, number of the call)`."""
    calls = 0

    def losses(x_BT: Tensor, y_BT: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if fails(x_BT.size(0), calls):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
        return job.model.losses(x_BT, y_BT)

    return losses


@pytest.mark.parametrize(
    ("size", "fails", "reference", "fewer"),
    [
        (8, lambda rows, call: rows > 2, 2, [4, 2]),
        (4, lambda rows, call: call == 2, 2, [2]),  # in the second micro-batch, with gradients of the first
    ],
)
def test_the_same_step_is_done_again_in_smaller_pieces(
    make_job: MakeJob, size: int, fails: Any, reference: int, fewer: list[int]
) -> None:
    want = make_job("want", device_batch_size=reference, num_steps=4)
    loop.train(want, HERE, events.NULL)
    job, told, heard = make_job("job", device_batch_size=size, num_steps=4), list[int](), list[events.Event]()
    job = dataclasses.replace(job, losses=failing(job, fails), on_fewer_rows=told.append)
    loop.train(job, HERE, events.Listener(heard.append))
    assert weights(job) == weights(want)
    assert told == fewer
    warned = [event["text"] for event in heard if event["kind"] == "warning"]
    assert len(warned) == len(fewer)
    assert warned[0].startswith(f"step 1 ran out of memory with {size} rows at a time: done again")


def test_later_steps_start_with_what_fits(make_job: MakeJob) -> None:
    want, job = make_job("want", num_steps=6), make_job("job", num_steps=6)
    loop.train(want, HERE, events.NULL)
    sizes: list[int] = []

    def fails(rows: int, call: int) -> bool:
        sizes.append(rows)
        return call > 3 and rows > 4

    loop.train(dataclasses.replace(job, losses=failing(job, fails)), HERE, events.NULL)
    assert sizes == [8, 8, 8, 8, *[4] * 6]
    for a, b in zip(want.model.parameters(), job.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)


def test_without_room_for_one_row_the_run_ends_with_its_weights_unhurt(make_job: MakeJob) -> None:
    job = make_job(save_every=1, keep_last=9)
    bad = failing(job, lambda rows, call: call > 2)
    with pytest.raises(EnvironmentLacks, match="not even one row at a time"):
        loop.train(dataclasses.replace(job, losses=bad), HERE, events.NULL)
    assert runs.checkpoint_steps(job.stage_dir) == [1, 2]


def test_rows_are_cut_in_order_with_their_weights() -> None:
    x_BT = torch.arange(10).view(5, 2)
    parts = device_batch.recut([(x_BT[:3], x_BT[:3] + 1, x_BT[:3] + 2), (x_BT[3:], x_BT[3:] + 1, x_BT[3:] + 2)], 2)
    assert [part[0].size(0) for part in parts] == [2, 1, 2]
    assert torch.equal(torch.cat([part[0] for part in parts]), x_BT)
    assert all(torch.equal(part[2], part[0] + 2) for part in parts)


def test_measuring_takes_fewer_rows_where_all_do_not_fit() -> None:
    model, tried = small(), list[int]()
    ids_BT = torch.randint(50, (7, 17), generator=torch.Generator().manual_seed(0))
    x_BT, y_BT = ids_BT[:, :-1], ids_BT[:, 1:]
    whole = model.losses(x_BT, y_BT)
    model.eval()
    fitting = device_batch.Fitting(limited(model, 2, tried))
    torch.testing.assert_close(fitting.losses(x_BT, y_BT), whole)
    assert not fitting.training and max(size for size in tried if size <= 2) == 2
    with pytest.raises(torch.OutOfMemoryError):
        device_batch.Fitting(limited(small(), 0)).losses(x_BT, y_BT)


RANK = """
import dataclasses, json, sys
from pathlib import Path
import torch
from nanochat_cli.core import dist, events
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import device_batch, loop
from tests.core.train.conftest import text_rows, tiny_job

torch.set_num_threads(1)
folder = Path(sys.argv[1])
here = dist.init(0)
assert here.minimum(here.rank + 3) == 3
heard, told = [], []
tokenizer = Tokenizer.load(folder / "tokenizer")
job = tiny_job(folder / "stage", tokenizer, text_rows(tokenizer), num_steps=6, device_batch_size=4, dist=here)
right = job.model.losses

def losses(x, y):
    if here.rank == 1 and x.size(0) > 2:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return right(x, y)

work = device_batch.Pass(rows=4, dtype="fp32", attention="fused")
job.model.losses = losses
assert device_batch.choose(job.model, work, here, cache_path=folder / "cache.json") == 2
job = dataclasses.replace(job, losses=losses, on_fewer_rows=told.append)
loop.train(job, here, events.Listener(heard.append))
assert told == [2]
(folder / f"rank{here.rank}.json").write_text(json.dumps([e["raw_loss"] for e in heard if e["kind"] == "step"]))
here.close()
"""


@pytest.mark.timeout(120)
def test_all_processes_agree_though_one_alone_runs_out_of_memory(make_job: MakeJob, tmp_path: Path) -> None:
    alone = make_job("alone", num_steps=6)
    alone.tokenizer.save(tmp_path / "tokenizer")
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    env = {**os.environ, **place, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    argv = [sys.executable, "-c", RANK, str(tmp_path)]
    ranks = [subprocess.Popen(argv, env={**env, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in (0, 1)]
    heard: list[events.Event] = []
    loop.train(alone, HERE, events.Listener(heard.append))
    assert [rank.wait(timeout=100) for rank in ranks] == [0, 0]
    two, same = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in (0, 1))
    assert two == same
    assert two == pytest.approx([event["raw_loss"] for event in heard if event["kind"] == "step"], rel=1e-4)
