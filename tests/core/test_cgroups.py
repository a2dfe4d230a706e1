"""Limits of containers, in trees of files as the kernel shows them, and what is made of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from nanochat_cli.core import cgroups, machine

GIB = 1024**3
NO_LIMIT_V1 = "9223372036854771712\n"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hierarchy; `write` below fills it."""
    monkeypatch.setattr(cgroups, "MOUNT", tmp_path / "cgroup")
    monkeypatch.setattr(cgroups, "OWN", tmp_path / "own")
    return tmp_path


def write(tree: Path, own: str, **contents: str) -> None:
    (tree / "own").write_text(own)
    for name, text in contents.items():
        path = tree / "cgroup" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def v2(tree: Path, own: str, folder: str, **contents: str) -> None:
    write(tree, own, **{f"{folder}{name}": text for name, text in contents.items()})


def test_nothing_is_limited_without_groups(tree: Path) -> None:
    assert (cgroups.memory_limit(), cgroups.memory_left(), cgroups.cpu_quota()) == (None, None, None)


def test_version_2_counts_what_is_in_use_but_for_cached_files(tree: Path) -> None:
    v2(
        tree,
        "0::/\n",
        "",
        memory_dot_max=f"{4 * GIB}\n",
        memory_dot_high="max\n",
        memory_dot_current=f"{3 * GIB}\n",
        memory_dot_stat=f"anon {GIB}\ninactive_file {2 * GIB}\nactive_file 0\n",
        cpu_dot_max="250000 100000\n",
    )
    assert cgroups.memory_limit() == 4 * GIB
    assert cgroups.memory_left() == 3 * GIB
    assert cgroups.cpu_quota() == 2.5


def test_the_tightest_level_counts(tree: Path) -> None:
    own = "0::/outer/inner\n"
    v2(tree, own, "outer__inner__", memory_dot_max="max\n", memory_dot_current="5\n", cpu_dot_max="max 100000\n")
    v2(
        tree,
        own,
        "outer__",
        memory_dot_max=f"{2 * GIB}\n",
        memory_dot_current=f"{GIB}\n",
        cpu_dot_max="300000 100000\n",
    )
    assert (cgroups.memory_limit(), cgroups.memory_left(), cgroups.cpu_quota()) == (2 * GIB, GIB, 3.0)
    v2(tree, own, "outer__inner__", cpu_dot_max="50000 100000\n")
    assert cgroups.cpu_quota() == 0.5


def test_version_1_in_a_container_whose_group_is_the_root_of_the_mount(tree: Path) -> None:
    write(
        tree,
        "9:memory:/docker/4f2a\n5:cpu,cpuacct:/docker/4f2a\n0::/\n",
        memory__memory_dot_limit_in_bytes=f"{GIB}\n",
        memory__memory_dot_usage_in_bytes=f"{GIB // 2}\n",
        memory__memory_dot_stat=f"inactive_file 1\ntotal_inactive_file {GIB // 4}\n",
        cpu__cpu_dot_cfs_quota_us="150000\n",
        cpu__cpu_dot_cfs_period_us="100000\n",
    )
    assert (cgroups.memory_limit(), cgroups.memory_left(), cgroups.cpu_quota()) == (GIB, GIB * 3 // 4, 1.5)


def test_version_1_without_limits(tree: Path) -> None:
    write(
        tree,
        "4:memory:/a\n1:cpu:/\n0::/\n",
        memory__a__memory_dot_limit_in_bytes=NO_LIMIT_V1,
        memory__a__memory_dot_usage_in_bytes="7\n",
        cpu__cpu_dot_cfs_quota_us="-1\n",
        cpu__cpu_dot_cfs_period_us="100000\n",
    )
    assert (cgroups.memory_limit(), cgroups.memory_left(), cgroups.cpu_quota()) == (None, None, None)


def test_more_in_use_than_allowed_leaves_nothing(tree: Path) -> None:
    v2(tree, "0::/\n", "", memory_dot_max="100\n", memory_dot_current="130\n")
    assert cgroups.memory_left() == 0


# ---- what the machine has for us -------------------------------------------------------------------------------------


def test_memory_is_no_more_than_the_container_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_meminfo", lambda key: {"MemTotal": 64 * GIB, "MemAvailable": 60 * GIB}[key])
    monkeypatch.setattr(cgroups, "memory_limit", lambda: 4 * GIB)
    monkeypatch.setattr(cgroups, "memory_left", lambda: 3 * GIB)
    assert (machine.total_memory(), machine.free_memory()) == (4 * GIB, 3 * GIB)
    monkeypatch.setattr(cgroups, "memory_left", lambda: 0)
    assert 0 < machine.free_memory() < 10, "nothing left must not read as unknown"
    monkeypatch.setattr(cgroups, "memory_limit", lambda: None)
    monkeypatch.setattr(cgroups, "memory_left", lambda: None)
    assert (machine.total_memory(), machine.free_memory()) == (64 * GIB, 60 * GIB)


@pytest.fixture
def eight_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of four cores, whose threads are 0 and 4, 1 and 5, …"""
    for number in range(8):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{number % 4},{number % 4 + 4}\n")
    monkeypatch.setattr(machine, "TOPOLOGY", tmp_path)
    monkeypatch.setattr(cgroups, "cpu_quota", lambda: None)
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.mark.parametrize(
    ("allowed", "quota", "physical", "logical"),
    [
        (range(8), None, 4, 8),
        ({0, 4}, None, 1, 2),
        ({0, 1, 5}, None, 2, 3),
        (range(8), 3.0, 3, 3),
        (range(8), 6.0, 4, 6),
        (range(8), 0.4, 1, 1),
    ],
)
def test_threads_of_one_core_are_counted_once(
    monkeypatch: pytest.MonkeyPatch,
    eight_threads: None,
    allowed: set[int],
    quota: float | None,
    physical: int,
    logical: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(allowed), raising=False)
    monkeypatch.setattr(cgroups, "cpu_quota", lambda: quota)
    assert (machine.physical_cores(), machine.usable_cores()) == (physical, logical)


def test_without_topology_every_thread_counts(
    monkeypatch: pytest.MonkeyPatch, eight_threads: None, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    monkeypatch.setattr(machine, "TOPOLOGY", tmp_path / "none")
    assert machine.physical_cores() == 3


def test_macos_tells_its_physical_cores(monkeypatch: pytest.MonkeyPatch, eight_threads: None) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(machine, "_sysctl", {"hw.physicalcpu": 6}.get)
    assert machine.physical_cores() == 6
    monkeypatch.setattr(machine, "_sysctl", lambda name: 0)
    monkeypatch.setattr(machine, "_processors", lambda: [0, 1])
    assert machine.physical_cores() == 2
