"""A tiny model on a repeating text: it trains in milliseconds and its loss must fall."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanochat_cli.core import optim
from nanochat_cli.core.data.loader import Batches
from nanochat_cli.core.data.packing import PackedRows, pack_documents
from nanochat_cli.core.data.tokens import TokenSplit
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.models.build import build
from nanochat_cli.core.models.shape import from_depth
from nanochat_cli.core.settings import OptimSection
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import schedule
from nanochat_cli.core.train.loop import Job

SEQ_LEN = 16
SENTENCES = ("the cat sat on the mat. ", "a dog ran to the barn. ", "two birds flew over the hill. ")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([s * 4 for s in SENTENCES], 300)


@pytest.fixture(scope="session")
def rows(tokenizer: Tokenizer) -> PackedRows:
    return text_rows(tokenizer)


def text_rows(tokenizer: Tokenizer, num_docs: int = 60) -> PackedRows:
    """Packed documents of different lengths."""
    flat, offsets = tokenizer.encode_batch([SENTENCES[i % 3] * (1 + i % 4) for i in range(num_docs)])
    return pack_documents(TokenSplit([(np.asarray(flat), offsets)], tokenizer.bos_id), SEQ_LEN + 1)


MakeJob = Callable[..., Job]


@pytest.fixture
def make_job(tokenizer: Tokenizer, rows: PackedRows, tmp_path: Path) -> MakeJob:
    def make(folder: str = "stage", *, num_steps: int = 8, **changes: Any) -> Job:
        return tiny_job(tmp_path / folder, tokenizer, rows, num_steps=num_steps, **changes)

    return make


def tiny_job(
    folder: Path, tokenizer: Tokenizer, rows: PackedRows, *, num_steps: int, dist: Dist | None = None, **changes: Any
) -> Job:
    """A job over `rows`; `changes` replace its fields."""
    model = build(from_depth(2, tokenizer.vocab_size, SEQ_LEN, n_embd=32, n_head=2), seed=1)
    section = OptimSection(warmdown_ratio=0.5, weight_decay=0.0)
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {
        "stage_dir": folder,
        "model": model,
        "losses": model.losses,
        "optimizer": optim.build(model.param_groups(), section, dist, precision="fp32"),
        "batches": Batches(rows, rows_per_step=8, seed=3),
        "schedule": schedule.plan(num_steps, section),
        "device_batch_size": 8,
        "tokenizer": tokenizer,
        "config": {"model": {}, "tokenizer": {"hash": tokenizer.hash}},
        "seed": 5,
        "grad_clip": 1.0,
    }
    return Job(**{**values, **changes})
