"""Two processes through gloo against one: the same global batch must give the same losses."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat_cli.core import events, runs
from nanochat_cli.core.data.packing import PackedRows
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.train import loop
from tests.core.train.conftest import MakeJob

ROOT = Path(__file__).resolve().parents[3]
RANK = """
import json, sys
from pathlib import Path
import torch
from nanochat_cli.core import dist, events
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import loop
from tests.core.train.conftest import text_rows, tiny_job

torch.set_num_threads(1)
folder = Path(sys.argv[1])
here = dist.init(0)
heard = []
tokenizer = Tokenizer.load(folder / "tokenizer")
job = tiny_job(folder / "stage", tokenizer, text_rows(tokenizer), num_steps=50, device_batch_size=2, dist=here)
loop.train(job, here, events.Listener(heard.append))
(folder / f"rank{here.rank}.json").write_text(json.dumps([e["raw_loss"] for e in heard if e["kind"] == "step"]))
here.close()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.timeout(120)
def test_two_processes_train_like_one(make_job: MakeJob, rows: PackedRows, tmp_path: Path) -> None:
    alone = make_job("alone", num_steps=50)
    alone.tokenizer.save(tmp_path / "tokenizer")
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    env = {**os.environ, **place, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    argv = [sys.executable, "-c", RANK, str(tmp_path)]
    ranks = [subprocess.Popen(argv, env={**env, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in (0, 1)]
    heard: list[events.Event] = []
    loop.train(alone, Dist(), events.Listener(heard.append))
    assert [rank.wait(timeout=100) for rank in ranks] == [0, 0]
    one = [event["raw_loss"] for event in heard if event["kind"] == "step"]
    two, same = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in (0, 1))
    assert two == same and len(one) == 50
    assert two == pytest.approx(one, rel=1e-4)
    assert runs.checkpoint_steps(tmp_path / "stage") == [50]
