"""The training step is one graph: nothing breaks it, and no later step makes it anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo import utils

from nanochat_cli.core import models, optim, registry
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.events import NULL
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import from_depth
from nanochat_cli.core.settings import OptimSection
from nanochat_cli.core.train import probe, schedule
from nanochat_cli.core.train.probe import Execution

ROWS, CONTEXT, STEPS = 2, 16, 5


@pytest.fixture(autouse=True)
def fresh_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """No graph from other tests; graphs are traced, forwards and backwards, but not turned into machine code."""
    torch.set_num_threads(1)
    torch._dynamo.reset()
    utils.counters.clear()
    graphs: list[Any] = []
    compile_ = torch.compile

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(torch, "compile", lambda function, **given: compile_(function, backend=counting, **given))
    yield graphs
    torch._dynamo.reset()


@pytest.mark.parametrize(("attention", "dtype"), [("fused", "fp32"), ("matmul", "bf16")])
@pytest.mark.parametrize("arch", registry.names(models))
def test_one_graph_for_all_steps(arch: str, attention: str, dtype: str, fresh_compiler: list[Any]) -> None:
    model = build(from_depth(3, vocab_size=50, max_seq_len=CONTEXT, n_embd=32, n_head=2, arch=arch), seed=1)
    how = Execution(dtype=dtype, attention=attention, compile=True)
    model.set_precision(how.dtype)
    model.set_attention(how.attention)
    losses = probe.TrainingLosses(model, how, NULL)
    section = OptimSection(weight_decay=0.1)
    optimizer = optim.build(model.param_groups(), section, Dist(), precision="fp32")
    curves = schedule.Schedule(num_steps=STEPS, warmup=3, warmdown=1, decay=0.1)
    seen = set()
    for step in range(STEPS):
        ids_BT = torch.randint(50, (ROWS, CONTEXT + 1), generator=torch.Generator().manual_seed(step))
        x_BT, y_BT = ids_BT[:, :-1].contiguous(), ids_BT[:, 1:].contiguous()
        y_BT[0, : 3 * step] = -1  # other numbers of targets, too
        loss = losses(x_BT, y_BT).sum() / int((y_BT >= 0).sum())
        loss.backward()
        optimizer.clip(1.0)
        optimizer.step(curves.lr(step), curves.momentum(step), curves.weight_decay(step))
        model.after_step()
        model.zero_grad(set_to_none=True)
        seen.add(curves.lr(step))
        if step == 2:  # measuring and sampling in between are not compiled, and disturb nothing
            with torch.no_grad():
                model.eval()
                model.losses(x_BT[:1], y_BT[:1])
                model.train()
    assert len(seen) > 2
    assert losses.compiled and losses._proven, "it was compiled in truth"
    assert len(fresh_compiler) == 1, "each break adds a graph, and so does each recompilation"
    assert not utils.counters["graph_break"]
