"""Shared by all tests: a base directory of its own for each test, and the command line as a function."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def base_dir(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in its own base directory, and in a current directory without a project file."""
    for name in [name for name in os.environ if name.startswith("NANOCHAT_") and name != "NANOCHAT_TEST_DATA"]:
        monkeypatch.delenv(name)
    own = tmp_path_factory.mktemp("test")
    base = own / "base"
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))
    here = own / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return base


@pytest.fixture
def cli() -> Cli:
    """Run the command line in a process of its own and return its exit code and streams."""

    def call(
        *argv: str, input: str | None = None, timeout: float = 120, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "nanochat_cli.main", *argv],
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        )

    return call


def pytest_configure() -> None:
    """Let Ctrl-C work in the processes under test, even where the tests themselves were started in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def spawn(*argv: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start the command line and return its process; what it says on stderr can be read at its end."""
    own = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    return subprocess.Popen(
        [sys.executable, "-m", "nanochat_cli.main", *argv], env=own, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition: Path, process: subprocess.Popen[str], timeout: float = 240) -> None:
    """Wait until a path exists; fails with what the process said if it ends first."""
    deadline = time.monotonic() + timeout
    while not condition.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"{condition} did not appear"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data for trials; tests that use it skip where it is absent."""
    named = os.environ.get("NANOCHAT_TEST_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder} (set NANOCHAT_TEST_DATA)")
    return folder
