"""What a run keeps serves any layout and number of ranks, survives damage and full disks, and says what is wrong."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from train import prepared, reshard
from train.test_health import ROWS, SEQUENCE, SHAPE, Counting, Listening, part, recipe, weights
from train.test_stage import TORCHRUN, losses, undisturbed  # noqa: F401  (a fixture)
from wingspan.cli.main import app
from wingspan.errors import InputError, WorkError
from wingspan.forget.audit import audit_training
from wingspan.project import Layout, Optimizer
from wingspan.train.checkpoint.checkpoints import Checkpoints, Position
from wingspan.train.data.ledger import audit
from wingspan.train.faults.leaving import Left
from wingspan.train.loop import fit
from wingspan.train.optimize.optimizers import make_optimizers
from wingspan.train.parallel.part import Part
from wingspan.train.start import start_part


def reshard_run(folder: Path, **layout: int) -> list[float]:
    command = [*TORCHRUN, f"--nproc-per-node={math.prod(layout.values())}"]
    command = [*command, reshard.__file__, str(folder), json.dumps(layout)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    found: list[float] = json.loads(next(line for line in result.stdout.splitlines() if line.startswith("[")))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("layout", [{"pp": 2}, {"dp_shard": 2, "tp": 2}])
def test_another_layout_goes_on_where_one_stopped(layout: dict[str, int], tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    reshard_run(one, dp_shard=1)
    shutil.copytree(one, other)
    whole = pytest.approx(reshard_run(one, dp_shard=1), abs=1e-5)
    assert reshard_run(other, **layout) == whole
    reshard_run(tmp_path / "back", **layout)
    assert reshard_run(tmp_path / "back", dp_shard=1) == whole


@pytest.mark.slow
def test_a_stage_goes_on_at_other_numbers_of_ranks(undisturbed: Path, tmp_path: Path) -> None:  # noqa: F811
    """Killed at two ranks, asked to end at four, done at one; audited and exported on the way."""
    project = prepared.prepared_run(tmp_path, {"dp_shard": 2}, tokens=40 * 256)
    checkpoints = project.folder / ".train.partial/checkpoints"
    assert stopped(tmp_path, 2, checkpoints, 6, signal.SIGKILL) == [-signal.SIGKILL] * 2
    prepared.arrange(project, {"dp_shard": 2, "tp": 2})
    settings = tmp_path / "wingspan.toml"  # what changes only how it works does not begin it anew
    settings.write_text(settings.read_text().replace("checkpoint_every = 3", "checkpoint_every = 4"))
    assert stopped(tmp_path, 4, checkpoints, 20, signal.SIGTERM) == [Left.exit_code] * 4
    saved = sorted(int(one.name[5:]) for one in checkpoints.glob("step-*"))
    seen = audit_training(project, "train0-0")
    assert seen["models"][0]["model"] == ".train.partial"
    assert seen["checkpoints"] == [step for step in saved if step > seen["models"][0]["first_step"]]
    command = ["train", "export", str(tmp_path), "--runs", str(tmp_path / "runs"), "--step", str(saved[-1])]
    assert CliRunner().invoke(app, command).exit_code == 0
    exported = AutoModelForCausalLM.from_pretrained(project.folder / f"exports/step-{saved[-1]}")
    assert sum(one.numel() for one in exported.parameters()) > 10_000
    missing = CliRunner().invoke(app, [*command[:-1], "1"])
    assert missing.exit_code == 2
    prepared.arrange(project, {})
    prepared.train(tmp_path)
    assert losses(tmp_path) == pytest.approx(losses(undisturbed), abs=2e-5)
    proof = audit_training(project)
    assert (proof["steps"], proof["samples"]) == (40, 320)


def stopped(project: Path, ranks: int, checkpoints: Path, step: int, by: signal.Signals) -> list[int | None]:
    """Ranks of a launch that all get a signal once a checkpoint is there; their exit codes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["wingspan.train.stage"])
    port, launch = free_port(), f"{time.time_ns()}"
    started = [
        context.Process(target=prepared.rank, args=(project, rank, ranks, port, launch)) for rank in range(ranks)
    ]
    for one in started:
        one.start()
    while not any(int(one.name[5:]) >= step for one in checkpoints.glob("step-*")):
        assert all(one.is_alive() for one in started)
        time.sleep(0.002)
    for one in started:
        os.kill(one.pid, by)
    for one in started:
        one.join(60)
    return [one.exitcode for one in started]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


STEPS = 30


def run(folder: Path, batches: Counting, **changes: Any) -> tuple[Part, Listening]:
    one, progress = part(), Listening()
    fit(one, batches, dataclasses.replace(recipe(**changes), steps=STEPS), folder, progress)
    return one, progress


