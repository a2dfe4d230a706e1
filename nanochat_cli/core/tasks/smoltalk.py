"""SmolTalk: everyday conversations of several turns, written by larger models (smol-smoltalk). For training only."""

from __future__ import annotations

from pathlib import Path

from nanochat_cli.core.tasks._tables import TableTask
from nanochat_cli.core.tokenizer.conversation import Conversation


class SmolTalk(TableTask):
    """460,341 conversations, and 24,229 to follow the loss on. There is no answer to grade."""

    needs = ("smoltalk",)
    columns = ("messages",)
    splits = ("train", "val")
    held_out = ()

    @classmethod
    def files(cls, folder: Path, split: str) -> tuple[Path, str]:
        return folder / "data" if (folder / "data").is_dir() else folder, f"{'test' if split == 'val' else split}*"

    def example(self, i: int) -> Conversation:
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in self.row(i)["messages"]]
        return Conversation.from_json({"messages": turns})

    def grade(self, conversation: Conversation, reply: str) -> bool:
        return reply.strip() == conversation.messages[-1].text.strip()


TASK = SmolTalk
