"""Where a command stands: alone, one of several nodes, or one rank that torchrun or srun has started."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from nanochat_cli.core import machine, placement
from nanochat_cli.core.errors import ConfigError, EnvironmentLacks
from nanochat_cli.core.placement import Place, find
from nanochat_cli.core.settings import BaseTrainConfig, ClusterSection, ComputeSection, EvalConfig
from tests.core.test_slurm import BATCH, STEP

RANK = {
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "h",
    "MASTER_PORT": "7",
}
NODES = ClusterSection(nnodes=2, node_rank=1, rdzv_endpoint="first")
PER_NODE = {**STEP, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set how many GPUs the machine has, and what a launcher says; nothing at first."""
    for name in (*RANK, "CUDA_VISIBLE_DEVICES", *STEP):
        monkeypatch.delenv(name, raising=False)

    def use(count: int, **environ: str) -> None:
        monkeypatch.setattr(machine, "count_gpus", lambda: count)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)

    return use


def base(compute: ComputeSection, cluster: ClusterSection | None = None) -> BaseTrainConfig:
    return BaseTrainConfig(compute=compute, cluster=cluster or ClusterSection())


def test_without_a_word_a_command_is_alone_and_leads() -> None:
    assert find(None, {}) == Place() == find(ClusterSection(nnodes=1, node_rank=0), {})
    assert (Place().leads, Place().alone, Place().suffix) == (True, True, "")
    assert find(None, BATCH) == Place(), "a batch script runs on one node"


def test_nodes_by_options() -> None:
    place = find(NODES, {})
    assert (place.nnodes, place.node_rank, place.endpoint) == (2, 1, "first:29500")
    assert (place.leads, place.alone, place.suffix) == (False, False, "-node1")
    assert find(dataclasses.replace(NODES, node_rank=0), {}).leads


def test_nodes_by_srun_and_what_is_given_wins() -> None:
    place = find(None, PER_NODE)
    assert (place.nnodes, place.node_rank, place.endpoint, place.rank) == (2, 1, "gpu5:29507", None)
    assert find(ClusterSection(rdzv_endpoint="x:1"), PER_NODE).endpoint == "x:1"
    assert find(ClusterSection(nnodes=1), PER_NODE).alone


def test_a_rank_of_torchrun_stays_one() -> None:
    place = find(None, RANK)
    assert place.rank is not None
    assert (place.rank.rank, place.rank.world, place.rank.host, place.rank.port) == (5, 8, "h", 7)
    assert (place.nnodes, place.node_rank, place.leads, place.suffix) == (2, 1, False, "-rank5")
    assert find(None, {**RANK, "RANK": "0", "LOCAL_RANK": "0"}).leads
    assert find(None, {k: v for k, v in RANK.items() if k != "LOCAL_RANK"}) == Place(), "a pod's RANK counts nodes"


def test_a_rank_of_srun() -> None:
    rank = find(None, STEP).rank
    assert rank is not None
    assert (rank.rank, rank.local_rank, rank.world, rank.local_world) == (6, 2, 8, 4)
    assert (rank.host, rank.port, rank.by) == ("gpu5", 29507, "srun")
    other = find(None, {**STEP, "MASTER_ADDR": "m", "MASTER_PORT": "9"}).rank
    assert other is not None and (other.host, other.port) == ("m", 9)


