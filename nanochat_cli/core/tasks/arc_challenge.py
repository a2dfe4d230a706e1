"""ARC-Challenge: school science questions that retrieval and word statistics get wrong."""

from __future__ import annotations

from nanochat_cli.core.tasks._arc import Arc


class ArcChallenge(Arc):
    """1,119 questions to train on, 299 to select by, 1,172 to report."""

    config = "ARC-Challenge"


TASK = ArcChallenge
