"""A disk in memory that forgets: what a program did to a folder is recorded, and every crash of it can be replayed.

What POSIX does not promise is not counted on: content that was not flushed may be lost, whole or half, and changes of a
folder's names that were not flushed with it may be lost one by one, in any order.
"""

from __future__ import annotations

import builtins
import io
import itertools
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

Tree = dict[str, bytes | None]
"""Content of every file by its path below the root; None for a folder."""
_ALL_OF = 8
"""So many things in doubt are lost in every combination; of more, combinations are drawn."""
_DRAWN = 200


@dataclass(frozen=True)
class Op:
    """One change. `kind`: write (inode, content), flush (inode), or names of `folder`: link, unlink, rename."""

    kind: str
    inode: int
    folder: int = 0
    name: str = ""
    new: str = ""
    content: bytes = b""


@dataclass
class Recording:
    """What happened below a folder, from a first state of it that is safe on the disk."""

    root: int
    folders: dict[int, dict[str, int]] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)


class Recorder:
    """Listens to the system calls that change a folder while it is patched in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.real: dict[str, Callable[..., Any]] = {
            name: getattr(os, name)
            for name in ("open", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "close")
        }
        self.open_file = io.open
        self.eyes: dict[int, int] = {}
        """An open handle of each inode: as long as it is open, no other one gets its number."""
        self.seen: dict[int, bytes] = {}
        self.tape = Recording(os.stat(root).st_ino)
        self._survey(root)
        self.tape.contents.update(self.seen)

    def _survey(self, folder: Path) -> None:
        names = self.tape.folders.setdefault(self._watch(folder), {})
        for child in folder.iterdir():
            names[child.name] = self._watch(child)
            if child.is_dir():
                self._survey(child)

    def _watch(self, path: Path | str) -> int:
        handle = self.real["open"](path, os.O_RDONLY)
        inode = os.fstat(handle).st_ino
        self.eyes[inode] = handle
        if os.path.isfile(path):
            self.seen[inode] = self._content(inode)
        return inode

    def _content(self, inode: int) -> bytes:
        handle = self.eyes[inode]
        return os.pread(handle, os.fstat(handle).st_size, 0)

    def catch_up(self) -> None:
        """Note what was written since the last look, however it was."""
        for inode, before in self.seen.items():
            now = self._content(inode)
            if now != before:
                self.seen[inode] = now
                self.tape.ops.append(Op("write", inode, content=now))

    def close(self) -> None:
        self.catch_up()
        for handle in self.eyes.values():
            self.real["close"](handle)

    def _place(self, path: Any, dir_fd: int | None = None) -> tuple[int, str] | None:
        """The folder's inode and the name in it; None for what does not lie below the root."""
        if not isinstance(path, str | os.PathLike):
            return None
        folder, name = os.path.split(os.fspath(path))
        found = os.stat(folder or ".", dir_fd=dir_fd).st_ino if os.path.isdir(folder or ".") else -1
        if dir_fd is not None:
            found = os.fstat(dir_fd).st_ino
        return (found, str(name)) if found in self.eyes else None

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def opened(path: Any, flags: int, mode: int = 0o666, *, dir_fd: int | None = None) -> int:
            self.catch_up()
            place = self._place(path, dir_fd) if flags & os.O_CREAT else None
            new = place is not None and not os.path.lexists(path)
            handle = self.real["open"](path, flags, mode, dir_fd=dir_fd)
            if new and place is not None:
                inode = self._watch(path)
                self.seen[inode] = b""
                self.tape.ops.append(Op("link", inode, *place))
                self.tape.contents.setdefault(inode, b"")
            return handle

        def opened_file(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if set(mode) & set("wxa+") and not isinstance(file, int):
                kwargs["opener"] = opened
            return self.open_file(file, mode, *args, **kwargs)

        def flushed(handle: int) -> None:
            self.catch_up()
            self.real["fsync"](handle)
            if (inode := os.fstat(handle).st_ino) in self.eyes:
                self.tape.ops.append(Op("flush", inode))

        def made(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
            self.catch_up()
            place = self._place(path, dir_fd)
            self.real["mkdir"](path, mode, dir_fd=dir_fd)
            if place:
                inode = self._watch(path)
                self.tape.folders.setdefault(inode, {})
                self.tape.ops.append(Op("link", inode, *place))

        def gone(how: str) -> Callable[..., None]:
            def remove(path: Any, *, dir_fd: int | None = None) -> None:
                self.catch_up()
                place = self._place(path, dir_fd)
                inode = os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_ino
                self.real[how](path, dir_fd=dir_fd)
                if place:
                    self.tape.ops.append(Op("unlink", inode, *place))

            return remove

        def moved(how: str) -> Callable[..., None]:
            def move(old: Any, new: Any) -> None:
                self.catch_up()
                place, target = self._place(old), self._place(new)
                inode = os.stat(old).st_ino
                self.real[how](old, new)
                if place and target:
                    assert place[0] == target[0], "a rename over two folders is not safe on any disk"
                    self.tape.ops.append(Op("rename", inode, *place, target[1]))

            return move

        monkeypatch.setattr(os, "open", opened)
        monkeypatch.setattr(os, "fsync", flushed)
        monkeypatch.setattr(os, "mkdir", made)
        for name in ("unlink", "rmdir"):
            monkeypatch.setattr(os, name, gone(name))
        for name in ("rename", "replace"):
            monkeypatch.setattr(os, name, moved(name))
        monkeypatch.setattr(io, "open", opened_file)
        monkeypatch.setattr(builtins, "open", opened_file)


def record(root: Path, work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> Recording:
    """Return what `work` does below `root`, after checking that nothing escaped notice."""
    recorder = Recorder(root)
    with monkeypatch.context() as patch:
        recorder.patch(patch)
        work()
    recorder.close()
    tape = recorder.tape
    disk = Disk(tape)
    for op in tape.ops:
        disk.do(op)
    assert disk.tree(disk.pending, {}) == tree_of(root)
    return tape


def tree_of(root: Path) -> Tree:
    """Return what lies below a real folder."""
    return {p.relative_to(root).as_posix(): p.read_bytes() if p.is_file() else None for p in root.rglob("*")}


class Disk:
    """What is safe, and what is in doubt, after some of the recorded changes."""

    def __init__(self, tape: Recording) -> None:
        self.root = tape.root
        self.folders = {inode: dict(names) for inode, names in tape.folders.items()}
        self.safe, self.now = dict(tape.contents), dict(tape.contents)
        self.pending: list[Op] = []

    def do(self, op: Op) -> None:
        if op.kind == "write":
            self.now[op.inode] = op.content
        elif op.kind != "flush":
            self.pending.append(op)
        elif op.inode in self.safe:
            self.safe[op.inode] = self.now[op.inode]
        else:
            for waiting in self.pending:
                if waiting.folder == op.inode:
                    _apply(waiting, self.folders)
            self.pending = [waiting for waiting in self.pending if waiting.folder != op.inode]

    def tree(self, chosen: list[Op], torn: dict[int, bytes]) -> Tree:
        """Return what is there with these of the pending changes of names; `torn` gives content that is older."""
        folders = {inode: dict(names) for inode, names in self.folders.items()}
        for op in chosen:
            _apply(op, folders)
        found: Tree = {}

        def walk(folder: int, prefix: str) -> None:
            for name, inode in folders[folder].items():
                found[prefix + name] = None if inode in folders else torn.get(inode, self.now.get(inode))
                if inode in folders:
                    walk(inode, f"{prefix}{name}/")

        walk(self.root, "")
        return found

    def crashes(self, draw: random.Random) -> Iterator[Tree]:
        """Return what a crash now may leave: in every combination if little is in doubt."""
        dirty = [inode for inode in self.now if self.now[inode] != self.safe[inode]]
        choices = [2] * len(self.pending) + [3] * len(dirty)
        few = len(choices) <= _ALL_OF
        drawn = (tuple(draw.randrange(n) for n in choices) for _ in range(_DRAWN))
        ends = [tuple(0 for _ in choices), tuple(n - 1 for n in choices)]
        ends += [
            tuple(n - 1 if (at == one) == kept else 0 for at, n in enumerate(choices))
            for one in range(len(choices))
            for kept in (True, False)
        ]
        for picks in itertools.product(*map(range, choices)) if few else itertools.chain(ends, drawn):
            chosen = [op for op, pick in zip(self.pending, picks, strict=False) if pick]
            torn = {}
            for inode, pick in zip(dirty, picks[len(self.pending) :], strict=True):
                if pick < 2:
                    torn[inode] = self.now[inode][: len(self.now[inode]) // 2] if pick else self.safe[inode]
            yield self.tree(chosen, torn)


def _apply(op: Op, folders: dict[int, dict[str, int]]) -> None:
    names = folders[op.folder]
    if op.kind == "link":
        names[op.name] = op.inode
        return
    if names.get(op.name) == op.inode:
        del names[op.name]
    if op.kind == "rename":
        names[op.new] = op.inode


def put(tree: Tree, root: Path) -> None:
    """Make a real folder of a tree."""
    root.mkdir()
    for name, content in sorted(tree.items()):
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)
