"""A batch that grows uses each sample once, the same ones on any number of ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train import prepared
from wingspan.errors import InputError
from wingspan.train.data.ledger import audit, entries
from wingspan.train.optimize.ramp import batch_of, plateaus, steps_for


@given(start=st.integers(1, 8), times=st.integers(1, 16), share=st.floats(0.01, 0.9), samples=st.integers(1, 50_000))
def test_batches_grow_by_the_first_to_the_whole(start: int, times: int, share: float, samples: int) -> None:
    full = start * times
    growth = plateaus(start, full, share, samples)
    steps = steps_for(samples, growth, full)
    sizes = [batch_of(step, growth, full) for step in range(steps)]
    assert all(size % start == 0 and size <= full for size in sizes)
    assert all(after - before in (0, start) for before, after in pairwise(sizes))
    assert sum(sizes) >= samples
    grown = sum(size for size in sizes if size < full)
    assert grown <= share * samples + start * times * times  # each size may end in the middle of a batch
    assert steps == 0 or sum(sizes[:-1]) < samples or sizes[-1] <= full


def ramped(folder: Path, layout: dict[str, int], start: int = 2) -> None:
    prepared.prepared_run(folder, layout, tokens=20 * 256)
    file = folder / "wingspan.toml"
    ramp = f"ramp = {{ start = {start}, share = 0.4 }}\ncheckpoint_every"
    file.write_text(file.read_text().replace("checkpoint_every", ramp))


def losses(folder: Path) -> dict[int, float]:
    lines = map(json.loads, (folder / "runs/tiny/train/metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines}


@pytest.mark.slow
def test_two_ranks_ramp_as_one_does(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    ramped(alone, {})
    prepared.train(alone)
    ramped(together, {"dp_shard": 2})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", prepared.__file__]
    subprocess.run([*command, str(together)], check=True, capture_output=True, timeout=200)
    ledgers = [list(entries(folder / "runs/tiny/train/ledger")) for folder in (alone, together)]
    assert ledgers[0] == ledgers[1]
    sizes = [entry.samples for entry in ledgers[0]]
    assert sorted(set(sizes)) == [2, 4, 6, 8]
    assert sizes == sorted(sizes)
    proof = audit(alone / "runs/tiny/train/ledger")
    assert (proof.samples, proof.passed_over, proof.repeated) == (sum(sizes), 0, 0)
    assert losses(alone) == pytest.approx(losses(together), abs=2e-5)


def test_a_start_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    ramped(tmp_path, {}, start=3)
    with pytest.raises(InputError, match="does not divide"):
        prepared.train(tmp_path)
