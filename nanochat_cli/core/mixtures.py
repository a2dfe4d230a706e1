"""What the chat stages train on: how a source is named on the command line, and the usual mixture of each stage.

NAME[:weight]   a task or file, each conversation `weight` times an epoch; below 1, that share of them
NAME=number     a task, this many of its conversations an epoch
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nanochat_cli.core import files, paths
from nanochat_cli.core.errors import ConfigError, NanochatError

MAX_WEIGHT = 100_000  # repeats of a data source
_COUNTED = re.compile(r"(.+)=([0-9][0-9_,]*)")

USUAL: dict[str, tuple[str, ...]] = {
    "mid": ("smoltalk", "mmlu", "gsm8k", "identity:2", "simplespelling=200000", "spellingbee=80000"),
    "sft": (
        *("arc_easy", "arc_challenge", "gsm8k", "smoltalk=10000", "identity"),
        *("simplespelling=300", "spellingbee=300"),
    ),
}
"""What a stage trains on where neither options nor the base model's corpus say otherwise (the mixtures of nanochat)."""

DOWNLOADS = {"mid": ("smoltalk", "mmlu", "gsm8k", "identity"), "sft": ("arc", "gsm8k", "smoltalk", "identity")}
"""What these mixtures read: names of `nanochat data download`."""

NEEDED = {"arc_easy": "arc", "arc_challenge": "arc"} | {
    name: name for name in ("smoltalk", "mmlu", "gsm8k", "identity")
}
"""The download that each of their tasks reads; a task that is not here needs none."""


@dataclass(frozen=True)
class Wanted:
    """One source of a mixture: how often each of its conversations is seen in an epoch, or how many are, if counted."""

    name: str
    weight: float = 1.0
    count: int | None = None

    def __str__(self) -> str:
        if self.count is not None:
            return f"{self.name}={self.count}"
        return self.name if self.weight == 1 else f"{self.name}:{self.weight:g}"


def parse(text: str) -> Wanted:
    """Return the task, weight and count that a value of `--task` names. Raises ConfigError."""
    if counted := _COUNTED.fullmatch(text):
        count = int(re.sub("[_,]", "", counted[2]))
        if not 0 < count <= 100_000_000:
            raise ConfigError(f"the number of conversations must be above 0 and at most 100,000,000: {text}")
        return Wanted(counted[1], count=count)
    return Wanted(*split_weight(text))


def split_weight(text: str) -> tuple[str, float]:
    """Return (path or name, weight) of a `PATH[:weight]` value; a tail that is no number belongs to the path.

    The weight is 1 if not given. Raises ConfigError if it is not a share or a number of repeats.
    """
    name, colon, weight = text.rpartition(":")
    try:
        number = float(weight) if colon else 1.0
    except ValueError:
        return text, 1.0
    if not 0 < number <= MAX_WEIGHT:
        raise ConfigError(f"the weight of a data source must be above 0 and at most {MAX_WEIGHT:,}: {text}")
    return (name, number) if colon else (text, 1.0)


def missing(stage: str) -> list[str]:
    """Return what the usual mixture of a stage needs and was not downloaded whole."""
    return [name for name in DOWNLOADS[stage] if not _is_downloaded(name)]


def is_here(task: str) -> bool:
    """Return whether what a task of a usual mixture reads was downloaded whole."""
    return task not in NEEDED or _is_downloaded(NEEDED[task])


def _is_downloaded(name: str) -> bool:
    record = paths.tasks_dir() / name / "download.json"
    if not record.is_file():
        return False
    try:
        return files.read_json(record, "download record").get("complete") is True
    except NanochatError:
        return False
