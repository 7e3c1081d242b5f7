"""A run of several ranks comes back by itself after a lost or hung one, and gives up when that does not help."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.starting import prepared_project, wingspan_train
from train import prepared
from train.test_stage import losses, weights
from wingspan.errors import LEFT, WorkError
from wingspan.launch import restarts
from wingspan.launch.blame import Blame, blame
from wingspan.launch.restarts import Restarts
from wingspan.workspace import Run

pytestmark = pytest.mark.xdist_group("launch")


def children(process: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def newest_step(folder: Path) -> int:
    return max((int(path.name[5:]) for path in folder.glob("runs/tiny/.train.partial/checkpoints/step-*")), default=0)


def wait_for(true: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_and_a_hung_rank_are_named_and_the_run_ends_with_the_same_weights(
    undisturbed: Path, tmp_path: Path
) -> None:
    prepared_project(tmp_path)
    process = wingspan_train(tmp_path)
    wait_for(lambda: newest_step(tmp_path) >= 3, process)
    killed = children(process)
    os.kill(killed[1], signal.SIGKILL)
    step = newest_step(tmp_path)
    wait_for(lambda: newest_step(tmp_path) > step + 6 and children(process)[0] not in killed, process)
    hung = children(process)
    os.kill(hung[0], signal.SIGSTOP)
    said, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert "rank 1 on" in errors
    assert "was killed by SIGKILL; on from step" in errors
    assert "rank 0 on" in errors
    assert "hung; on from step" in errors
    assert "steps: 40" in said
    assert losses(tmp_path) == losses(undisturbed)
    assert weights(tmp_path) == weights(undisturbed)


@pytest.mark.slow
def test_a_run_that_is_asked_to_leave_saves_and_is_not_started_again(tmp_path: Path) -> None:
    prepared_project(tmp_path)
    process = wingspan_train(tmp_path)
    wait_for(lambda: newest_step(tmp_path) >= 3, process)
    process.terminate()
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == LEFT, errors
    assert "wingspan launch:" not in errors


@pytest.mark.slow
def test_wrong_input_is_not_started_again(tmp_path: Path) -> None:
    prepared.prepared_run(tmp_path, {"dp_shard": 2, "tp": 3})
    process = wingspan_train(tmp_path)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert "does not divide" in errors
    assert "wingspan launch:" not in errors


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run folder that supervision writes to, with its environment put back after."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(restarts.time, "sleep", lambda seconds: None)
    return prepared.prepared_run(tmp_path)


def test_gives_up_without_a_new_checkpoint_and_says_why(run: Run) -> None:
    starts = []

    def start() -> int:
        starts.append(1)
        if len(starts) == 2:
            (run.folder / ".train.partial/checkpoints/step-00000003").mkdir(parents=True)
        blame(Blame(1, "node7", "ended with an error", 1))
        blame(Blame(2, "node8", "was killed by SIGBUS", 2))
        return 1

    supervised = Restarts(run, "train")
    with pytest.raises(WorkError, match="4 times without a new checkpoint; the last time: rank 2 on node8 was killed"):
        supervised.supervise(start, [])
    assert len(starts) == 1 + 1 + 4
    assert supervised.excluded() == ["node8"]
    assert Restarts(run, "train", goes_on=True).excluded() == ["node8"]
    assert Restarts(run, "train").excluded() == []


def test_a_wrong_device_leaves_out_its_node_at_once(run: Run) -> None:
    supervised = Restarts(run, "train")
    supervised.note([Blame(0, "node3", "fails a matrix product", 3)])
    supervised.note([Blame(9, "node4", "hung", 2)])
    assert supervised.excluded() == ["node3"]
    assert len(json.loads((run.folder / ".train.stops.jsonl").read_text().splitlines()[0])["blames"]) == 1
