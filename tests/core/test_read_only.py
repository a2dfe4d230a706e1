"""Runs on a file system that takes nothing: they can be listed, shown, verified, loaded, and measured elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat_cli.core import files, paths, planning, run_repair, runs
from nanochat_cli.core.errors import EnvironmentLacks
from nanochat_cli.core.settings import ComputeSection, EvalConfig
from tests.core.runs_made import make

ROOT = Path(__file__).resolve().parents[2]
READ_ONLY = """
mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit 99
shift
for words in ls "show r --verify" "diff r/base/10 r/base/20" "repair r --dry-run" "rm r --dry-run"
do "$1" -m nanochat_cli.main runs $words >/dev/null || exit 1
done
"$1" -m nanochat_cli.main runs tag r v1 && exit 2
"$1" -m nanochat_cli.main runs rm r -y && exit 3
exit 0
"""


def test_a_read_only_file_system(base_dir: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    make("r", "base", 10, 20)
    argv = ["unshare", "-rm", "sh", "-c", READ_ONLY, "sh", str(base_dir), sys.executable]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("may not mount here")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no permission to write") == 2


def refuse(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    real = os.access

    def access(path: Path, mode: int) -> bool:
        own = Path(path)
        return real(path, mode) and not (mode & os.W_OK and any(f == own or f in own.parents for f in folders))

    monkeypatch.setattr(os, "access", access)


def test_an_evaluation_of_runs_that_may_only_be_read_writes_elsewhere(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("r", "base", 10)
    cfg = EvalConfig(compute=ComputeSection(gpus=0))
    assert planning.make("eval", cfg).dir == runs.stage_dir("r", "eval")
    refuse(monkeypatch, paths.runs_dir())
    assert planning.make("eval", cfg).dir == paths.cache_dir() / "eval" / "r"
    refuse(monkeypatch, base_dir)
    where = planning.make("eval", cfg).dir
    assert base_dir not in where.parents and where.name == "r" and files.can_write(where)


def test_a_repair_that_may_not_write_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("r", "base", 10)
    (folder / "stop").touch()
    real = os.open

    def refuses(path: object, flags: int, *more: object) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY):
            raise OSError(30, "Read-only file system", str(path))
        return real(path, flags, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuses)
    with pytest.raises(EnvironmentLacks, match="no permission to write"):
        run_repair.repair("r")
    assert runs.checkpoint_steps(folder) == [10]
