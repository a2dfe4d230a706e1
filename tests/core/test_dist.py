"""One process is a no-op; two processes make the step that one would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nanochat_cli.core import dist
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import EnvironmentLacks

WORKER = """
import sys
import torch
from nanochat_cli.core import dist, optim
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import from_depth
from nanochat_cli.core.settings import OptimSection

torch.set_num_threads(1)
me = dist.init(gpus=0)
model = build(from_depth(1, vocab_size=40, max_seq_len=8, n_embd=32, n_head=2))
with torch.no_grad():
    for p in model.parameters():
        p.normal_(0, 0.2, generator=torch.Generator().manual_seed(p.numel()))
optimizer = optim.build(model.param_groups(), OptimSection(embedding_lr=0.004), me, precision="fp32")
params = list(model.parameters())
for step in range(3):
    ids = torch.randint(40, (4, 9), generator=torch.Generator().manual_seed(step))[me.rank :: me.world]
    loss = model.losses(ids[:, :-1], ids[:, 1:]).sum() / 32
    loss.backward()
    me.sum_gradients(params)
    optimizer.clip(0.5)
    optimizer.step(1.0, 0.9, 0.0)
    optimizer.zero_grad()
total = me.all_reduce_sum(loss.detach().clone())
assert me.any(me.rank == me.world - 1) and not me.any(False)
token = me.broadcast(torch.tensor([me.rank + 5]))
model.embed.weight.grad = torch.full_like(model.embed.weight, float(me.rank))
me.sum_gradients(params)
summed = model.embed.weight.grad.mean().item()
me.barrier()
found = {"model": model.state_dict(), "loss": total, "token": token, "summed": summed}
torch.save(found, f"{sys.argv[1]}/{me.world}-{me.rank}.pt")
me.close()
"""


def start(folder: Path, world: int) -> list[subprocess.Popen[bytes]]:
    common = {**os.environ, "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    common |= {"MASTER_PORT": str(20000 + os.getpid() % 20000), "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    argv = [sys.executable, "-c", WORKER, str(folder)]
    return [subprocess.Popen(argv, env={**common, "RANK": str(rank)}) for rank in range(world)]


def test_two_processes_make_the_step_of_one(tmp_path: Path) -> None:
    started = [*start(tmp_path, 1), *start(tmp_path, 2)]
    assert [process.wait(timeout=120) for process in started] == [0, 0, 0]
    one, first, second = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1"))
    for name, want in one["model"].items():
        assert torch.equal(first["model"][name], second["model"][name]), f"ranks disagree on {name}"
        assert torch.allclose(first["model"][name], want, atol=2e-5), name
    assert float(first["loss"]) == pytest.approx(float(one["loss"]), rel=1e-5)
    assert [int(r["token"]) for r in (first, second)] == [5, 5]
    assert (one["summed"], first["summed"], second["summed"]) == (0.0, 1.0, 1.0)


def test_one_process_needs_no_group() -> None:
    me = Dist()
    x = torch.ones(3, requires_grad=True)
    x.grad = torch.full((3,), 2.0)
    me.sum_gradients([x])
    assert torch.equal(x.grad, torch.full((3,), 2.0))
    assert me.is_main
    assert me.any(True)
    assert not me.any(False)
    assert torch.equal(me.all_reduce_sum(torch.ones(2)), torch.ones(2))
    me.barrier()
    me.close()


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(EnvironmentLacks) as caught:
        dist.init(gpus=1)
    assert caught.value.exit_code == 4
    assert dist.init(gpus=0) == Dist()
