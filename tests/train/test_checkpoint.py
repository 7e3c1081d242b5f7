"""A checkpoint of one layout is loaded by another, weights and optimizer both."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from train import reshard


def run(folder: Path, **layout: int) -> list[float]:
    ranks = 1
    for size in layout.values():
        ranks *= size
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [*command, reshard.__file__, str(folder), json.dumps(layout)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    losses: list[float] = json.loads(next(line for line in result.stdout.splitlines() if line.startswith("[")))
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("layout", [{"dp_shard": 2}, {"tp": 2}, {"pp": 2}, {"dp_shard": 2, "tp": 2}])
def test_another_layout_goes_on_where_one_stopped(layout: dict[str, int], tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    run(one, dp_shard=1)
    shutil.copytree(one, other)
    undisturbed = pytest.approx(run(one, dp_shard=1), abs=1e-5)
    assert run(other, **layout) == undisturbed
    run(tmp_path / "back", **layout)
    assert run(tmp_path / "back", dp_shard=1) == undisturbed
