"""Conversations in which the assistant says who it is: what gives the model a character. For training only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nanochat_cli.core.data import downloaded, sources
from nanochat_cli.core.data.holdout import hold_out
from nanochat_cli.core.tasks.base import Task
from nanochat_cli.core.tasks.customjson import conversations
from nanochat_cli.core.tokenizer.conversation import Conversation


class Identity(Task):
    """About 1,000 conversations; every 50th is kept to follow the loss on. One's own: `--data FILE.jsonl`."""

    needs: ClassVar[tuple[str, ...]] = ("identity",)
    splits: ClassVar[tuple[str, ...]] = ("train", "val")
    held_out: ClassVar[tuple[str, ...]] = ()
    selection: ClassVar[str | None] = "val"

    def __init__(self, *, split: str = "train", size: int | None = None, seed: int = 0) -> None:
        """Open the downloaded file. Raises MissingArtifact naming the command that fetches it."""
        super().__init__(split=split, size=size, seed=seed)
        source = sources.get("identity")
        path = downloaded.folder_of(source) / source.file_name
        self._found = hold_out(conversations(path, path.stat().st_mtime_ns))[split == "val"][:size]

    @classmethod
    def suits(cls, source: Mapping[str, Any]) -> bool:
        return False

    def __len__(self) -> int:
        return len(self._found)

    def example(self, i: int) -> Conversation:
        return self._found[i]

    def grade(self, conversation: Conversation, reply: str) -> bool:
        return reply.strip() == conversation.messages[-1].text.strip()


TASK = Identity
