"""Slurm's variables: lists of hosts, and whether srun started this process or only a batch script did."""

from __future__ import annotations

import pytest

from nanochat_cli.core import slurm

BATCH = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NUM_NODES": "4",
    "SLURM_NNODES": "4",
    "SLURM_NTASKS": "8",
    "SLURM_JOB_NODELIST": "gpu[3-6]",
    "SLURM_PROCID": "0",
    "SLURM_NODEID": "0",
    "SLURM_LOCALID": "0",
}
STEP = {
    **BATCH,
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[5-6]",
    "SLURM_PROCID": "6",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "2",
}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node7", ["node7"]),
        ("node[003-005,9]", ["node003", "node004", "node005", "node9"]),
        ("a,b[1-2],c", ["a", "b1", "b2", "c"]),
        ("rack[0-1]-n[09-10].site", ["rack0-n09.site", "rack0-n10.site", "rack1-n09.site", "rack1-n10.site"]),
        ("gnode[10,20,25,37]", ["gnode10", "gnode20", "gnode25", "gnode37"]),
        ("n[099-101]", ["n099", "n100", "n101"]),
        ("", []),
    ],
)
def test_a_list_of_hosts_is_written_out(text: str, names: list[str]) -> None:
    assert list(slurm.hosts(text)) == names


def test_a_step_tells_its_task_and_its_own_nodes_not_those_of_the_job() -> None:
    step = slurm.current(STEP)
    assert step is not None
    assert (step.task, step.local_task, step.num_tasks, step.node, step.num_nodes) == (6, 2, 8, 1, 2)
    assert (step.first_host, step.job) == ("gpu5", "7")


@pytest.mark.parametrize("step", [None, "4294967290", "4294967291"], ids=["batch", "interactive", "batch as a step"])
def test_a_batch_script_is_one_process_though_its_variables_speak_of_many(step: str | None) -> None:
    environ = BATCH if step is None else {**BATCH, "SLURM_STEP_ID": step}
    assert slurm.current(environ) is None
    assert slurm.nodes_of_job(environ) == 4
    assert slurm.current({}) is None
    assert slurm.nodes_of_job({}) == 0
