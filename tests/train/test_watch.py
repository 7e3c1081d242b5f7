"""Hanging and slow ranks are named, a run that stands still ends, and no rank outlives its launcher."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from train import prepared
from train.test_stage import TORCHRUN
from wingspan.errors import InputError
from wingspan.model.shape import ModelShape
from wingspan.project import Layout
from wingspan.train.faults.before import HEARTBEAT, check_timeouts
from wingspan.train.faults.watch import Pulse, Watch, slow_ranks, who_hangs
from wingspan.train.start import start_part


def test_a_rank_that_says_nothing_is_the_one_that_hangs() -> None:
    pulses = {0: Pulse(9, step=5, waits=True), 1: Pulse(3, step=5), 2: Pulse(9, step=5, waits=True)}
    assert who_hangs(pulses, [1]) == "rank 1 does not answer"
    assert who_hangs(pulses, [1, 2]) == "ranks 1, 2 do not answer"


def test_a_rank_that_works_while_all_others_wait_is_the_one_that_hangs() -> None:
    pulses = {0: Pulse(9, step=5, waits=True), 1: Pulse(9, step=5), 2: Pulse(9, step=5, waits=True)}
    assert who_hangs(pulses, []) == "the others wait for rank 1 in step 5"


def test_a_rank_is_slow_by_its_own_work_and_not_by_its_waiting() -> None:
    pulses = {rank: Pulse(9, step=50, own_s=0.1) for rank in range(8)}
    assert slow_ranks(pulses) == []
    assert slow_ranks(pulses | {3: Pulse(9, step=50, own_s=0.2)}) == [3]
    assert slow_ranks({0: Pulse(1, step=0, own_s=9.0)}) == []


def test_a_step_that_takes_half_the_patience_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(0.02)
    watch.beat(0)
    time.sleep(0.02)
    watch.beat(1)
    assert "step 0 took 0 s: raise train.hang_timeout_s" in capsys.readouterr().err


def test_timeouts_must_rise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HEARTBEAT, raising=False)
    check_timeouts(300)
    assert os.environ[HEARTBEAT] == "900"
    with pytest.raises(InputError, match="15 min end a rank before a collective gives up") as caught:
        check_timeouts(450)
    assert "train.hang_timeout_s" in caught.value.remedy


def test_too_little_memory_is_said_before_it_is_taken() -> None:
    shape = ModelShape("qwen3", 200, 32768, 256, 16, 128, 131072, 262144, tie_embeddings=False)
    with pytest.raises(InputError, match=r"training needs more than .* TiB of memory here") as caught:
        start_part(shape, Layout(), 1, sequence=32, global_batch=1, device=torch.device("cpu"))
    assert "layout.dp_shard" in caught.value.remedy


def launched(folder: Path, *, tokens: int, hang_timeout_s: float) -> tuple[subprocess.Popen[str], list[int]]:
    """Two ranks under torchrun, past their first checkpoint; the process and its ranks."""
    prepared.prepared_run(folder, {"dp_shard": 2}, tokens=tokens)
    project = folder / "wingspan.toml"
    project.write_text(project.read_text().replace("[train]", f"[train]\nhang_timeout_s = {hang_timeout_s}"))
    command = [*TORCHRUN, "--nproc-per-node=2", "--monitor-interval=0.1", prepared.__file__, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: any((folder / "runs/tiny/.train.partial/checkpoints").glob("step-*")), process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return process, [int(pid) for pid in children]


def wait_for(true: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends processes with their parent")
def test_ranks_end_with_their_launcher(tmp_path: Path) -> None:
    process, ranks = launched(tmp_path, tokens=4000 * 256, hang_timeout_s=60)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while any(alive(rank) for rank in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
