"""Supervised fine-tuning: a model that knows conversations learns to answer; its own tokens alone are targets."""

from __future__ import annotations

from typing import Any

from nanochat_cli.core.dist import Dist
from nanochat_cli.core.events import Log
from nanochat_cli.core.runs import RunContext
from nanochat_cli.core.settings import SftConfig
from nanochat_cli.core.train import chat


def run(cfg: SftConfig, run: RunContext, dist: Dist, log: Log) -> dict[str, Any]:
    """Train on what the assistant says, each of its tokens weighing the same, and return the result in numbers."""
    return chat.train(cfg, run, dist, log, all_tokens=False)
