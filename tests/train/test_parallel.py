"""No layout changes the loss, a gradient or its norm: 2, 4 and 8 gloo processes against one."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from train import layout_ranks
from wingspan.model.shape import ModelShape
from wingspan.project import Layout

SIZES = {"layers": 4, "hidden": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn": 64, "vocab": 101}
DENSE = ModelShape("qwen3", **SIZES, tie_embeddings=False)
TIED = ModelShape("llama", **SIZES, tie_embeddings=True)
EXPERTS = ModelShape("qwen3_moe", **SIZES, tie_embeddings=False, experts=4, experts_per_token=2, expert_ffn=16)
TIED_EXPERTS = ModelShape("qwen3_moe", **SIZES, tie_embeddings=True, experts=4, experts_per_token=2, expert_ffn=16)

Cases = list[tuple[ModelShape, dict[str, Any]]]

ON_2: Cases = [
    (DENSE, {"dp_shard": 2}),
    (TIED, {"dp_replicate": 2}),
    (TIED, {"tp": 2}),
    (EXPERTS, {"tp": 2}),
    (DENSE, {"cp": 2}),
    (EXPERTS, {"dp_shard": 2, "ep": 2}),
    (EXPERTS, {"cp": 2, "ep": 2}),
    (TIED, {"pp": 2}),
    (DENSE, {"pp": 2, "recompute": "full"}),
    (TIED, {"pp": 2, "interleave": 2}),
    (DENSE, {"pp": 2, "schedule": "zbv"}),
    (EXPERTS, {"pp": 2, "schedule": "zbv"}),
]
ON_4: Cases = [
    (TIED, {"dp_replicate": 2, "dp_shard": 2}),
    (EXPERTS, {"dp_shard": 2, "ep": 2, "tp": 2}),
    (TIED_EXPERTS, {"dp_replicate": 2, "dp_shard": 2, "ep": 2}),
    (EXPERTS, {"dp_shard": 4, "ep": 2, "recompute": "selective"}),
    (TIED, {"cp": 2, "tp": 2}),
    (TIED, {"pp": 2, "cp": 2}),
    (TIED_EXPERTS, {"pp": 2, "dp_shard": 2, "ep": 2}),
]
ON_8: Cases = [
    (TIED, {"pp": 2, "dp_shard": 2, "tp": 2}),
    (DENSE, {"pp": 2, "dp_shard": 2, "tp": 2, "schedule": "zbv"}),
    (TIED, {"pp": 2, "cp": 2, "tp": 2, "interleave": 2}),
    (DENSE, {"cp": 2, "tp": 2, "dp_shard": 2}),
    (EXPERTS, {"dp_replicate": 2, "dp_shard": 2, "ep": 2, "tp": 2}),
    (EXPERTS, {"pp": 2, "dp_shard": 2, "cp": 2, "ep": 4}),
]


@pytest.mark.slow
@pytest.mark.parametrize("cases", [ON_2, ON_4, ON_8], ids=["2", "4", "8"])
def test_loss_and_gradients_are_those_of_one_process(cases: Cases, tmp_path: Path) -> None:
    ranks = Layout(**cases[0][1]).world_size
    file = tmp_path / "cases.json"
    file.write_text(
        json.dumps([{"shape": asdict(shape), "layout": {"micro_batch": 2, **layout}} for shape, layout in cases])
    )
    command = [sys.executable, layout_ranks.__file__, str(file)]
    processes = [
        subprocess.Popen([*command, str(rank), str(ranks), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True)
        for rank in range(ranks)
    ]
    printed = [process.communicate(timeout=200)[0] for process in processes]
    assert not any(process.returncode for process in processes)
    for text in printed:
        for found, case in zip(json.loads(text.splitlines()[-1]), cases, strict=True):
            assert found["loss"] == pytest.approx(found["expected"], abs=2e-6), case
            assert found["norm"] == pytest.approx(found["expected_norm"], rel=1e-5), case
            assert found["apart"] < 1e-5, (case, found["where"])
            assert all(found["balanced"]), case
            assert bool(found["balanced"]) == bool(case[0].experts), case
