"""Where a command stands among those that train together, told by its options, torchrun or Slurm.

Three ways lead to several processes:

- One command, which starts all of them: `--gpus 8`, `--procs 2`.
- One command per machine, each of which starts its machine's processes: `--nnodes 2 --node-rank 0|1 --rdzv-endpoint
  HOST:PORT`, or `srun` with one task per node.
- One command per process, because the user's own torchrun or srun started them all: each command then starts just the
  one worker of its rank.

In the last two ways several commands work on one stage, and one of them leads: the first machine's, or that of rank 0.
It alone prepares the run folder, holds its lock, follows the events and writes the history. The others settle the same
options from the same command line and write them beside the leader's under names of their own (`config-node1.json`,
`worker-node1.log`), each just before it starts its workers. So nobody waits for a file of somebody else, none can be of
an earlier attempt, and it does not matter whether the machines share the folder; the workers compare what they were
given once they have met (`worker._check_same`). Only a resume needs the checkpoints on every machine.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from nanochat_cli.core import machine, slurm
from nanochat_cli.core.errors import ConfigError, EnvironmentLacks
from nanochat_cli.core.settings import ClusterSection, ComputeSection

C = TypeVar("C")
PORT = 29500
"""Where processes meet if nothing else is said; torchrun's own default."""


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One process among all, as a launcher has numbered it."""

    rank: int
    local_rank: int
    world: int
    local_world: int
    host: str
    port: int
    by: str


@dataclass(frozen=True, kw_only=True)
class Place:
    """One command among those that train together. `rank` is set if each of them stands for one process."""

    nnodes: int = 1
    node_rank: int = 0
    endpoint: str | None = None
    rank: Rank | None = None

    @property
    def leads(self) -> bool:
        """Whether this command prepares the folder and reports for all."""
        return self.node_rank == 0 if self.rank is None else self.rank.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other command."""
        return self.nnodes == 1 and (self.rank is None or self.rank.world == 1)

    @property
    def suffix(self) -> str:
        """What the names of this command's own files end with."""
        if self.leads:
            return ""
        return f"-node{self.node_rank}" if self.rank is None else f"-rank{self.rank.rank}"


ALONE = Place()
"""The place of a command that starts all processes itself."""


