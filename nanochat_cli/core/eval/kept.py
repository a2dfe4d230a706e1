"""Answers kept as they come, so that an evaluation that was ended goes on where it was.

One line of JSON per answer, in a file per process. Whoever goes on reads all of them, so the number of processes may
have changed. The folder is named by everything the answers depend on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nanochat_cli.core import files
from nanochat_cli.core.dist import Dist

Line = dict[str, Any]
_LONGEST_NAME = 80


class Kept:
    """The answers of one task: those of an earlier attempt in `done`, by item; new ones are added as they come."""

    def __init__(self, folder: Path, name: str, dist: Dist) -> None:
        files.make_dir(folder, "the evaluation folder")
        self.folder, self.name, self.dist = folder, file_name(name), dist
        self._own = folder / f"{self.name}.{dist.rank}.jsonl"
        self.done = self._read()
        dist.barrier()  # all have read before anyone adds
        _end_last_line(self._own)

    def left(self, items: Iterable[int]) -> list[int]:
        """This process's share of the items that nobody has answered."""
        return [item for item in items if item not in self.done][self.dist.rank :: self.dist.world]

    def add(self, lines: Iterable[Line]) -> None:
        """Keep some answers, each with its number as `item`."""
        with files.explain_os_errors("the evaluation"), self._own.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    def all(self) -> list[Line]:
        """The answers of all processes, in order of their items, once all are through."""
        self.dist.barrier()
        found = self._read()
        self.dist.barrier()
        return [found[item] for item in sorted(found)]

    def _read(self) -> dict[int, Line]:
        found: dict[int, Line] = {}
        for path in sorted(self.folder.glob(f"{self.name}.*.jsonl")):
            for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                try:
                    line = json.loads(text)
                    found[int(line["item"])] = line
                except (ValueError, KeyError, TypeError):
                    continue  # a line that was cut off; its question is asked again
        return found


def file_name(name: str) -> str:
    """Return a name as it may stand in a file's: one that is a path, or has a dot, as its letters and a hash of it."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
    return name if plain == name and len(name) <= _LONGEST_NAME else f"{plain[-_LONGEST_NAME:].strip('-')}-{digest}"


def _end_last_line(path: Path) -> None:
    """A line that was cut off must not swallow the next one."""
    if path.is_file() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")
