"""Memory against the trainer's rehearsal, published formulas and published runs."""

from pathlib import Path

import numpy as np
import pytest

from wingspan.model.shape import ModelShape
from wingspan.plan import memory as memory_of
from wingspan.plan.accounting import DEEPSPEED_BF16, DEEPSPEED_FP16, MEGATRON, TORCHTITAN, accounting_of
from wingspan.plan.activations import in_flight_micro_batches
from wingspan.plan.chips import chip_named
from wingspan.plan.grid import SCHEDULES, WINGSPAN, Grid, Software, Workload
from wingspan.plan.network import Network, network_of
from wingspan.project import Layout, Train

H100 = chip_named("H100 SXM")
DENSE = ModelShape("qwen3", 4, 1024, 8, 4, 128, 2816, 16384, tie_embeddings=False)
LLAMA = ModelShape("llama", 4, 2048, 16, 8, 128, 5632, 32000, tie_embeddings=False)
MOE = ModelShape("qwen3_moe", 4, 512, 8, 4, 64, 0, 8192, False, experts=8, experts_per_token=2, expert_ffn=512)
REHEARSED = [
    (DENSE, Layout(dp_shard=8, micro_batch=2), 16),
    (DENSE, Layout(dp_replicate=2, dp_shard=2, micro_batch=2, recompute="full"), 16),
    (DENSE, Layout(dp_shard=2, tp=2, micro_batch=1, recompute="selective"), 4),
    (LLAMA, Layout(dp_shard=2, pp=2, micro_batch=1), 4),
    (MOE, Layout(dp_shard=4, micro_batch=2), 16),
]


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "layout", "batch"), REHEARSED)
def test_memory_is_what_the_trainer_holds_when_rehearsed(shape: ModelShape, layout: Layout, batch: int) -> None:
    """The real model, built and stepped on fakes: the fullest rank's tensors within 5%, each stage's within 10%."""
    from wingspan.rehearse.fleet import in_processes
    from wingspan.rehearse.rank import kinds_of_ranks

    train = Train(sequence=1024, global_batch=batch)
    kinds, _ = in_processes(kinds_of_ranks(shape, layout, train, accelerator=True))
    planned = [tensors(shape, layout, train, kind.stage) for kind in kinds]
    rehearsed = [kind.peak_bytes for kind in kinds]
    assert planned == pytest.approx(rehearsed, rel=0.1)
    assert max(planned) == pytest.approx(max(rehearsed), rel=0.05)


def tensors(shape: ModelShape, layout: Layout, train: Train, stage: int) -> float:
    """Planned bytes of all tensors on a stage."""
    workload = Workload(train.sequence, train.global_batch)
    items = memory_of.stage_memory(network_of(shape), Grid.of(layout), workload, H100, WINGSPAN, stage)
    seen = ("parameters", "gradients", "optimizer", "gathered_blocks", "activations", "logits")
    return float(sum(items[name][0] for name in seen))
