"""What every skill produces: a problem, its worked answer, and the key that decides whether it may be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from nanochat_cli.core.data.tinyworld.rng import hash64

Split = Literal["train", "held"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One problem of one skill.

    `worked` is the full answer, as raw text and as reply; `answer` is the part that is graded.
    """

    family: str  # what results are grouped by, e.g. "add-2"
    wording: str  # which group of question templates fits
    slots: Mapping[str, object] = field(default_factory=dict)
    worked: str
    answer: str
    shortcut: str = ""  # what a reader who does not follow the story would say; "" where that makes no sense
    context: str = ""  # text that comes before the question


@lru_cache(maxsize=1 << 16)
def is_held(group: str, key: str, percent: int = 10) -> bool:
    """Returns True if this key of this group must never appear in training, for `percent` of all keys."""
    return hash64(f"held/{group}/{key}") % 100 < percent


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A whole conversation: (user, assistant) turns, the last of which is graded against `answer`."""

    turns: tuple[tuple[str, str], ...]
    family: str
    answer: str
    shortcut: str = ""
