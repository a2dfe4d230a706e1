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
arch = sys.argv[2]
model = build(from_depth(3, vocab_size=40, max_seq_len=8, n_embd=32, n_head=2, arch=arch))
with torch.no_grad():
    for p in model.parameters():
        p.normal_(0, 0.2, generator=torch.Generator().manual_seed(p.numel()))
rates = OptimSection(embedding_lr=0.004, unembedding_lr=0.0005)
optimizer = optim.build(model.param_groups(), rates, me, precision="fp32")
for step in range(3):
    ids = torch.randint(40, (12, 9), generator=torch.Generator().manual_seed(step))[me.rank :: me.world]
    loss = model.losses(ids[:, :-1], ids[:, 1:]).sum() / 96
    loss.backward()
    optimizer.clip(0.5)
    optimizer.step(1.0, 0.9, 0.1)
    optimizer.zero_grad()
total = me.all_reduce_sum(loss.detach().clone())
assert me.any(me.rank == me.world - 1) and not me.any(False)
text = me.main_text("weights from " + "äb" * (me.rank + 1))
token = me.broadcast(torch.tensor([me.rank + 5]))
shares = me.start_sum_and_share(torch.full((me.world * 2, 3), float(me.rank))).get()
summed = me.gather_shares(shares).mean().item()
state = optimizer.state_dict()
me.barrier()
found = {"model": model.state_dict(), "optim": state, "loss": total, "token": token, "summed": summed}
found["text"] = text
torch.save(found, f"{sys.argv[1]}/{me.world}-{me.rank}.pt")
me.close()
"""


def start(folder: Path, world: int, arch: str) -> list[subprocess.Popen[bytes]]:
    common = {**os.environ, "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    common |= {
        "MASTER_PORT": str(20000 + os.getpid() % 20000 + world),
        "GLOO_SOCKET_IFNAME": "lo",
        "CUDA_VISIBLE_DEVICES": "",
    }
    argv = [sys.executable, "-c", WORKER, str(folder), arch]
    return [subprocess.Popen(argv, env={**common, "RANK": str(rank)}) for rank in range(world)]


@pytest.mark.parametrize(("arch", "world"), [("portable", 2), ("nanochat", 2), ("nanochat", 3)])
def test_several_processes_make_the_step_of_one(tmp_path: Path, arch: str, world: int) -> None:
    """3 divides neither the 9 matrices of a shape and split evenly, nor the weights of a table."""
    started = [*start(tmp_path, 1, arch), *start(tmp_path, world, arch)]
    assert {process.wait(timeout=120) for process in started} == {0}
    names = ["1-0", *(f"{world}-{rank}" for rank in range(world))]
    one, *ranks = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in names)
    for part in ("model", "optim"):
        for name, want in one[part].items():
            assert all(torch.equal(r[part][name], ranks[0][part][name]) for r in ranks), f"ranks disagree on {name}"
            assert torch.allclose(ranks[0][part][name], want, atol=2e-5), name
        assert set(one[part]) == set(ranks[0][part])
    assert float(ranks[0]["loss"]) == pytest.approx(float(one["loss"]), rel=1e-5)
    assert [int(r["token"]) for r in ranks] == [5] * world
    assert [one["summed"], ranks[0]["summed"]] == [0.0, sum(range(world))]
    assert [r["text"] for r in (one, *ranks)] == ["weights from äb"] * (1 + world)


def test_one_process_needs_no_group() -> None:
    me = Dist()
    x = torch.full((3,), 2.0)
    assert torch.equal(me.gather_shares(me.start_sum_and_share(x).get()), x)
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


def test_srun_may_show_a_process_only_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(EnvironmentLacks, match="no GPU for process 3: 1 found"):
        dist.init(gpus=4)
    monkeypatch.setenv("SLURM_LOCALID", "3")
    assert dist.init(gpus=4).device == torch.device("cuda", 0)
