"""What can be downloaded by name: one entry per data set says what it is, where it is and how it is checked.

A new corpus, task or bundle is one more entry here. Data sets on Hugging Face are given by repository: the names, sizes
and hashes of their files are asked from its API. Others are one address.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanochat_cli.core import paths
from nanochat_cli.core.errors import ConfigError

Kind = Literal["pretraining", "chats", "task", "bundle", "file"]
MB = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Source:
    """One data set: `pretraining` becomes a corpus, a `bundle` is unpacked, all else is kept as it comes.

    Of a pretraining data set the last of its `shards` is always the one to validate on, however many are fetched.
    """

    name: str
    kind: Kind
    purpose: str
    licence: str
    approx_bytes: int  # of what is fetched; of one shard for pretraining
    repo: str | None = None
    patterns: tuple[str, ...] = ()
    url: str | None = None
    shards: int = 0
    usual_shards: int = 0

    @property
    def dir(self) -> Path:
        """Where it lands."""
        return paths.corpus_dir(self.name) if self.kind == "pretraining" else paths.tasks_dir() / self.name

    def shard(self, index: int) -> str:
        """Return the file name of a pretraining shard."""
        return f"shard_{index:05d}.parquet"

    @property
    def val_shard(self) -> str:
        """The file to validate on."""
        return self.shard(self.shards - 1)

    @property
    def file_name(self) -> str:
        """The file that a plain address ends in."""
        return (self.url or "").rpartition("/")[2]


_BUCKET = "https://karpathy-public.s3.us-west-2.amazonaws.com"

SOURCES: tuple[Source, ...] = (
    Source(
        name="climbmix",
        kind="pretraining",
        purpose="pretraining text: ClimbMix, 400B tokens, shuffled; the better of the two per token",
        licence="CC BY-NC 4.0",
        repo="karpathy/climbmix-400b-shuffle",
        shards=6543,
        usual_shards=170,
        approx_bytes=100 * MB,
    ),
    Source(
        name="fineweb-edu",
        kind="pretraining",
        purpose="pretraining text: educational web pages, 100B tokens, shuffled",
        licence="ODC-By 1.0",
        repo="karpathy/fineweb-edu-100b-shuffle",
        shards=1823,
        usual_shards=240,
        approx_bytes=100 * MB,
    ),
    Source(
        name="smoltalk",
        kind="chats",
        purpose="460,000 conversations for mid-training and fine-tuning (smol-smoltalk)",
        licence="Apache 2.0",
        repo="HuggingFaceTB/smol-smoltalk",
        patterns=("data/*.parquet",),
        approx_bytes=1000 * MB,
    ),
    Source(
        name="identity",
        kind="chats",
        purpose="1,000 conversations in which the assistant tells who it is",
        licence="not stated",
        url=f"{_BUCKET}/identity_conversations.jsonl",
        approx_bytes=3 * MB,
    ),
    Source(
        name="mmlu",
        kind="task",
        purpose="multiple choice in 57 subjects, with the auxiliary questions to train on",
        licence="MIT",
        repo="cais/mmlu",
        patterns=("all/*.parquet", "auxiliary_train/*.parquet"),
        approx_bytes=100 * MB,
    ),
    Source(
        name="arc",
        kind="task",
        purpose="school science, multiple choice: ARC-Easy and ARC-Challenge",
        licence="CC BY-SA 4.0",
        repo="allenai/ai2_arc",
        patterns=("ARC-Easy/*.parquet", "ARC-Challenge/*.parquet"),
        approx_bytes=2 * MB,
    ),
    Source(
        name="gsm8k",
        kind="task",
        purpose="school maths in words, with worked answers",
        licence="MIT",
        repo="openai/gsm8k",
        patterns=("main/*.parquet",),
        approx_bytes=5 * MB,
    ),
    Source(
        name="humaneval",
        kind="task",
        purpose="164 Python functions to write, with tests",
        licence="MIT",
        repo="openai/openai_humaneval",
        patterns=("openai_humaneval/*.parquet",),
        approx_bytes=1 * MB,
    ),
    Source(
        name="eval-bundle",
        kind="bundle",
        purpose="the 22 tasks of the CORE score for base models",
        licence="of its tasks (Apache 2.0, MIT, CC BY-SA and others)",
        url=f"{_BUCKET}/eval_bundle.zip",
        approx_bytes=162 * MB,
    ),
    Source(
        name="words",
        kind="file",
        purpose="370,000 English words, for spelling and counting letters",
        licence="Unlicense",
        url="https://raw.githubusercontent.com/dwyl/english-words/refs/heads/master/words_alpha.txt",
        approx_bytes=5 * MB,
    ),
)


def get(name: str) -> Source:
    """Return the source of this name. Raises ConfigError that names the nearest one."""
    known = {source.name: source for source in SOURCES}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"nothing to download by this name: {name}",
            hint=f"{hint}choose one of: {', '.join(known)}; your own text: nanochat data add FILES…",
        )
    return known[name]


def find(name: str) -> Source | None:
    """Return the source of this name, or None."""
    return next((source for source in SOURCES if source.name == name), None)