class Killed(Exception):
    pass


class Cut(Counting):
    """Rows that end by an accident before a step."""

    def __init__(self, step: int, accident: Any = None) -> None:
        super().__init__()
        self.step, self.accident = step, accident

    def batch(self, samples: Any) -> Any:
        if len(self.asked) == self.step * 2:
            self.step = -1
            if self.accident is None:
                raise Killed
            self.accident()
        return super().batch(samples)


def cut(folder: Path, step: int, **changes: Any) -> None:
    with pytest.raises(Killed):
        run(folder, Cut(step), **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """The weights of an undisturbed run."""
    return weights(run(tmp_path_factory.mktemp("whole"), Counting())[0])


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder whose file system holds 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], check=False)
    if mounted.returncode:
        pytest.skip("needs the right to mount; enable with: run the tests as root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_ends_the_run_which_goes_on_when_there_is_room(full_disk: Path, whole: torch.Tensor) -> None:
    with pytest.raises(WorkError, match=r"rank 0 could not write the checkpoint of step 10: .* has .* free") as caught:
        run(full_disk, Counting())
    assert "Free some space" in caught.value.remedy
    assert not list((full_disk / "checkpoints").iterdir())
    subprocess.run(["mount", "-o", "remount,size=8m", full_disk], check=True)
    assert torch.equal(weights(run(full_disk, Counting())[0]), whole)
    assert audit(full_disk / "ledger").samples == 2 * STEPS


def test_a_run_that_is_asked_to_end_saves_and_leaves(tmp_path: Path, whole: torch.Tensor) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Left, match="step 23 is saved"):
        run(tmp_path, Cut(22, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert signal.getsignal(signal.SIGTERM) == before
    assert torch.equal(weights(run(tmp_path, Counting())[0]), whole)
    assert audit(tmp_path / "ledger").repeated == 0


def test_a_clock_that_jumps_changes_nothing(
    tmp_path: Path, whole: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = itertools.cycle((-1e8, 0.0, 4e9))
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    cut(tmp_path, 22)
    assert torch.equal(weights(run(tmp_path, Counting())[0]), whole)


def test_the_newest_copy_that_is_whole_wins_of_both_tiers(tmp_path: Path, whole: torch.Tensor) -> None:
    tiers = {"local_checkpoints": str(tmp_path / "local"), "local_checkpoint_every": 2}
    cut(tmp_path / "run", 27, **tiers)
    copies = sorted((tmp_path / "local").rglob("step-*"))
    assert [one.name[:13] for one in copies] == ["step-00000024", "step-00000026"]
    content = bytearray(copies[1].read_bytes())
    content[len(content) // 2] ^= 1
    copies[1].write_bytes(content)
    batches = Counting()
    resumed, progress = run(tmp_path / "run", batches, **tiers)
    assert progress.lines == ["the local copies of step 26 are damaged; trying an older checkpoint"]
    assert len(batches.asked) == 2 * (1 + STEPS - 24)  # one batch to see whether the weights are sound
    assert torch.equal(weights(resumed), whole)
    assert not list((tmp_path / "local").iterdir())


def test_weights_whose_loss_is_not_finite_are_passed_over(tmp_path: Path, whole: torch.Tensor) -> None:
    cut(tmp_path, 22)
    poisoned = part()
    with torch.no_grad():
        next(poisoned.model.parameters()).fill_(math.nan)
    with Checkpoints(tmp_path / "checkpoints", poisoned, make_optimizers(poisoned.model, Optimizer()), keep=3) as saved:
        saved.save(Position(25, 50))
    resumed, progress = run(tmp_path, Counting())
    assert progress.lines == [
        "checkpoint step-00000025 is damaged (the loss that it gives is not finite); trying an older one"
    ]
    assert torch.equal(weights(resumed), whole)


def test_without_a_checkpoint_that_is_sound_the_run_does_not_go_on(tmp_path: Path) -> None:
    poisoned = part()
    with Checkpoints(tmp_path, poisoned, make_optimizers(poisoned.model, Optimizer())) as saved:
        saved.save(Position(1, 2))
        saved.finish()
        with pytest.raises(WorkError, match="no checkpoint gives a loss that is finite"):
            saved.restore(print, lambda _: False)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    cut(tmp_path, 12)
    shape = dataclasses.replace(SHAPE, hidden=64, ffn=128)
    other = start_part(
        shape, Layout(precision="fp32"), 3, sequence=SEQUENCE, global_batch=ROWS, device=torch.device("cpu")
    )
    with pytest.raises(InputError, match="another model: hidden 32 and not 64, ffn 64 and not 128"):
        fit(other, Counting(), recipe(), tmp_path, Listening())
