"""Starting workers: what they are given, what their end means, and how they are stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from nanochat_cli.core import errors, launch, paths, placement, runs
from nanochat_cli.core.errors import ConfigError, Diverged, EnvironmentLacks, NanochatError
from nanochat_cli.core.settings import BaseTrainConfig, ClusterSection, ComputeSection, SftConfig
from tests.core.test_slurm import BATCH

HEAD = """
import json, os, sys, time
from pathlib import Path
folder = Path(sys.argv[1]).parent
def emit(kind, **fields):
    with (folder / "events.jsonl").open("a") as f:
        f.write(json.dumps({"kind": kind, "time": time.time(), **fields}) + "\\n")
def done(**fields):
    (folder / "result.json").write_text(json.dumps(fields))
"""


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace the worker by a few lines of Python."""

    def use(code: str) -> None:
        argv = [sys.executable, "-c", HEAD + code]
        monkeypatch.setattr(launch, "worker_argv", lambda path, *_: [*argv, str(path)])

    return use


def plan(run: str = "r", **kwargs: Any) -> launch.Plan:
    return launch.plan("base", run, BaseTrainConfig(), command="nanochat train base", **kwargs)


def test_events_and_result_come_back(worker: Any) -> None:
    worker("emit('note', text='hello'); emit('step', step=1, num_steps=1); done(loss=1.5)")
    seen: list[Any] = []
    assert launch.run(plan(), seen.append) == {"loss": 1.5}
    assert [e["kind"] for e in seen] == ["note", "step"]
    saved = json.loads((runs.stage_dir("r", "base") / "config.json").read_text())
    assert saved["config"]["model"]["depth"] == 4
    assert launch.saved_config("base", "r") == BaseTrainConfig()


def test_the_first_failing_rank_is_the_cause(worker: Any) -> None:
    worker(
        "for rank, kind, at in ((1, 'NanochatError', 9.0), (0, 'Diverged', 5.0)):\n"
        "    record = {'time': at, 'rank': rank, 'type': kind, 'message': f'from {rank}', 'hint': 'try this'}\n"
        "    (folder / f'error-rank{rank}.json').write_text(json.dumps(record))\n"
        "sys.exit(5)"
    )
    with pytest.raises(Diverged, match="from 0") as caught:
        launch.run(plan(), lambda _: None)
    assert caught.value.hint == "try this"


def test_a_bug_and_a_silent_end_have_the_bug_code(worker: Any) -> None:
    worker("sys.exit(3)")
    with pytest.raises(NanochatError, match="exit code 3") as caught:
        launch.run(plan(), lambda _: None)
    assert caught.value.exit_code == errors.EXIT_BUG


