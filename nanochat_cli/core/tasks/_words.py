"""English words for the spelling tasks, each for training, for selection or for the test, in whatever task it occurs.

Without the long list (`nanochat data download words`) a short one serves: what Conan Doyle writes more than once, in
lower case, in stories of Sherlock Holmes that are in the public domain.
"""

from __future__ import annotations

import functools
from pathlib import Path

from nanochat_cli.core.data import downloaded, sources
from nanochat_cli.core.data.tinyworld.rng import hash64
from nanochat_cli.core.errors import NanochatError

SPLITS = ("train", "val", "test")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
_HELD_PERCENT = 5  # of all words for each of val and test
_LENGTHS = range(3, 21)


def of_split(split: str) -> tuple[str, ...]:
    """Return the words of a split, in the order of the list."""
    return _words(list_file())[split]


def split_of(word: str) -> str:
    """Return the split that a word belongs to: by a hash of the word, so the same with every list."""
    place = hash64(f"spelling/{word}") % 100
    return "test" if place < _HELD_PERCENT else "val" if place < 2 * _HELD_PERCENT else "train"


def list_file() -> Path:
    """Return the list that is used: the downloaded one, else the short one that comes with the package."""
    source = sources.get("words")
    try:
        return downloaded.folder_of(source) / source.file_name
    except NanochatError:
        return Path(__file__).with_name("words.txt")


@functools.lru_cache(maxsize=2)
def _words(path: Path) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {split: [] for split in SPLITS}
    lines = path.read_text(encoding="utf-8").split()
    for word in dict.fromkeys(line.lower() for line in lines):
        if len(word) in _LENGTHS and word.isascii() and word.isalpha():
            found[split_of(word)].append(word)
    return {split: tuple(words) for split, words in found.items()}
