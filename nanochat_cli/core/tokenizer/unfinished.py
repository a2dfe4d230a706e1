"""What an interrupted tokenizer training goes on from: a folder of counts, and the merges so far.

    state.json       which training it is, how far counting came, the files of counts
    counts-N.bin     pieces and how often they occur, in the text since the file before (rust/bpe/src/spill.rs)
    merges.txt       a line per merge: the two token ids

The state names the files that count, so a kill at any time costs the last seconds; files that it does not name are
written again. The same files bound the memory of counting: what would not fit goes into one more of them.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat_cli import _bpe
from nanochat_cli.core import files
from nanochat_cli.core.errors import ConfigError, DamagedArtifact, NanochatError
from nanochat_cli.core.interrupts import uninterrupted
from nanochat_cli.core.tokenizer.patterns import Counting

FORMAT = 1
STATE, MERGES = "state.json", "merges.txt"
SAVE_EVERY_S = 10.0


class Unfinished:
    """How far a training came. Without a folder, files of counts go to a temporary one and nothing can be resumed."""

    def __init__(
        self, folder: Path | None = None, identity: dict[str, Any] | None = None, every_s: float | None = None
    ) -> None:
        """`identity` is all that decides the outcome: only the same training can go on from here."""
        self.folder = folder
        self._identity = identity or {}
        self._every_s = SAVE_EVERY_S if every_s is None else every_s
        self._saved_at = time.monotonic()
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.rows = 0
        """Documents read so far, nulls included."""
        self.documents = 0
        self.bytes = 0
        self.chars = 0
        self.counted = False
        """True when the files hold all of the text."""
        self.merges: list[tuple[int, int]] = []
        self._names: list[str] = []

    # ---- life of the folder ----

    def load(self) -> bool:
        """Take up what the folder holds; False if there is nothing.

        Raises ConfigError if it is of another training, DamagedArtifact if its files are not whole.
        """
        if self.folder is None or not (self.folder / STATE).is_file():
            return False
        state = files.read_json(self.folder / STATE, "the interrupted training")
        try:
            if state["format"] != FORMAT:
                raise ConfigError(f"an interrupted training of format {state['format']}: {self.folder}")
            self._check_identity(state["identity"])
            self.rows, self.documents = _natural(state["rows"]), _natural(state["documents"])
            self.bytes, self.chars = _natural(state["bytes"]), _natural(state["chars"])
            self.counted = bool(state["counted"])
            self._names = [
                files.inside(self.folder, str(name), "the interrupted training").name for name in state["counts"]
            ]
            self.merges = _read_merges(self.folder / MERGES) if self.counted else []
        except (AttributeError, KeyError, TypeError, ValueError) as problem:
            raise DamagedArtifact(
                f"the interrupted training is damaged: {self.folder} ({problem})", hint="begin anew without --resume"
            ) from None
        return True

    def _check_identity(self, saved: dict[str, Any]) -> None:
        other = [key for key in self._identity if saved.get(key) != self._identity[key]]
        if other:
            raise ConfigError(
                f"the interrupted training is another one: it differs in {', '.join(other)}",
                hint="repeat the command that was interrupted, or begin anew without --resume",
            )

    def __enter__(self) -> Unfinished:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove files that are only temporary."""
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def clear(self) -> None:
        """Forget everything: the training is finished, or begins anew."""
        if self.folder is not None:
            (self.folder / STATE).unlink(missing_ok=True)  # first: without it nothing else counts
            for name in (MERGES, *(path.name for path in self.folder.glob("counts-*.bin"))):
                (self.folder / name).unlink(missing_ok=True)

    @property
    def exists(self) -> bool:
        """True if there is something to go on from."""
        return self.folder is not None and (self.folder / STATE).is_file()

    def due(self) -> bool:
        """True if it is time to save again."""
        return self.folder is not None and time.monotonic() - self._saved_at >= self._every_s

    # ---- counts ----

    @property
    def counts(self) -> list[str]:
        """Paths of the files of counts."""
        return [str(self._place() / name) for name in self._names]

    def spill(self, counter: Counting, *, last: bool = False) -> None:
        """Move the counts into a file of their own; `last` says that all of the text has been counted."""
        with uninterrupted():
            with self._new_file() as path:
                counter.spill(path)
            self.counted = last
            self._save_state()

    @contextlib.contextmanager
    def _new_file(self) -> Iterator[str]:
        name = f"counts-{len(self._names)}.bin"
        path = self._place() / name
        try:
            with files.explain_os_errors("counts of the tokenizer training"):
                yield str(path)
        except (NanochatError, OSError):
            path.unlink(missing_ok=True)
            raise
        self._names.append(name)

    def _place(self) -> Path:
        if self.folder is not None:
            return files.make_dir(self.folder, "the unfinished tokenizer")
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="nanochat-counts-")
        return Path(self._temporary.name)

    def _save_state(self) -> None:
        self._saved_at = time.monotonic()
        if self.folder is None:
            return
        state = {
            "format": FORMAT,
            "identity": self._identity,
            "rows": self.rows,
            "documents": self.documents,
            "bytes": self.bytes,
            "chars": self.chars,
            "counted": self.counted,
            "counts": self._names,
        }
        files.write_json(self.folder / STATE, state)

    # ---- merges ----

    def save_merges(self, pieces: _bpe.Pieces, merges: list[tuple[int, int]]) -> None:
        """Keep the merges so far, and before them what they are merges of, if no file has it yet."""
        self._saved_at = time.monotonic()
        if self.folder is None:
            return
        with uninterrupted():
            if not self.counted:
                with self._new_file() as path:
                    pieces.spill(path)
                self.counted = True
                self._save_state()
            files.write_atomic(self.folder / MERGES, "".join(f"{left} {right}\n" for left, right in merges))


def _read_merges(path: Path) -> list[tuple[int, int]]:
    if not path.is_file():
        return []
    pairs = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    return [(_natural(left), _natural(right)) for left, right in pairs]


def _natural(value: Any) -> int:
    number = int(value)
    if number < 0:
        raise ValueError(f"a number below zero: {number}")
    return number
