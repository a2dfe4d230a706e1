"""The modern recipe trained by 1, 2, 3 and 4 processes, whole or in micro-batches: always the same weights.

What makes the comparison sharp. Sums in another order differ by the last bit of fp32, and three things make much of
that bit. AdamW's eps is 1e-10: a gradient of pure rounding error still moves its weight by a whole step. Muon raises
the faintest directions of a gradient to full size. And one sign turns cautious decay on or off. The first two find no
such gradients here: no weight starts at zero, so the only gradients that vanish are those of tokens which do not
occur, and they are exactly zero; each step has more targets than any matrix has columns; and the rates are so small
that the next step does not multiply an error. The decay is so small that one sign weighs less than the tolerance. What
is left differs by about 1e-7, while every tensor moves by more than a hundred times the tolerance, which is checked.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[3]
STEPS, HALF = 20, 10
TOLERANCE = 1e-5
LAUNCHER = """
import os, sys, time
from pathlib import Path
import torch
from nanochat_cli.core import checkpoint, dist
from nanochat_cli.core.events import NULL
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import loop
from tests.core.train.test_worlds import HALF, STEPS, job_of
from tests.core.train.conftest import text_rows

torch.set_num_threads(1)
folder, port = Path(sys.argv[1]), int(sys.argv[2])
tokenizer = Tokenizer.load(folder / "tokenizer")
rows = text_rows(tokenizer, 240)


def work(world, rank):
    os.environ.update(WORLD_SIZE=str(world), RANK=str(rank), LOCAL_RANK=str(rank), MASTER_PORT=str(port + world))
    me = dist.init(gpus=0)
    for parts in (1, 2):
        name = f"{world}x{parts}"
        job = job_of(folder / name, tokenizer, rows, me, parts)
        loop.train(job, me, NULL)
        me.barrier()
        torch.save(job.model.state_dict(), folder / f"{name}-{rank}.pt")
    while world == 3 and not (folder / "2x1-1.pt").exists():
        time.sleep(0.05)
    if world == 3:  # goes on from what two processes saved half-way
        job = job_of(folder / "resumed", tokenizer, rows, me, 2)
        loop.train(job, me, NULL, checkpoint.load(folder / "2x1", HALF))
        torch.save(job.model.state_dict(), folder / f"resumed-{rank}.pt")
    me.close()


# Forked, so that torch is imported once and not ten times; nothing has started a thread yet.
children = []
for world in (1, 2, 3, 4):
    for rank in range(world):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work(world, rank)
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children))
"""


def job_of(folder, tokenizer, rows, dist, parts):  # pyright: ignore[reportMissingParameterType]
    """The modern recipe at a tiny size; `parts` cuts each process's rows of a step into micro-batches."""
    from nanochat_cli.core import optim
    from nanochat_cli.core.data.loader import Batches
    from nanochat_cli.core.models.build import build
    from nanochat_cli.core.models.shape import from_depth
    from nanochat_cli.core.settings import OptimSection
    from nanochat_cli.core.train import schedule
    from tests.core.train.conftest import SEQ_LEN, tiny_job

    # 3 heads and 3 layers: neither the 3 matrices of a shape nor 3 x 12 gates divide by 2 or 4, tables not by 3.
    net = from_depth(3, tokenizer.vocab_size, SEQ_LEN, n_embd=24, n_head=3, arch="nanochat", short_window=5)
    model = build(net, seed=1)
    with torch.no_grad():  # past the first steps, in which most gradients are zero: see above
        for name, p in model.named_parameters():
            if not p.any():
                p.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    rates = OptimSection(matrix_lr=0.002, embedding_lr=0.0005, unembedding_lr=0.0005, value_embedding_lr=0.0005)
    rates = _replaced(rates, residual_lr=0.001, skip_lr=0.001, gate_lr=0.001, weight_decay=0.02)
    return tiny_job(
        folder,
        tokenizer,
        rows,
        num_steps=STEPS,
        model=model,
        losses=model.losses,
        optimizer=optim.build(model.param_groups(), rates, dist, precision="fp32"),
        batches=Batches(rows, rows_per_step=24, seed=3),
        schedule=schedule.plan(STEPS, rates),
        device_batch_size=24 // dist.world // parts,
        save_every=HALF,
        grad_clip=0.5,
    )


def _replaced(section, **values):  # pyright: ignore[reportMissingParameterType]
    import dataclasses

    return dataclasses.replace(section, **values)


def a_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return min(int(probe.getsockname()[1]), 65_000)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Tensor]]]:
    """Weights after all steps, by worlds x micro-batches, of each process."""
    from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
    from tests.core.train.conftest import SENTENCES

    folder = tmp_path_factory.mktemp("worlds")
    Tokenizer.train([s * 4 for s in SENTENCES], 300).save(folder / "tokenizer")
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    env |= {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "MKL_NUM_THREADS": "1"}
    argv = [sys.executable, "-c", LAUNCHER, str(folder), str(a_port())]
    done = subprocess.run(argv, env=env, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    names = {f"{world}x{parts}": world for world in (1, 2, 3, 4) for parts in (1, 2)} | {"resumed": 3}
    return {
        name: [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(world)]
        for name, world in names.items()
    }


@pytest.mark.timeout(280)
@pytest.mark.parametrize("name", ["1x2", "2x1", "2x2", "3x1", "3x2", "4x1", "4x2", "resumed"])
def test_any_number_of_processes_and_micro_batches_trains_the_same(
    trained: dict[str, list[dict[str, Tensor]]], name: str
) -> None:
    one, ranks = trained["1x1"][0], trained[name]
    for rank in ranks[1:]:
        assert all(torch.equal(rank[key], ranks[0][key]) for key in one), "processes disagree"
    worst = {key: float((ranks[0][key] - want).abs().max()) for key, want in one.items()}
    assert {key: error for key, error in worst.items() if error > TOLERANCE} == {}


def test_the_comparison_is_not_of_weights_that_stood_still(
    trained: dict[str, list[dict[str, Tensor]]], tmp_path: Path
) -> None:
    from nanochat_cli.core.dist import Dist
    from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
    from tests.core.train.conftest import SENTENCES, text_rows

    tokenizer = Tokenizer.train([s * 4 for s in SENTENCES], 300)
    start = job_of(tmp_path / "start", tokenizer, text_rows(tokenizer, 240), Dist(), 1).model.state_dict()
    moved = {key: float((trained["1x1"][0][key] - before).abs().max()) for key, before in start.items()}
    assert min(moved.values()) > 100 * TOLERANCE, moved