@pytest.mark.parametrize(
    ("cluster", "environ", "message"),
    [
        (ClusterSection(nnodes=2), {}, "several nodes need node_rank: --nnodes 2"),
        (ClusterSection(nnodes=2, node_rank=0), {}, "several nodes need rdzv_endpoint: --nnodes 2"),
        (ClusterSection(nnodes=2, node_rank=2, rdzv_endpoint="a"), {}, "node_rank must be below nnodes, which is 2: 2"),
        (ClusterSection(node_rank=1), {}, "node_rank is for several nodes, but there is one: 1"),
        (ClusterSection(rdzv_endpoint="a:1"), {}, "rdzv_endpoint is for several nodes, but there is one: a:1"),
        (NODES, {**RANK, "LOCAL_WORLD_SIZE": "8", "LOCAL_RANK": "5"}, "8 processes on 1 nodes, so nnodes cannot be: 2"),
        (None, {**STEP, "SLURM_STEP_NUM_TASKS": "7"}, "srun started: 7 on 2 nodes"),
        (None, {**STEP, "SLURM_LOCALID": "3"}, "not numbered node by node: rank 6 is number 3"),
    ],
)
def test_what_cannot_be(cluster: ClusterSection | None, environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find(cluster, environ)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ("a", 29500)),
        ("a:7", ("a", 7)),
        ("[::1]:7", ("::1", 7)),
        ("::1", ("::1", 29500)),
        ("[::1]", ("::1", 29500)),
    ],
)
def test_meeting_points(text: str, parts: tuple[str, int]) -> None:
    assert placement.host_and_port(text) == parts


@pytest.mark.parametrize("text", [":7", "a:0", "a:70000", "a:x", "tcp://a:7", ""])
def test_no_meeting_points(text: str) -> None:
    with pytest.raises(ConfigError, match="rdzv_endpoint must be HOST:PORT"):
        placement.host_and_port(text)


@pytest.mark.parametrize(
    ("asked", "there", "used"),
    [(None, 0, 0), (None, 8, 1), ("auto", 0, 0), ("auto", 8, 8), (0, 0, 0), (0, 8, 0), (3, 8, 3)],
)
def test_gpus_become_a_number(gpus: Any, asked: Any, there: int, used: int) -> None:
    gpus(there)
    settled = placement.settle(base(ComputeSection(gpus=asked)))
    assert settled.compute.gpus == used
    assert settled.cluster.nnodes == 1
    assert placement.settle(settled) == settled
    assert placement.settle(EvalConfig(compute=ComputeSection(gpus=asked))).compute.gpus == used


@pytest.mark.parametrize(("there", "words"), [(0, "there is no GPU: 4"), (1, "there is 1: 4"), (2, "there are 2: 4")])
def test_more_gpus_than_there_are(gpus: Any, there: int, words: str) -> None:
    gpus(there)
    with pytest.raises(EnvironmentLacks) as caught:
        placement.settle(base(ComputeSection(gpus=4)))
    assert str(caught.value) == f"more GPUs than this machine has, {words}"
    assert caught.value.exit_code == 4
    assert "--gpus 0" in (caught.value.hint or "")


def test_processes_of_all_nodes_are_counted(gpus: Any) -> None:
    gpus(8)
    cluster = ClusterSection(nnodes=3, node_rank=2, rdzv_endpoint="a:1")
    assert placement.world(placement.settle(base(ComputeSection(gpus="auto"), cluster))) == 24
    assert placement.world(placement.settle(base(ComputeSection(gpus=0, procs=2), cluster))) == 6
    assert placement.world(placement.settle(base(ComputeSection(gpus=0)))) == 1


def test_a_launcher_decides_how_many_there_are(gpus: Any) -> None:
    gpus(0, **RANK)
    settled = placement.settle(base(ComputeSection()))
    assert (settled.compute.gpus, settled.compute.procs, placement.world(settled)) == (0, 4, 8)
    assert placement.settle(settled) == settled
    gpus(4)
    settled = placement.settle(base(ComputeSection(gpus=4)))
    assert (settled.compute.gpus, placement.world(settled)) == (4, 8)
    for bad in (ComputeSection(gpus=8), ComputeSection(gpus=0, procs=3)):
        with pytest.raises(ConfigError, match="torchrun started 4 processes on this machine"):
            placement.settle(base(bad))
    gpus(2)
    with pytest.raises(EnvironmentLacks, match="there are 2: 4"):
        placement.settle(base(ComputeSection()))


def test_srun_may_show_each_process_one_gpu_only(gpus: Any) -> None:
    gpus(1, **STEP, CUDA_VISIBLE_DEVICES="0")
    assert placement.settle(base(ComputeSection())).compute.gpus == 4
