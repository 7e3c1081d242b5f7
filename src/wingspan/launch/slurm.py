"""The training job for Slurm: health check, rendezvous, automatic requeue."""

from __future__ import annotations

from wingspan.launch.cluster import MAX_RESTARTS, RENDEZVOUS_PORT, Ranks, dns_name

_MAX_REQUEUES = 100  # a fleet of 10,000 devices breaks a few times a day; a job that always fails must end


def sbatch_script(ranks: Ranks) -> str:
    """A batch script for `sbatch`; every node runs one torchrun that starts its ranks.

    When a node fails its check (WINGSPAN_NODE_CHECK, any command), or training stops, the job goes back
    into the queue and resumes from its last checkpoint on the nodes it is given then.
    """
    return f"""#!/bin/bash
#SBATCH --job-name={dns_name(ranks.name)}
#SBATCH --nodes={ranks.nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={ranks.per_node}
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

# Trains {ranks.name} on {ranks.nodes * ranks.per_node} x {ranks.device}. The project folder must lie on storage
# that all nodes share. Submit it from there: sbatch {ranks.project}/plan/launch/train.sbatch
set -euo pipefail

project="${{1:-{ranks.project}}}"
restarts="${{SLURM_RESTART_COUNT:-0}}"
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

back_to_queue() {{
  if (( restarts < {_MAX_REQUEUES} )); then
    echo "restart $restarts: $1; back to the queue"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
  fi
  echo "restart $restarts: $1; given up"
  exit 1
}}

# Every node must show all its devices before the job takes hours of the others.
# WINGSPAN_NODE_CHECK may name a longer check, such as a burn-in or a network test.
export WINGSPAN_NODE_CHECK="${{WINGSPAN_NODE_CHECK:-test \\$(nvidia-smi --list-gpus | wc -l) -eq {ranks.per_node}}}"
srun --kill-on-bad-exit=0 bash -c '
  eval "$WINGSPAN_NODE_CHECK" && exit 0
  echo "$(hostname) failed its health check"
  exit 1
' || back_to_queue "a node failed its health check"

srun --kill-on-bad-exit=1 torchrun \\
  --nnodes="$SLURM_JOB_NUM_NODES" \\
  --nproc-per-node={ranks.per_node} \\
  --rdzv-id="$SLURM_JOB_ID-$restarts" \\
  --rdzv-backend=c10d \\
  --rdzv-endpoint="$head_node:{RENDEZVOUS_PORT}" \\
  --max-restarts={MAX_RESTARTS} \\
  -m wingspan train "$project" || back_to_queue "training stopped"
"""
