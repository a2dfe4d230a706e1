"""What Linux allows a group of processes, such as a container: memory and processor time (cgroups, version 1 and 2).

Limits hold on every level of the hierarchy, so the tightest one on the way from this process's own group to the root
counts. Inside a container the root of the mount is often the container's own group, while `/proc/self/cgroup` names it
as the host sees it: then the levels that cannot be found are left out, and the mount's root remains.

Source: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MOUNT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_UNLIMITED = 1 << 60  # version 1 writes "no limit" as the largest number that it can


class _Memory(NamedTuple):
    """The files of one version: limits, what is in use, and which of that is cached files that can be dropped."""

    limits: tuple[str, ...]
    usage: str
    cached: str


_MEMORY = {
    2: _Memory(("memory.max", "memory.high"), "memory.current", "inactive_file"),
    1: _Memory(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
}


def memory_limit() -> int | None:
    """Return the bytes of memory that this process's groups may have; None if nothing limits them."""
    return min((limit for limit, _ in _memory_levels()), default=None)


def memory_left() -> int | None:
    """Return the bytes that this process's groups may still take; None if nothing limits them. Never below 0.

    Files that are only cached count as free, as the kernel drops them first.
    """
    return min((max(0, limit - used) for limit, used in _memory_levels()), default=None)


def cpu_quota() -> float | None:
    """Return the processors' worth of time that this process's groups may use, such as 2.5; None without a limit."""
    shares: list[float] = []
    for version, folder in _levels("cpu"):
        if version == 2:
            words = _text(folder / "cpu.max").split()
        else:
            words = [_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")]
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):  # else "max" or -1
            shares.append(int(words[0]) / int(words[1]))
    return min(shares, default=None)


def _memory_levels() -> Iterator[tuple[int, int]]:
    """Yield (limit, bytes in use without cached files) of each level that has a limit."""
    for version, folder in _levels("memory"):
        names = _MEMORY[version]
        limits = [int(text) for name in names.limits if (text := _text(folder / name)).isdigit()]
        if limits and min(limits) < _UNLIMITED:
            used, cached = _text(folder / names.usage), 0
            for line in _text(folder / "memory.stat").splitlines():
                key, _, value = line.partition(" ")
                if key == names.cached and value.isdigit():
                    cached = int(value)
            yield min(limits), max(0, int(used) - cached) if used.isdigit() else 0


def _levels(controller: str) -> Iterator[tuple[int, Path]]:
    """Yield (version, folder) of this process's groups for a controller, from its own up to the root of the mount."""
    for line in _text(OWN).splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            roots = [(2, MOUNT), (2, MOUNT / "unified")]  # the second where version 1 has the controllers, too
        elif controller in names.split(","):
            roots = [(1, MOUNT / controller), (1, MOUNT / names)]
        else:
            continue
        for version, root in roots:
            if root.is_dir():
                yield from ((version, folder) for folder in _upwards(root, path))
                break


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """Yield the folders from `path` below `root` up to `root` itself, as far as they are there."""
    parts = [part for part in path.split("/") if part]
    if ".." in parts:  # a group outside of what this namespace shows
        parts = []
    for length in range(len(parts), -1, -1):
        folder = root.joinpath(*parts[:length])
        if folder.is_dir():
            yield folder


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
