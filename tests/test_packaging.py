"""What the build files say about each other."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import nanochat_cli
from nanochat_cli import _bpe

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CRATE = tomllib.loads((ROOT / "rust" / "bpe" / "Cargo.toml").read_text())


def test_one_version() -> None:
    assert PROJECT["project"]["version"] == CRATE["package"]["version"] == nanochat_cli.__version__


def test_rust_dependencies_are_exact_and_python_ones_are_ranges() -> None:
    assert all(spec["version"].startswith("=") for spec in CRATE["dependencies"].values())
    assert not [dependency for dependency in PROJECT["project"]["dependencies"] if "==" in dependency]


def test_the_native_module_is_the_stable_abi() -> None:
    assert _bpe.__file__ and ".abi3." in _bpe.__file__
    assert "abi3-py311" in CRATE["dependencies"]["pyo3"]["features"]


def test_plain_rust_builds_without_python() -> None:
    assert CRATE["dependencies"]["pyo3"]["optional"] is True
    assert "default" not in CRATE["features"]


PACKAGE = Path(nanochat_cli.__file__).parent
DATA = [
    path
    for kind in ("presets/*.toml", "recipes/*.toml", "topics/*.toml", "py.typed", "*.pyi")
    for path in PACKAGE.glob(kind)
]


def test_no_data_file_is_left_out_of_the_packages() -> None:
    """Maturin packs what lies in the package, but for what git ignores and what is excluded by name."""
    assert {path.parent.name for path in DATA} == {"presets", "recipes", "topics", PACKAGE.name}
    for path in DATA:
        inside = path.relative_to(PACKAGE.parent)
        assert not any(inside.match(pattern) for pattern in PROJECT["tool"]["maturin"]["exclude"]), inside
    ignored = [line for line in (ROOT / ".gitignore").read_text().splitlines() if line and line[0] != "#"]
    for path in DATA:
        inside = path.relative_to(PACKAGE.parent)
        assert not any(inside.match(rule.rstrip("/")) or rule.rstrip("/") in inside.parts for rule in ignored), inside


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_wheel_holds_recipes_and_presets(tmp_path: Path) -> None:
    if shutil.which("cargo") is None or importlib.util.find_spec("maturin") is None:
        pytest.skip("needs cargo and maturin")
    argv = [sys.executable, "-m", "maturin", "build", "--offline", "--out", str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {str(path.relative_to(PACKAGE.parent)) for path in DATA} <= held


def test_make_says_what_it_can_do() -> None:
    told = subprocess.run(["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True).stdout
    for target in ("demo", "test", "lint", "bench", "wheel"):
        assert f"make {target} " in told
