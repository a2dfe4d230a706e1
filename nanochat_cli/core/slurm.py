"""What Slurm's environment variables tell a process of a job step: which task of how many it is, and on which hosts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# The steps that Slurm numbers itself (batch script, interactive shell, extern) lie above this: they run one process on
# one node, though their variables describe the whole job.
_LAST_REAL_STEP = 0xFFFFFF00
_BRACKETS = re.compile(r"\[([^][]*)\]")


@dataclass(frozen=True, kw_only=True)
class Step:
    """A process that `srun` started, among all that it started together."""

    task: int
    local_task: int
    num_tasks: int
    node: int
    num_nodes: int
    first_host: str | None
    job: str

    def port(self, first: int) -> int:
        """Return a port from `first` on that is this job's own, as far as its last three digits tell."""
        return first + (int(self.job[-3:]) if self.job.isdigit() else 0)


def current(environ: Mapping[str, str]) -> Step | None:
    """Return the srun step that this process belongs to; None outside, and in a batch script or interactive shell."""
    step = environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID", ""))
    if not step.isdigit() or int(step) >= _LAST_REAL_STEP or "SLURM_PROCID" not in environ:
        return None

    def number(*names: str, default: int) -> int:
        return next((int(environ[name]) for name in names if environ.get(name, "").isdigit()), default)

    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST")
    task = number("SLURM_PROCID", default=0)
    num_nodes = number("SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES", default=1)
    return Step(
        task=task,
        local_task=number("SLURM_LOCALID", default=0),
        num_tasks=number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS", default=num_nodes),
        node=number("SLURM_NODEID", default=0),
        num_nodes=num_nodes,
        first_host=next(hosts(nodes), None) if nodes else None,
        job=environ.get("SLURM_JOB_ID", environ.get("SLURM_JOBID", "")),
    )


def nodes_of_job(environ: Mapping[str, str]) -> int:
    """Return how many nodes the job has that this process runs in, whether or not srun started it; 0 outside of one."""
    told = environ.get("SLURM_JOB_NUM_NODES", environ.get("SLURM_NNODES", ""))
    return int(told) if told.isdigit() else 0


def hosts(nodelist: str) -> Iterator[str]:
    """Yield the hosts of a list in Slurm's notation, in order: `a[08-10,12]-ib,b` is a08-ib a09-ib a10-ib a12-ib b."""
    for entry in _entries(nodelist):
        yield from _expand(entry)


def _entries(nodelist: str) -> Iterator[str]:
    """Yield the parts between the commas that stand outside of brackets."""
    depth, begin = 0, 0
    for i, letter in enumerate(nodelist + ","):
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            if entry := nodelist[begin:i].strip():
                yield entry
            begin = i + 1


def _expand(entry: str) -> Iterator[str]:
    found = _BRACKETS.search(entry)
    if found is None:
        yield entry
        return
    for part in found[1].split(","):
        low, _, high = part.strip().partition("-")
        numbers = range(int(low), int(high or low) + 1) if low.isdigit() else ()
        for label in (f"{n:0{len(low)}d}" for n in numbers):
            yield from _expand(entry[: found.start()] + label + entry[found.end() :])
