"""Help and listings start without the heavy libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "pyarrow", "rich", "fastapi", "pydantic", "safetensors", "tiktoken", "httpx"}
PROBE = """
import sys
from nanochat_cli.main import run
code = run(sys.argv[1:])
print("LOADED", *sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["train", "base", "--help"],
        ["data", "--help"],
        ["data", "download", "--help"],
        ["data", "download", "--list"],
        ["tok", "train", "--help"],
        ["chat", "--help"],
        ["eval", "--help"],
        ["demo", "--help"],
        ["runs", "ls"],
        ["config", "show", "train", "base"],
    ],
    ids=" ".join,
)
def test_starts_light(argv: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROBE, *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.split("LOADED")[-1].split())
    assert "typer" in loaded
    assert not HEAVY & loaded
