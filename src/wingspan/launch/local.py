"""The training command on this machine."""

from __future__ import annotations

from wingspan.launch.cluster import Ranks


def local_script(ranks: Ranks) -> str:
    """A shell script that trains on this machine: one process, or one per device through torchrun."""
    start = (
        "wingspan" if ranks.per_node == 1 else f"torchrun --standalone --nproc-per-node {ranks.per_node} -m wingspan"
    )
    return f"""#!/bin/bash
# Trains {ranks.name} on this machine. Give the same command again after a stop: training goes on.
set -euo pipefail
exec {start} train "${{1:-{ranks.project}}}"
"""