def test_a_disk_too_full_for_a_report_is_the_cause(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker("sys.exit(1)")
    monkeypatch.setattr(launch.files, "free_space", lambda path: 0)
    with pytest.raises(NanochatError, match="the disk is full") as caught:
        launch.run(plan(), lambda _: None)
    assert caught.value.exit_code == 1
    assert caught.value.hint == "free some space, then: nanochat train base"


def test_a_killed_worker_is_named(worker: Any) -> None:
    worker("os.kill(os.getpid(), 9)")
    with pytest.raises(NanochatError, match="ended by SIGKILL"):
        launch.run(plan(), lambda _: None)


WAIT_FOR_STOP = """
emit('note', text='ready')
for _ in range(400):
    if (folder / 'stop').exists():
        emit('stopped', step=7)
        sys.exit(0)
    time.sleep(0.02)
"""


def test_ctrl_c_asks_the_worker_to_stop_and_save(worker: Any) -> None:
    worker(WAIT_FOR_STOP)
    told: list[str] = []

    def on_event(event: dict[str, Any]) -> None:
        told.append(event.get("text", event["kind"]))
        if event.get("text") == "ready":
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    assert launch.run(plan(), on_event) == {"stopped": 7, "asked_to_stop": True}
    assert any("press Ctrl-C again" in text for text in told)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_leaves_at_once(worker: Any) -> None:
    worker("emit('note', text='ready'); time.sleep(60)")

    def on_event(event: dict[str, Any]) -> None:
        if event.get("text") == "ready" or "stopping" in event.get("text", ""):
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    began = time.monotonic()
    with pytest.raises(launch.Interrupted) as caught:
        launch.run(plan(), on_event)
    assert time.monotonic() - began < 20
    assert caught.value.exit_code == 130


def test_a_meeting_point_that_does_not_exist_is_named_at_once() -> None:
    with pytest.raises(EnvironmentLacks, match=r"no such host: nowhere\.invalid"):
        launch._check_meeting_point("nowhere.invalid:29500")


def test_an_existing_stage_is_never_overwritten(worker: Any) -> None:
    worker("done(loss=1.0)")
    launch.run(plan(), lambda _: None)
    with pytest.raises(ConfigError, match="stage base of run r is finished") as caught:
        plan()
    assert caught.value.hint == "choose a new name with --run"
    assert plan(resume=True).resume


def test_a_finished_stage_can_be_trained_anew_into_another_run(worker: Any) -> None:
    worker("done(loss=1.0)")
    launch.run(launch.plan("sft", "r", SftConfig(), command="nanochat train sft"), lambda _: None)
    with pytest.raises(ConfigError, match="stage sft of run r is finished") as caught:
        launch.plan("sft", "r", SftConfig())
    assert "another run with --into NAME" in (caught.value.hint or "")
    assert "new name" not in (caught.value.hint or "")


def test_a_second_command_leaves_a_running_stage_alone(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker(WAIT_FOR_STOP)
    lock = runs.lock
    monkeypatch.setattr(runs, "lock", lambda folder, **more: lock(folder, wait_s=0.2, **more))
    folder = runs.stage_dir("r", "base")
    refused: list[str] = []

    def on_event(event: dict[str, Any]) -> None:
        if event.get("text") != "ready":
            return
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        try:
            launch.run(launch.plan("base", "r", BaseTrainConfig(), command="another command"), lambda _: None)
        except NanochatError as problem:
            refused.append(str(problem))
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert runs.is_held(folder)
        (folder / "stop").touch()

    assert launch.run(plan(), on_event)["stopped"] == 7
    assert len(refused) == 1
    assert "another process is working in" in refused[0]
    assert not runs.is_held(folder)


def test_a_worker_holds_the_folder_after_its_command_was_killed(tmp_path: Path) -> None:
    with runs.lock(tmp_path) as held:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(held,))
    assert runs.is_held(tmp_path)
    child.communicate(b"\n", timeout=20)
    assert not runs.is_held(tmp_path)


def test_one_process_is_plain_python_and_several_are_torchrun() -> None:
    path = Path("c.json")
    assert launch.worker_argv(path, 1) == [sys.executable, "-m", "nanochat_cli.worker", "c.json"]
    many = launch.worker_argv(path, 3)
    assert many[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert "--nproc-per-node=3" in many


def test_threads_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.machine, "physical_cores", lambda: 8)
    compute = BaseTrainConfig().compute
    assert launch.worker_env(compute, 1)["OMP_NUM_THREADS"] == "8"
    assert launch.worker_env(compute, 3)["OMP_NUM_THREADS"] == "2"


NODE = placement.Place(nnodes=2, node_rank=1, endpoint="first:29500")
RANK = placement.Place(
    rank=placement.Rank(rank=3, local_rank=3, world=4, local_world=4, host="first", port=29500, by="srun")
)


def test_nodes_are_torchrun_with_fixed_numbers_and_a_rank_is_plain_python() -> None:
    argv = launch.worker_argv(Path("c.json"), 1, NODE, "r-base")
    assert argv[1:3] == ["-m", "torch.distributed.run"]
    assert argv[3:9] == [
        "--nnodes=2",
        "--node-rank=1",
        "--rdzv-backend=static",
        "--rdzv-endpoint=first:29500",
        "--rdzv-id=r-base",
        "--nproc-per-node=1",
    ]
    assert launch.worker_argv(Path("c.json"), 1, RANK) == [sys.executable, "-m", "nanochat_cli.worker", "c.json"]


def test_a_rank_is_told_its_number_and_no_other_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.machine, "physical_cores", lambda: 8)
    monkeypatch.setattr(launch.machine, "usable_cores", lambda: 8)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setenv("RANK", "7")
    compute = ComputeSection(gpus=0)
    env = launch.worker_env(compute, 1, "base", RANK)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    assert [env[name] for name in names] == ["3", "3", "4", "4", "first", "29500"]
    assert env["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "5")
    assert launch.worker_env(compute, 1, "base", RANK)["OMP_NUM_THREADS"] == "5"
    monkeypatch.setattr(launch.machine, "usable_cores", lambda: 16)  # Slurm counts hardware threads
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    assert launch.worker_env(compute, 1, "base", RANK)["OMP_NUM_THREADS"] == "3"
    assert "RANK" not in launch.worker_env(compute, 1)


def test_gloo_keeps_to_the_machine_only_if_all_processes_are_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    compute = ComputeSection(gpus=0)
    home = dataclasses.replace(NODE, endpoint="127.0.0.1:7")
    has = [
        "GLOO_SOCKET_IFNAME" in launch.worker_env(compute, procs, "base", place)
        for procs, place in ((1, placement.ALONE), (2, placement.ALONE), (1, RANK), (2, NODE), (1, home))
    ]
    assert has == [False, True, True, False, True]


def test_gpu_memory_may_grow_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    name = "PYTORCH_CUDA_ALLOC_CONF"
    assert launch.worker_env(ComputeSection(gpus=2), 2)[name] == "expandable_segments:True"
    assert name not in launch.worker_env(ComputeSection(gpus=0), 2)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    assert name not in launch.worker_env(ComputeSection(gpus=2), 2)


def test_a_command_that_does_not_lead_leaves_the_folder_to_the_one_that_does(worker: Any) -> None:
    folder = runs.stage_dir("r", "base")
    folder.mkdir(parents=True)
    for name in ("config.json", "events.jsonl", "stop", "error-rank0.json"):
        (folder / name).write_text("{}")
    worker("assert Path(sys.argv[1]).name == 'config-node1.json'; emit('note', text='of the leader')")
    cluster = ClusterSection(nnodes=2, node_rank=1, rdzv_endpoint="localhost")
    job = launch.plan("base", "r", BaseTrainConfig(cluster=cluster), command="nanochat train base")
    seen: list[Any] = []
    with runs.lock(folder):
        assert launch.run(job, seen.append) == {}
    assert [event["text"] for event in seen] == [
        "node 1 of 2, meeting the others at localhost:29500; the first node shows how it goes"
    ]
    left = {path.name for path in folder.iterdir()}
    assert left == {"config.json", "events.jsonl", "stop", "error-rank0.json", "lock", "worker-node1.log"}
    assert not (paths.run_dir("r") / "run.json").exists()
    launch.run(job, seen.append)
    assert not {"stop", "error-rank0.json"} & {path.name for path in folder.iterdir()}, "nobody leads in this folder"


def test_a_batch_script_is_told_how_to_use_all_its_nodes(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker("done(loss=1.0)")
    for name, value in BATCH.items():
        monkeypatch.setenv(name, value)
    seen: list[Any] = []
    launch.run(plan(), seen.append)
    assert "using one of the 4 nodes of this Slurm job" in seen[0]["text"]
    assert "srun nanochat train base" in seen[0]["text"]


def test_the_first_own_fault_is_the_cause_and_not_a_lost_peer(worker: Any) -> None:
    worker(
        "for rank, kind, at in ((0, 'bug', 5.0), (1, 'Diverged', 9.0)):\n"
        "    record = {'time': at, 'rank': rank, 'type': kind, 'message': f'from {rank}', 'hint': None,\n"
        "              'lost_peer': rank == 0}\n"
        "    (folder / f'error-rank{rank}.json').write_text(json.dumps(record))\n"
        "sys.exit(5)"
    )
    with pytest.raises(Diverged, match="from 1"):
        launch.run(plan(), lambda _: None)
