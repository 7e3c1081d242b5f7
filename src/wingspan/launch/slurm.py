"""The training job for Slurm: nodes checked, ranks started again without a lost node, the job requeued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from wingspan.errors import LEFT
from wingspan.launch.blame import take_blames
from wingspan.launch.cluster import Ranks, dns_name
from wingspan.launch.local import planned_ranks
from wingspan.launch.node import free_port, ranks_asked_to_leave, wait_for
from wingspan.launch.restarts import Restarts
from wingspan.workspace import Run, lock

_SAVE_S = 300  # before the time limit: a step, and a checkpoint


def sbatch_script(ranks: Ranks) -> str:
    """A batch script for `sbatch`; `wingspan launch job` on the first node starts one launcher per node."""
    devices = "" if ranks.device == "this-machine" else f"#SBATCH --gpus-per-node={ranks.per_node}\n"
    return f"""#!/bin/bash
#SBATCH --job-name={dns_name(ranks.name)}
#SBATCH --nodes={ranks.nodes}
#SBATCH --ntasks-per-node=1
{devices}#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=B:USR1@{_SAVE_S}
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

# Trains {ranks.name} on {ranks.nodes * ranks.per_node} x {ranks.device}. The project folder must lie on storage
# that all nodes share. Submit it from there: sbatch {ranks.project}/plan/launch/train.sbatch
# With more nodes than needed (sbatch --nodes={ranks.nodes + 1} ...) the others stand in for nodes that fail.
exec wingspan launch job "${{1:-{ranks.project}}}"
"""


def supervise_job(run: Run) -> int:
    """Inside a batch job: check the nodes, train until it is done; returns an exit code.

    The job goes back to the queue when its time is nearly up, or too few of its nodes are well.
    Raises WorkError when starting again does not help.
    """
    ranks = planned_ranks(run)
    restarts = Restarts(run, "train", goes_on="SLURM_RESTART_COUNT" in os.environ)
    asked: list[int] = []

    def start() -> int:
        nodes = [one for one in _job_nodes() if one not in restarts.excluded()][: ranks.nodes]
        if len(nodes) < ranks.nodes:
            return LEFT
        os.environ |= {"MASTER_ADDR": _address(nodes[0]), "MASTER_PORT": str(free_port())}
        code = _srun(nodes, "node", run, asked, "--kill-on-bad-exit=1")
        return LEFT if code == 0 and (run.folder / ".train.partial").exists() else code

    with lock(run, "wingspan launch job"), ranks_asked_to_leave(asked):
        _srun(_job_nodes(), "check", run, asked)
        if wrong := take_blames(restarts.blames):
            restarts.note(wrong)
        code = restarts.supervise(start, asked)
    if code != LEFT or signal.SIGTERM in asked:
        return code
    for node in restarts.excluded():  # only an operator may: for others the job itself leaves the node out
        _ask("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=wingspan: blamed for stops")
    return subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]]).returncode


def _srun(nodes: Sequence[str], verb: str, run: Run, asked: list[int], *options: str) -> int:
    """Run `wingspan launch VERB` once on each node; the largest of their exit codes."""
    where = [f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}", "--ntasks-per-node=1", f"--nodelist={','.join(nodes)}"]
    command = ["srun", *where, *options, sys.executable, "-m", "wingspan", "launch", verb, str(run.folder)]
    # SIGUSR1 is handed on to the launchers; on a SIGTERM srun would kill them.
    return wait_for([subprocess.Popen(command)], asked, lambda *_: None, signal.SIGUSR1)[0]


def _job_nodes() -> list[str]:
    return _ask("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()


def _address(node: str) -> str:
    """Where a node answers, which need not be its name."""
    facts = dict(fact.split("=", 1) for fact in _ask("scontrol", "show", "node", node).split() if "=" in fact)
    return facts.get("NodeAddr", node)


def _ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout
