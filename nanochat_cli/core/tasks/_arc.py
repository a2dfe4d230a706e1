"""School science questions with three to five options: what both ARC sets have in common (arXiv 1803.05457)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from nanochat_cli.core.tasks._choices import ChoiceTask
from nanochat_cli.core.tasks._tables import Row


class Arc(ChoiceTask):
    """Options are labelled as in the data: letters mostly, digits at times."""

    needs = ("arc",)
    columns = ("question", "choices", "answerKey")
    config: ClassVar[str]

    @classmethod
    def files(cls, folder: Path, split: str) -> tuple[Path, str]:
        return folder / cls.config, f"{'validation' if split == 'val' else split}*"

    @classmethod
    def parts(cls, row: Row) -> tuple[str, Sequence[str], Sequence[str], str]:
        return row["question"], row["choices"]["label"], row["choices"]["text"], row["answerKey"]
