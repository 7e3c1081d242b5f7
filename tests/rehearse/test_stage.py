"""The rehearse stage, after the real plan stage, on a project of one device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wingspan.model.shape import shape_of
from wingspan.progress import SilentProgress
from wingspan.stages import perform
from wingspan.workspace import open_run

PROJECT = """
[project]
name = "tiny"

[model]
depth = 2
hidden = 1024
vocab = 32768

[train]
tokens = 1_000_000
sequence = 512
global_batch = 64
"""


@pytest.mark.slow
def test_one_device_is_rehearsed_alone_and_on_the_fleet_that_plan_shows(tmp_path: Path) -> None:
    (tmp_path / "wingspan.toml").write_text(PROJECT)
    run = open_run(tmp_path, runs=tmp_path / "runs")
    perform(run, "plan", SilentProgress())
    manifest = perform(run, "rehearse", SilentProgress()).manifest
    rehearsal = json.loads((run.stage("rehearse") / "rehearsal.json").read_text())
    (kind,) = rehearsal["kinds"]
    assert (rehearsal["devices"], rehearsal["device"], kind["collectives"]) == (1, "this-machine", [])
    parameters = shape_of(run.project.model).parameters
    assert kind["static_bytes"] == pytest.approx(12 * parameters, rel=0.001)  # fp32 weights and two moments
    fleet = rehearsal["on_a_fleet"]
    assert fleet["devices"] > 1
    assert sum(one["ranks"] for one in fleet["kinds"]) == fleet["devices"]
    assert manifest["summary"]["holds"] is True
    assert manifest["summary"]["on_a_fleet"]["devices"] == fleet["devices"]
