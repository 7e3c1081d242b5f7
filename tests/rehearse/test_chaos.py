"""A real small training, really broken: no fault changes a loss, and each is noticed and named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wingspan.errors import InputError
from wingspan.model.shape import ModelShape, shape_of
from wingspan.progress import SilentProgress
from wingspan.project import Layout, Project
from wingspan.project_file import load_project
from wingspan.rehearse.chaos import FAULTS, rehearse_chaos, small
from wingspan.rehearse.chaos_trial import link, network_namespaces

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.xdist_group("chaos")  # the trial is lived through once


def project() -> tuple[Project, ModelShape]:
    found = load_project(EXAMPLES / "scratch", ["train.optimizer.name=adamw"])
    return found, shape_of(found.model)


@pytest.fixture(scope="module")
def lived() -> dict[str, dict[str, Any]]:
    result = rehearse_chaos(*project(), [], SilentProgress())
    assert result["same"]
    return {one["fault"]: one for one in result["faults"]}


@pytest.mark.slow
def test_no_fault_changes_a_loss(lived: dict[str, dict[str, Any]]) -> None:
    assert set(lived) == set(FAULTS) - ({"network"} if not network_namespaces() else set())
    assert all(one["difference"] == 0.0 for name, one in lived.items() if name != "ranks")
    assert lived["ranks"]["difference"] < 1e-3  # sums of another number of ranks


@pytest.mark.slow
def test_faults_are_named(lived: dict[str, dict[str, Any]]) -> None:
    guilty = {name: one["guilty"] for name, one in lived.items()}
    assert guilty == {name: None if name in ("term", "ranks") else 1 for name in lived}
    words = {
        "kill": "rank 1 was killed",
        "stop": "rank 1 does not answer (last collective: ",
        "slow": "rank 1 is slow",
        "flip": "rank 1 computed wrongly once; the step was done again",
        "corrupt": "has changed); trying an older one",
        "disk": "rank 1 could not write the checkpoint",
        "network": "rank 1 does not answer (last collective: ",
        "term": "the run was asked to end",
    }
    assert all(words[name] in lived[name]["said"] for name in words if name in lived)


@pytest.mark.slow
def test_only_what_was_not_saved_is_done_again(lived: dict[str, dict[str, Any]]) -> None:
    lost = {name: one["lost_steps"] for name, one in lived.items()}
    assert all(lost[name] == 0 for name in ("slow", "flip", "term", "ranks"))
    assert all(0 < lost[name] <= 16 for name in lived if name in ("kill", "stop", "corrupt", "disk", "network"))


def test_a_layout_becomes_one_of_a_few_ranks() -> None:
    shape = ModelShape("qwen3", 40, 4096, 32, 8, 128, 11000, 32768, tie_embeddings=True)
    layout, tiny = small(Layout(dp_shard=320, tp=8, pp=4), shape)
    assert (layout.dp_shard, layout.tp, layout.pp, layout.world_size) == (2, 2, 2, 8)
    assert not tiny.tie_embeddings
    assert small(Layout(), shape)[0].world_size == 2


def test_a_fault_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="no fault 'kil'") as caught:
        rehearse_chaos(*project(), ["kil"], SilentProgress())
    assert "kill" in caught.value.remedy


def test_links_of_two_processes_leave_each_other_alone() -> None:
    if not network_namespaces():
        assert os.geteuid() != 0
        return
    other = "from wingspan.rehearse.chaos_trial import link\nwith link() as one: print(one.ours)"
    with link() as mine:
        told = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=True)
        shown = subprocess.run(["ip", "link", "show", mine.ours], capture_output=True, text=True, check=True).stdout
    assert told.stdout.startswith("ws")
    assert told.stdout.strip() != mine.ours
    assert "UP" in shown
    assert subprocess.run(["ip", "link", "show", mine.ours], capture_output=True, check=False).returncode != 0
