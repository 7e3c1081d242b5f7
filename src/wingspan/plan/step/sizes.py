"""What the step-time model knows of a network, a batch and a chip: plain numbers, or arrays of them.

One layout search has one network and one chip; a back-test has a different one in each row. Both are priced
by the same formulas, because `stacked` turns many of these into one whose fields are arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np

from wingspan.plan.devices.chips import Chip
from wingspan.plan.step.activations import mlp_values
from wingspan.plan.step.grid import Array, Software, Workload
from wingspan.plan.step.network import Network

Number = float | Array
_Stackable = TypeVar("_Stackable")

_BEST_MATMUL = {"gpu": 0.80, "tpu": 0.85, "asic": 0.75, "cpu": 1.0}  # of peak, where no best was measured
_SUSTAINED = {"gpu": 0.85, "tpu": 0.95, "asic": 0.6, "cpu": 0.84}  # of the best, by all devices for hours
_LARGEST_NODE = 16  # devices; domains beyond it are racks and pods
_UNKNOWN_LINK = 1e-9  # bytes/s of a link that no source states: whatever crosses it lasts for ever


@dataclass(frozen=True)
class Sizes:
    """Widths and counts of a network and of one optimizer step."""

    layers: Number
    hidden: Number
    heads: Number
    qkv: Number  # outputs of the projections that read the block's input, latent ones excepted
    latents: Number  # outputs of the latent projections; 0 where attention has none
    q_rank: Number
    kv_rank: Number
    from_q: Number  # outputs made of the queries' latent
    from_kv: Number
    attended: Number  # outputs of attention
    rotated: Number  # queries and keys
    kv: Number  # keys and values, of all their heads
    scores: Number  # heads x mean width of a score's and a value's multiplication
    head_dim: Number
    ffn: Number
    width: Number  # matrices that read the MLP's input: 2 where it is gated
    mlp: Number  # inner values of the MLPs, mean over layers
    moe: Number  # share of layers with experts
    experts: Number
    top: Number  # experts per token
    expert_ffn: Number
    shared: Number  # inner width of the shared experts
    vocab: Number
    dense_parameters: Number
    expert_parameters: Number
    embedding: Number  # parameters of one vocabulary matrix
    sequence: Number
    global_batch: Number


def sizes_of(network: Network, workload: Workload) -> Sizes:
    """The numbers of one network and workload."""
    queries, values = network.heads * network.head_dim, network.heads * network.value_dim
    latent = network.kv_rank > 0
    keys = network.kv_heads * (network.head_dim + network.value_dim)
    return Sizes(
        layers=network.layers,
        hidden=network.hidden,
        heads=network.heads,
        qkv=0 if latent else queries + keys,
        latents=network.q_rank + network.kv_rank + network.rope_dim,
        q_rank=network.q_rank,
        kv_rank=network.kv_rank,
        from_q=queries if latent else 0,
        from_kv=network.heads * (network.head_dim - network.rope_dim + network.value_dim) if latent else 0,
        attended=values,
        rotated=(network.heads + network.kv_heads) * network.head_dim,
        kv=keys,
        scores=network.heads * (network.head_dim + network.value_dim) / 2,
        head_dim=network.head_dim,
        ffn=network.ffn,
        width=2 if network.gated else 1,
        mlp=mlp_values(network),
        moe=network.moe_layers / network.layers,
        experts=max(network.experts, 1),
        top=network.experts_per_token,
        expert_ffn=network.expert_ffn,
        shared=network.shared_experts * network.expert_ffn,
        vocab=network.vocab,
        dense_parameters=network.dense_parameters,
        expert_parameters=network.expert_parameters,
        embedding=network.embedding_parameters,
        sequence=workload.sequence,
        global_batch=workload.global_batch,
    )


@dataclass(frozen=True)
class Hardware:
    """Rates of one device in FLOP/s and bytes/s, and of the networks that it hangs on."""

    bf16: Number
    fp8: Number
    fp4: Number
    sustained: Number  # of the peak, by good multiplications for hours
    memory: Number
    units: Number  # tiles worked on at once
    domain: Number  # devices that the fast links connect
    link: Number  # one way, per device
    card: Number  # the same between domains


def hardware_of(chip: Chip, devices_per_node: int, card: float | None = None) -> Hardware:
    """A chip of the catalogue; `card` is the bytes/s of its own network card where it is known."""
    assert chip.bf16_tflops is not None
    assert chip.memory_gb_s is not None
    bf16 = chip.bf16_tflops * 1e12
    fp8 = (chip.fp8_tflops or chip.bf16_tflops) * 1e12
    best = chip.matmul_bf16_tflops / chip.bf16_tflops if chip.matmul_bf16_tflops else _BEST_MATMUL[chip.kind]
    return Hardware(
        bf16=bf16,
        fp8=fp8,
        fp4=2 * fp8 if chip.fp4 else fp8,
        sustained=best * _SUSTAINED[chip.kind],
        memory=chip.memory_gb_s * 1e9,
        units=float(chip.compute_units or 1),
        domain=float(fast_domain(chip, devices_per_node)),
        link=chip.domain_gb_s * 1e9 if chip.domain_gb_s else _UNKNOWN_LINK,
        card=card or (chip.network_gb_s * 1e9 if chip.network_gb_s else _UNKNOWN_LINK),
    )


def fast_domain(chip: Chip, devices_per_node: int) -> int:
    """Devices that the fast links connect: those of a node, or of a rack or pod where the links leave the node."""
    known = chip.domain_devices or devices_per_node
    return known if known > _LARGEST_NODE else min(known, devices_per_node)


@dataclass(frozen=True)
class Habits:
    """What a generation of software does, as far as time goes."""

    flash: Number
    sequence_parallel: Number
    gradient_bytes: Number


def habits_of(software: Software) -> Habits:
    """The habits of one software."""
    return Habits(software.flash, software.accounting.sequence_parallel, software.gradient_bytes)


def stacked(items: Sequence[_Stackable]) -> _Stackable:
    """One of the same kind whose every field is the array of the items' values."""
    kind = type(items[0])
    arrays = {one.name: np.array([float(getattr(item, one.name)) for item in items]) for one in fields(kind)}  # type: ignore[arg-type]
    return kind(**arrays)
