"""The training command on this machine: its ranks, started again when one is lost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from wingspan.launch.cluster import Ranks, ranks_of
from wingspan.launch.node import Place, free_port, ranks_asked_to_leave, run_ranks
from wingspan.launch.restarts import Restarts
from wingspan.project import Layout
from wingspan.workspace import Run


def local_script(ranks: Ranks) -> str:
    """A shell script that trains on this machine, with as many ranks as the layout has."""
    return f"""#!/bin/bash
# Trains {ranks.name} on this machine. Give the same command again after a stop: training goes on.
set -euo pipefail
exec wingspan train "${{1:-{ranks.project}}}"
"""


def planned_ranks(run: Run) -> Ranks:
    """The machines that the run's plan uses; one rank where there is no plan yet."""
    plan = run.stage("plan") / "layout.json"
    layout = Layout.model_validate(json.loads(plan.read_text())["layout"]) if plan.is_file() else Layout()
    return replace(ranks_of(run.project, layout), project=str(run.folder))


def ranks_here(run: Run) -> int:
    """How many ranks this machine starts by itself: those of a layout of one node."""
    ranks = planned_ranks(run)
    return ranks.per_node if ranks.nodes == 1 else 1


def supervise_here(run: Run, stage: str, command: Sequence[str], first: Sequence[str]) -> int:
    """Run a stage's command once per rank until it is done; returns its exit code. `first`: options of the first start.

    Raises WorkError when starting again does not help.
    """
    starts = [[*command, *first]]

    def start() -> int:
        place = Place(nodes=1, per_node=ranks_here(run), node=0, address="127.0.0.1", port=free_port())
        return run_ranks(starts.pop() if starts else command, place, asked)

    asked: list[int] = []
    with ranks_asked_to_leave(asked):
        return Restarts(run, stage).supervise(start, asked)
