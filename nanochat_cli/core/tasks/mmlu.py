"""MMLU: multiple choice in 57 subjects (arXiv 2009.03300); its auxiliary questions train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nanochat_cli.core.tasks._choices import ChoiceTask
from nanochat_cli.core.tasks._tables import Row

LETTERS = ("A", "B", "C", "D")


class Mmlu(ChoiceTask):
    """99,842 auxiliary questions to train on, 1,531 to select by, 14,042 to report, by subject."""

    needs = ("mmlu",)
    columns = ("question", "subject", "choices", "answer")

    @classmethod
    def files(cls, folder: Path, split: str) -> tuple[Path, str]:
        if split == "train":
            own = folder / "auxiliary_train"
            return (own, "train*") if own.is_dir() else (folder / "all", "auxiliary_train*")
        return folder / "all", f"{'validation' if split == 'val' else split}*"

    @classmethod
    def parts(cls, row: Row) -> tuple[str, Sequence[str], Sequence[str], str]:
        answer = row["answer"]
        return row["question"], LETTERS, row["choices"], LETTERS[answer] if 0 <= answer < 4 else str(answer)

    def family(self, i: int) -> str:
        return self.row(i)["subject"] or "auxiliary"


TASK = Mmlu
