"""`nanochat data synth-chats` as a person uses it: offline, dry, killed, stopped and run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat_cli.core import paths
from nanochat_cli.core.data.synthchats.topic import EXAMPLE
from tests.conftest import Cli, spawn
from tests.core.data.synthchats.endpoint_faults import Server, Step, serving, talk

KEY = "sk-do-not-show-me"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as ours:
        yield ours


def argv(server: Server, *more: str) -> list[str]:
    own = ["--topic", str(EXAMPLE), "--endpoint", server.url, "--model", "m", "-n", "24", "-w", "2", *more]
    return ["data", "synth-chats", *own]


def wait_for_requests(server: Server, process: subprocess.Popen[str], number: int) -> None:
    limit = time.monotonic() + 60
    while len(server.seen) < number:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_offline_from_the_example_to_a_set(cli: Cli, tmp_path: Path) -> None:
    printed = cli("data", "synth-chats", "--example")
    assert printed.returncode == 0 and printed.stdout == EXAMPLE.read_text()
    done = cli("data", "synth-chats", "--topic", str(EXAMPLE), "--offline", "-n", "50", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["conversations"] == 50 and "train sft --data identity" in done.stderr
    assert len((paths.corpus_dir("identity") / "chats" / "sft.jsonl").read_text().splitlines()) == 50
    assert cli("data", "synth-chats", "--topic", str(EXAMPLE), "--offline").returncode == 2
    assert "set of chats identity" in cli("data", "list").stderr


def test_a_dry_run_asks_nobody(cli: Cli, server: Server) -> None:
    done = cli(*argv(server, "--price-in", "1", "--price-out", "2", "--dry-run", "--json"))
    plan = json.loads(done.stdout)
    assert plan["requests"] == 24 and plan["cost"] > 0 and "Fern" in plan["example"]
    assert server.seen == [] and not paths.corpora_dir().exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_or_stopped_it_goes_on(cli: Cli, server: Server, how: signal.Signals) -> None:
    server.default = lambda n: Step(content=talk(n), wait_s=0.05)
    process = spawn(*argv(server), env={"OPENAI_API_KEY": KEY})
    wait_for_requests(server, process, 10)
    os.kill(process.pid, how)
    _, said = process.communicate(timeout=30)
    assert process.returncode == (130 if how == signal.SIGINT else -9), said
    assert how == signal.SIGKILL or "run the same command again" in said
    first = len(server.seen)
    server.default = lambda n: Step(content=talk(n))
    done = cli(*argv(server, "--json"), env={"OPENAI_API_KEY": KEY})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["conversations"] == 24
    assert 24 - first <= len(server.seen) - first <= 24 - first + 2  # those that were on their way
    assert KEY not in done.stdout + done.stderr + said
    assert server.seen[-1].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("more", "code", "error"),
    [
        (["--offline", "--endpoint", "https://a.b/v1"], 2, "an endpoint and --offline"),
        ([], 2, "neither an endpoint nor --offline"),
        (["--endpoint", "https://a.b/v1"], 2, "which model"),
        (["--endpoint", "https://a.b/v1", "--model", "m", "--max-cost", "1"], 2, "needs prices"),
        (["--endpoint", "a.b", "--model", "m"], 2, "an http or https address"),
        (["--endpoint", "https://a.b/v1", "--model", "m", "--api-key-file", "absent"], 3, "key file cannot be read"),
        (["--offline", "--topic", "absent.toml"], 3, "no topic file"),
    ],
)
def test_a_mistake_is_one_line(cli: Cli, more: list[str], code: int, error: str) -> None:
    done = cli("data", "synth-chats", "--topic", str(EXAMPLE), *more)
    assert done.returncode == code and error in done.stderr.splitlines()[0], done.stderr
