"""What the build files say about each other."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

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


def test_make_says_what_it_can_do() -> None:
    told = subprocess.run(["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True).stdout
    for target in ("demo", "test", "lint", "bench", "wheel"):
        assert f"make {target} " in told