def find(cluster: ClusterSection | None = None, environ: Mapping[str, str] = os.environ) -> Place:
    """Return this command's place. What is given wins over Slurm; a launcher that has numbered us wins over both.

    Raises ConfigError for options that contradict each other or the launcher, or that lack one another.
    """
    given = cluster or ClusterSection()
    step = slurm.current(environ)
    rank = _from_torchrun(environ) or (_from_srun(step, given, environ) if step else None)
    if rank is not None:
        nnodes = rank.world // rank.local_world
        if given.nnodes not in (None, nnodes):
            raise ConfigError(
                f"{rank.by} started {rank.world} processes on {nnodes} nodes, so nnodes cannot be: {given.nnodes}",
                hint="leave out --nnodes, --node-rank and --rdzv-endpoint",
            )
        return Place(nnodes=nnodes, node_rank=rank.rank // rank.local_world, rank=rank)
    nnodes, node_rank, endpoint = given.nnodes, given.node_rank, given.rdzv_endpoint
    if step is not None and nnodes in (None, step.num_nodes):
        nnodes = step.num_nodes
        node_rank = step.node if node_rank is None else node_rank
        endpoint = endpoint or (f"{step.first_host}:{step.port(PORT)}" if step.first_host else None)
    return _of_nodes(nnodes, node_rank, endpoint)


def _of_nodes(nnodes: int | None, node_rank: int | None, endpoint: str | None) -> Place:
    if nnodes is None or nnodes == 1:
        if node_rank or (nnodes is None and endpoint is not None):
            stray = "node_rank" if node_rank else "rdzv_endpoint"
            value = node_rank or endpoint
            raise ConfigError(f"{stray} is for several nodes, but there is one: {value}", hint="add --nnodes N")
        return ALONE
    for name, value in (("node_rank", node_rank), ("rdzv_endpoint", endpoint)):
        if value is None:
            hint = "--node-rank 0 on the first machine, 1 on the second, and --rdzv-endpoint FIRST-MACHINE:29500 on all"
            raise ConfigError(f"several nodes need {name}: --nnodes {nnodes}", hint=hint)
    assert node_rank is not None and endpoint is not None
    if node_rank >= nnodes:
        raise ConfigError(f"node_rank must be below nnodes, which is {nnodes}: {node_rank}", hint="nodes count from 0")
    host, port = host_and_port(endpoint)
    shown = f"[{host}]" if ":" in host else host
    return Place(nnodes=nnodes, node_rank=node_rank, endpoint=f"{shown}:{port}")


def host_and_port(endpoint: str) -> tuple[str, int]:
    """Return host and port of `HOST[:PORT]`, `[IPv6]:PORT` included. Raises ConfigError for anything else."""
    host, colon, port = endpoint.rpartition(":")
    if not colon or endpoint.endswith("]") or (":" in host and not host.startswith("[")):
        host, port = endpoint, str(PORT)
    bare = host.removeprefix("[").removesuffix("]")
    if not bare or not port.isdecimal() or not 0 < int(port) < 1 << 16 or any(c in bare for c in "/ @"):
        raise ConfigError(
            f"rdzv_endpoint must be HOST:PORT: {endpoint}", hint="for example --rdzv-endpoint node0:29500"
        )
    return bare, int(port)


def _from_torchrun(environ: Mapping[str, str]) -> Rank | None:
    """Return the rank that torchrun has given this process; None if it has not."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    if not all(environ.get(name, "").isdigit() for name in names):
        return None
    rank, local, world = (int(environ[name]) for name in names)
    told = environ.get("LOCAL_WORLD_SIZE", "")
    return _even(
        Rank(
            rank=rank,
            local_rank=local,
            world=world,
            local_world=int(told) if told.isdigit() else world,
            host=environ.get("MASTER_ADDR", "localhost"),
            port=int(environ.get("MASTER_PORT", PORT)),
            by="torchrun",
        )
    )


def _from_srun(step: slurm.Step, given: ClusterSection, environ: Mapping[str, str]) -> Rank | None:
    """Return the rank of a process of which srun started several on each node; None if it started one."""
    if step.num_tasks <= step.num_nodes:
        return None
    host, port = environ.get("MASTER_ADDR") or step.first_host, int(environ.get("MASTER_PORT", step.port(PORT)))
    if given.rdzv_endpoint is not None:
        host, port = host_and_port(given.rdzv_endpoint)
    if host is None:
        raise ConfigError("srun does not tell on which host its first process is", hint="--rdzv-endpoint HOST:PORT")
    if step.num_tasks % step.num_nodes:
        raise _uneven("srun", step.num_tasks, step.num_nodes)
    return _even(
        Rank(
            rank=step.task,
            local_rank=step.local_task,
            world=step.num_tasks,
            local_world=step.num_tasks // step.num_nodes,
            host=host,
            port=port,
            by="srun",
        )
    )


def _even(rank: Rank) -> Rank:
    """Return the rank, if each node has as many and they are numbered node by node. Raises ConfigError otherwise."""
    if rank.world % rank.local_world:
        raise _uneven(rank.by, rank.world, -(-rank.world // rank.local_world))
    if rank.rank % rank.local_world != rank.local_rank:
        raise ConfigError(
            f"the processes are not numbered node by node: rank {rank.rank} is number {rank.local_rank} of its node",
            hint="srun --distribution=block" if rank.by == "srun" else None,
        )
    return rank


def _uneven(by: str, world: int, nodes: int) -> ConfigError:
    return ConfigError(
        f"every node needs as many processes as the others; {by} started: {world} on {nodes} nodes",
        hint="srun --ntasks-per-node=N" if by == "srun" else "torchrun --nproc-per-node=N on each node",
    )


# ---- settling --------------------------------------------------------------------------------------------------------


def settle(cfg: C) -> C:
    """Return a stage's config with processes, GPUs and nodes as numbers.

    Raises ConfigError for options that contradict each other, and EnvironmentLacks for GPUs that are not there.
    """
    place = find(getattr(cfg, "cluster", None))
    compute = cfg.compute  # type: ignore[attr-defined]
    changed: dict[str, Any] = {"compute": _ranked(compute, place.rank) if place.rank else _counted(compute)}
    if hasattr(cfg, "cluster"):
        cluster = ClusterSection(nnodes=place.nnodes, node_rank=place.node_rank, rdzv_endpoint=place.endpoint)
        changed["cluster"] = cluster
    return dataclasses.replace(cfg, **changed)  # type: ignore[type-var]


def num_gpus(compute: ComputeSection) -> int:
    """Return the GPUs to use: as given, all for "auto", else one if there is one and no CPU processes are asked for."""
    if compute.gpus == "auto":
        return machine.count_gpus()
    return compute.gpus if compute.gpus is not None else int(compute.procs == 1 and machine.count_gpus() > 0)


def world(cfg: Any) -> int:
    """Return the processes of a settled config over all nodes."""
    cluster = getattr(cfg, "cluster", None)
    return ((cluster.nnodes or 1) if cluster else 1) * (num_gpus(cfg.compute) or cfg.compute.procs)


def _counted(compute: ComputeSection) -> ComputeSection:
    wanted = num_gpus(compute)
    if wanted > (found := machine.count_gpus()):
        raise _too_many(wanted, found, "--gpus auto uses all there are, --gpus 0 the CPU")
    return dataclasses.replace(compute, gpus=wanted)


def _ranked(compute: ComputeSection, rank: Rank) -> ComputeSection:
    """Return the section for one of several processes that a launcher has started: it decides how many there are."""
    here, found = rank.local_world, machine.count_gpus()
    use = found > 0 and compute.procs == 1 if compute.gpus is None else found > 0 if compute.gpus == "auto" else None
    if use is None:
        use = compute.gpus != 0
        if compute.gpus not in (0, here):
            raise _other_number(rank, "gpus", compute.gpus)
    if not use and compute.procs not in (1, here):
        raise _other_number(rank, "procs", compute.procs)
    if use and here > found and not is_bound(rank):
        raise _too_many(here, found, f"let {rank.by} start as many processes as there are GPUs, or add --gpus 0")
    return dataclasses.replace(compute, gpus=here if use else 0, procs=1 if use else here)


def is_bound(rank: Rank) -> bool:
    """Whether srun shows each of its processes one GPU of its own (`--gpus-per-task=1`)."""
    return rank.by == "srun" and machine.count_gpus() == 1 and "CUDA_VISIBLE_DEVICES" in os.environ


def _too_many(wanted: int, found: int, hint: str) -> EnvironmentLacks:
    there = "there is no GPU" if not found else f"there {'is' if found == 1 else 'are'} {found}"
    return EnvironmentLacks(f"more GPUs than this machine has, {there}: {wanted}", hint=hint)


def _other_number(rank: Rank, key: str, value: Any) -> ConfigError:
    return ConfigError(
        f"{rank.by} started {rank.local_world} processes on this machine, so {key} cannot be: {value}",
        hint=f"leave out --{key}, or let {rank.by} start as many",
    )
