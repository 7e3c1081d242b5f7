"""Memory against the trainer's rehearsal, published formulas and published runs."""

from pathlib import Path

import numpy as np
import pytest

from wingspan.model.shape import ModelShape
from wingspan.plan.devices.chips import chip_named
from wingspan.plan.step import memory as memory_of
from wingspan.plan.step.accounting import (
    DEEPSPEED_BF16,
    DEEPSPEED_FP16,
    MEGATRON,
    TORCHTITAN,
    Accounting,
    accounting_of,
)
from wingspan.plan.step.activations import in_flight_micro_batches
from wingspan.plan.step.grid import SCHEDULES, WINGSPAN, Grid, Software, Workload
from wingspan.plan.step.network import Network, network_of
from wingspan.project import Layout, Train

H100 = chip_named("H100 SXM")
DENSE = ModelShape("qwen3", 4, 1024, 8, 4, 128, 2816, 16384, tie_embeddings=False)
LLAMA = ModelShape("llama", 4, 2048, 16, 8, 128, 5632, 32000, tie_embeddings=False)
MOE = ModelShape("qwen3_moe", 4, 512, 8, 4, 64, 0, 8192, False, experts=8, experts_per_token=2, expert_ffn=512)
REHEARSED = [
    (DENSE, Layout(dp_replicate=2, dp_shard=4, micro_batch=2, recompute="full"), 32),
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


GPT3 = Network(96, 12288, 96, 96, 128, 49152, 50257, gated=False, tied=True)


@pytest.mark.parametrize(
    ("books", "zero", "bytes_per_parameter"),
    [
        (MEGATRON, 0, 18.0),
        (MEGATRON, 1, 6 + 12 / 16),
        (DEEPSPEED_FP16, 0, 20.0),
        (DEEPSPEED_FP16, 1, 4 + 16 / 16),
        (DEEPSPEED_BF16, 1, 8 + 12 / 16),
    ],
)
def test_states_are_those_of_the_distributed_optimizers_documentation(
    books: Accounting, zero: int, bytes_per_parameter: float
) -> None:
    """Megatron-Core, "Distributed Optimizer": fp16 20 or 4 + 16/d, bf16 with fp32 gradients 18 or 6 + 12/d."""
    grid = Grid.product({"tp": [8], "pp": [4], "shard": [16], "zero": [zero]})
    items = memory_of.stage_memory(GPT3, grid, Workload(2048, 1536), H100, Software("any", accounting=books), 1)
    parameters = GPT3.dense_parameters / 8 / 4
    assert sum(items[name][0] for name in ("parameters", "gradients", "optimizer")) == pytest.approx(
        bytes_per_parameter * parameters
    )


@pytest.mark.parametrize(
    ("schedule", "interleave", "first", "last"),
    [("1f1b", 1, 8, 1), ("1f1b", 2, 11.5, 4.5), ("zero_bubble", 1, 8, 8), ("v_half", 1, 5, 5), ("v_min", 1, 4, 4)],
)
def test_micro_batches_in_flight_by_schedule(schedule: str, interleave: int, first: float, last: float) -> None:
    """Eight stages: Narayanan et al. 2021; Qi et al. 2023 (zero bubble) and 2024 (V-Half and V-Min)."""
    grid = Grid.product({"pp": [8], "interleave": [interleave], "schedule": [SCHEDULES.index(schedule)]})
    held = [float(in_flight_micro_batches(grid, Workload(2048, 64), np.array(float(stage)))[0]) for stage in (0, 7)]
    assert held == pytest.approx([first, last])


def test_the_fullest_stage_is_the_one_shown() -> None:
    network = Network(30, 4096, 32, 8, 128, 14336, 128256)
    grid, workload = Grid.product({"pp": [4], "shard": [8], "recompute": [2]}), Workload(8192, 256)
    stages = memory_of.total(memory_of.by_stage(network, grid, workload, H100, WINGSPAN))
    assert stages.shape == (4,)
    assert list(stages[1:3]) == sorted(stages[1:3], reverse=True)  # fewer micro-batches further on
    shown = memory_of.memory(network, grid, workload, H100, WINGSPAN)
    assert float(memory_of.total(shown)[0]) == pytest.approx(max(stages))
    assert memory_of.needed(network, grid, workload, H100, WINGSPAN)[0] == pytest.approx(max(stages))


@pytest.mark.parametrize(
    ("framework", "year", "precision", "name"),
    [
        ("Megatron-DeepSpeed (BigScience)", 2022, "fp16", "Megatron-DeepSpeed fp16"),
        ("Megatron-DeepSpeed (BigScience)", 2022, "bf16", "Megatron-DeepSpeed bf16"),
        ("torchtitan torch.compile", 2024, "bf16", TORCHTITAN.name),
        ("torchtitan compile+Float8", 2025, "fp8", "torchtitan since 2025"),
        ("NeMo/Megatron-Core", 2025, "bf16", "NeMo and Megatron-Bridge"),
        ("Megatron-Core r0.8.0", 2024, "bf16", MEGATRON.name),
        ("something new", 2026, "bf16", MEGATRON.name),
    ],
)
def test_accounting_goes_by_the_frameworks_generation(framework: str, year: int, precision: str, name: str) -> None:
    assert accounting_of(framework, year, precision).name == name


@pytest.mark.shared_data
def test_published_memory_is_predicted(shared_data: Path) -> None:
    """Mean error by family, and every run that ran and says its layout is predicted to fit but for one in forty."""
    from wingspan.plan.published.backtest import read_runs

    runs, _ = read_runs(shared_data / "plan" / "runs_public.csv")
    errors: dict[str, list[float]] = {}
    too_large = {True: 0, False: 0}  # by whether the run says its whole layout
    for run in runs:
        items = run.problem.memory(run.grid)
        too_large[not run.inferred] += float(memory_of.total(items)[0]) > run.problem.capacity
        if run.memory_gib:
            told = float(memory_of.reported(items, run.problem.software.accounting)[0]) / 2**30
            errors.setdefault(run.family, []).append(abs(told / run.memory_gib - 1))
    means = {family: float(np.mean(one)) for family, one in errors.items()}
    assert means["bloom-prequel"] < 0.06
    assert means["torchtitan"] < 0.09
    assert means["nanotron"] < 0.13
    assert means["bloom-v100"] < 0.14
    stated = sum(not run.inferred for run in runs)
    assert stated > 400
    assert too_large[True] <= stated / 40
    assert sum(too_large.values()) < 0.06 * len(runs)
