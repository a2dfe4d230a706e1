"""A small generated world of stories, sums, letters, facts and talk: each document a pure function of its number."""

from nanochat_cli.core.data.tinyworld.mixture import VERSION, chat, document

__all__ = ["VERSION", "chat", "document"]
