"""Devices are looked at before the work: a wrong one is named, a slow one too."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from train import sniff_rank
from train.test_stage import TORCHRUN
from wingspan.errors import LOST
from wingspan.launch.blame import BLAMES, take_blames
from wingspan.train.faults.sniff import WrongDevice, check_node, slow, sniff


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_good_device_is_well_in_a_moment(precision: torch.dtype) -> None:
    began = time.process_time()
    found = sniff(torch.device("cpu"), precision)
    assert time.process_time() - began < 0.5
    assert found.wrong is None
    assert found.flops > 1e8
    assert found.bandwidth > 1e8


def test_a_slow_device_is_named() -> None:
    usual = sniff(torch.device("cpu"), torch.float32)
    fleet = [usual] * 3 + [replace(usual, node="node9", flops=usual.flops / 2)]
    (line,) = slow(fleet)
    assert line.startswith("the device of rank 3 on node9 multiplies at")
    assert slow([usual] * 4) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="here the devices are there")
def test_a_node_that_lacks_devices_is_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BLAMES, str(tmp_path / "blames"))
    assert len(check_node(0)) == 1
    with pytest.raises(WrongDevice, match="shows 0 devices of 8"):
        check_node(8)
    (blame,) = take_blames(tmp_path / "blames")
    assert (blame.rank, blame.why, blame.weight) == (None, "shows 0 devices of 8", 3)


@pytest.mark.slow
def test_a_wrong_device_ends_all_ranks_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BLAMES, str(tmp_path / "blames"))
    command = [*TORCHRUN, "--nproc-per-node=2", sniff_rank.__file__]
    said = subprocess.run([*command, "wrong"], check=True, capture_output=True, text=True).stdout
    lines = [line for line in said.splitlines() if "the device of rank 1" in line]
    assert sorted(line.split()[0] for line in lines) == ["1", str(LOST)]
    assert all("fails a matrix product" in line for line in lines)
    assert [json.loads(line)["rank"] for line in (tmp_path / "blames").read_text().splitlines()] == [1]
