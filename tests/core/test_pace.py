"""A batch made for GPUs is kept on a CPU, but its price is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanochat_cli.core import config, files, machine, pace, paths, plan, planning
from nanochat_cli.core.models.shape import flops_per_token
from nanochat_cli.core.settings import BaseTrainConfig, PlanConfig
from nanochat_cli.core.units import span
from tests.conftest import Cli
from tests.core.test_planning import base, books  # noqa: F401 - a fixture


def told(*sets: str, speed: float | None = None) -> tuple[BaseTrainConfig, str | None]:
    cfg = planning.make("base", base(*sets)).config
    net = planning.model_shape(cfg, vocab_size=1000, max_seq_len=cfg.model.max_seq_len or 0)
    return cfg, pace.warning(cfg, net, speed)


def test_the_preset_keeps_its_batch_and_the_price_is_told(books: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(machine, "physical_cores", lambda: 4)
    cfg, text = told("recipe.preset=seed", "horizon.num_iterations=10")
    assert cfg.batch.total_batch_size == 524_288 and text is not None
    net = planning.model_shape(cfg, vocab_size=1000, max_seq_len=256)
    seconds = 524_288 * flops_per_token(net) / 80e9
    assert f"a step of 524,288 tokens takes about {span(seconds)} on this CPU, all 10 steps about" in text
    assert "--total-batch-size 16384 makes a step 32 times shorter" in text
    assert "takes about 9 min on this CPU, all 10 steps about 87 min" in (
        told("recipe.preset=seed", "horizon.num_iterations=10", speed=1000.0)[1] or ""
    ), "a measured speed counts more than a guess"


def test_nothing_is_said_where_steps_are_short_or_the_batch_is_small(books: None) -> None:  # noqa: F811
    assert told("recipe.preset=seed", speed=1e6)[1] is None
    assert told("recipe.preset=seed", "batch.total_batch_size=16384", speed=10.0)[1] is None
    assert told("model.depth=30", speed=10.0)[1] is None, "the batch is not what makes these slow"


def test_the_advice_can_be_followed(books: None) -> None:  # noqa: F811
    sets = ("recipe.preset=seed", "compute.procs=3", "model.max_seq_len=512", "batch.total_batch_size=491520")
    _, text = told(*sets, speed=100.0)
    fewer = int((text or "").partition("--total-batch-size ")[2].split()[0])
    assert fewer == 15360
    planning.make("base", base(*sets[:-1], f"batch.total_batch_size={fewer}"))


def test_a_plan_and_a_dry_run_tell_it(cli: Cli, books: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # noqa: F811
    asked = config.resolve(PlanConfig, command="train base", env={}, sets=["compute.gpus=0", "recipe.preset=seed"])
    files.write_json(paths.tokenizer_dir("books") / "tokenizer.json", {"vocab_size": 65536})
    monkeypatch.setattr(plan, "_data", lambda cfg, vocab, tokens: _no_data())
    monkeypatch.setattr(machine, "physical_cores", lambda: 1)
    assert any("--total-batch-size 16384" in line for line in plan.make(asked.config)["warnings"])
    done = cli("train", "base", "--preset", "seed", "--gpus", "0", "--depth", "12", "--dry-run")
    assert done.returncode == 0 and "--total-batch-size 16384" in done.stderr, done.stderr


def _no_data() -> dict[str, object]:
    return {"tokens": 1, "dropped": 0, "chars_per_token": 4.0, "characters": 1, "shards": 1, "corpus": None}


def test_measured_steps_are_told_if_they_are_long() -> None:
    assert pace.of_steps(1000, 10, 1000.0) is None
    assert pace.of_steps(60_000, 60, 500.0) == "as measured, a step takes about 2 min, all 60 steps 2 h"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "1 s"),
        (300, "5 min"),
        (5400, "90 min"),
        (7200, "2 h"),
        (86400, "24 h"),
        (864_000, "10 days"),
    ],
)
def test_spans_are_rounded(seconds: float, text: str) -> None:
    assert span(seconds) == text
