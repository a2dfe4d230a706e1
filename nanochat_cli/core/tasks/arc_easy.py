"""ARC-Easy: school science questions that word statistics alone get right more often than not."""

from __future__ import annotations

from nanochat_cli.core.tasks._arc import Arc


class ArcEasy(Arc):
    """2,251 questions to train on, 570 to select by, 2,376 to report."""

    config = "ARC-Easy"


TASK = ArcEasy
