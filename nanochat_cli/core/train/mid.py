"""Mid-training: a model that continues text learns what a conversation looks like; every token is a target."""

from __future__ import annotations

from typing import Any

from nanochat_cli.core.dist import Dist
from nanochat_cli.core.events import Log
from nanochat_cli.core.runs import RunContext
from nanochat_cli.core.settings import MidTrainConfig
from nanochat_cli.core.train import chat


def run(cfg: MidTrainConfig, run: RunContext, dist: Dist, log: Log) -> dict[str, Any]:
    """Train on whole conversations, as plain text with its special tokens, and return the result in numbers."""
    return chat.train(cfg, run, dist, log, all_tokens=True)
