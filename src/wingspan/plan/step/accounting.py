"""How a generation of training software keeps its tensors: bytes per parameter, per logit, per process group.

Every constant belongs to a software generation and says where it comes from; none belongs to a model or a
run. docs/plan.md tells which were set on published memory figures of that software.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from wingspan.units import GIB


@dataclass(frozen=True)
class Accounting:
    """What a rank holds besides what arithmetic alone gives.

    `gradient` and `copies` are bytes per parameter: of a whole gradient, and of optimizer state beside fp32
    weights and moments. Buckets of up to `bucket` elements, `bucket_bytes` each, are exchanged at a time.
    """

    name: str
    gradient: float = 4.0
    copies: float = 0.0
    bucket: float = 0.0
    bucket_bytes: float = 0.0
    accumulates_whole: bool = False  # fully sharded: whole fp32 gradients until the last micro-batch
    block_bytes: float = 6.0  # fully sharded: per parameter of a block at work, gathered ahead, and its gradients
    sequence_parallel: bool = True
    gathered: int = 0  # of a block's four values of width h, those that each tensor-parallel rank keeps whole
    norm_bytes: float = 0.0  # kept per value of width h beside a block's four: fp32 copies of its two norms
    head_norm_bytes: float = 2.0  # kept per value of normalised queries and keys
    activation_value: bool = False  # the gate's activated value is kept beside its inputs
    selective: str = "attention"  # recomputation forgets; or it keeps "products", half of them, "inputs", or nothing
    passed_on: bool = False  # a stage keeps what it passed on to the next, too
    remainder_central: bool = False  # layers left over lie on the pipeline's central stages, else on the first
    narrow_inputs: bool = False  # inputs of 8-bit products are kept in 8 bits
    mask: bool = False  # every micro-batch has a mask of sequence x sequence
    logit: float = 6.0  # bytes per logit at the loss: 16 bits and fp32, softmax in place
    split_logit: float = 0.0  # more where tensor parallelism splits the softmax
    loss_chunk: float = np.inf  # logits that exist at a time
    communicators: int = 0  # process groups beside those of the layout
    communicator: float = 0.35 * GIB  # NCCL's channels and buffers of one process group at default settings
    context: float = 0.8 * GIB  # CUDA context and library workspaces; nvidia-smi shows 0.5 to 1 GiB
    fragmentation: float = 0.05  # of what comes and goes
    reports: str = "device"  # what the software prints: all of the "device", or the allocator's "tensors"


# FSDP2 and DTensor, eager: rehearsals of small shapes show each of these figures.
WINGSPAN = Accounting(
    "wingspan",
    accumulates_whole=True,
    block_bytes=12.0,
    gathered=2,
    norm_bytes=12.0,
    head_norm_bytes=8.0,
    activation_value=True,
    selective="products",
    mask=True,
    remainder_central=True,
    loss_chunk=2.0**26,
)
# Distributed optimizer: 6 + 12/d bytes per parameter in bf16 with fp32 gradients (Megatron-Core documentation).
MEGATRON = Accounting("Megatron-Core", narrow_inputs=True)
# NVIDIA's performance recipes reduce gradients in bf16 (grad_reduce_in_fp32 = False) and fuse the loss.
NEMO = replace(MEGATRON, name="NeMo and Megatron-Bridge", gradient=2.0, logit=4.0)
# fp16: 4 + 16/d (same source). One group per pair of neighbours in the pipeline; buckets of 5e8 elements
# (DeepSpeed's reduce_bucket_size and allgather_bucket_size).
DEEPSPEED_FP16 = Accounting(
    "Megatron-DeepSpeed fp16",
    gradient=2.0,
    copies=4.0,
    bucket=5e8,
    bucket_bytes=4.0,
    sequence_parallel=False,
    passed_on=True,
    communicators=10,
)
# BF16_Optimizer: bf16 gradients beside fp32 ones.
DEEPSPEED_BF16 = replace(DEEPSPEED_FP16, name="Megatron-DeepSpeed bf16", gradient=6.0, copies=0.0)
# ZeRO 1 shards fp32 gradients with the optimizer; bf16 ones stay whole.
NANOTRON = Accounting(
    "nanotron", gradient=2.0, copies=4.0, gathered=2, logit=10.0, fragmentation=0.15, reports="tensors"
)
# Op-level selective recomputation keeps every other product; peak is that of the caching allocator's reserve.
TORCHTITAN = Accounting(
    "torchtitan",
    accumulates_whole=True,
    block_bytes=12.0,
    gathered=2,
    selective="half of products",
    logit=14.0,
    split_logit=4.0,
    fragmentation=0.08,
    reports="tensors",
)
TORCHTITAN_COMPILED_LOSS = replace(TORCHTITAN, name="torchtitan since 2025", logit=6.0, split_logit=0.0)
# llm-foundry gathers and reduces in bf16; selective recomputation is of whole blocks.
FSDP = Accounting("PyTorch FSDP", selective="inputs")
# XLA fuses the loss's casts; MaxText's custom policies offload the blocks' inputs to the host.
XLA = Accounting("JAX and XLA", selective="offload", block_bytes=4.0, logit=4.0, communicator=0.0, fragmentation=0.0)
ZERO = Accounting("DeepSpeed ZeRO", bucket=5e8, bucket_bytes=6.0)


def accounting_of(framework: str, year: int, precision: str) -> Accounting:
    """The accounting of a framework by its name; Megatron-Core's where the name says nothing."""
    for pattern, books in _BY_NAME:
        if re.search(pattern, framework, re.I):
            if books is DEEPSPEED_FP16 and precision == "bf16":
                return DEEPSPEED_BF16
            return TORCHTITAN_COMPILED_LOSS if books is TORCHTITAN and year >= _COMPILED_LOSS else books
    return MEGATRON


_COMPILED_LOSS = 2025  # from which torchtitan compiles its loss
_BY_NAME = (
    (r"megatron-deepspeed|megatron\+deepspeed", DEEPSPEED_FP16),
    (r"nemo|megatron-bridge", NEMO),
    (r"nanotron", NANOTRON),
    (r"torchtitan", TORCHTITAN),
    (r"maxtext|levanter|jax|xla|paxml|neuron|tpu", XLA),
    (r"fsdp|composer|foundry|olmo|litgpt", FSDP),
    (r"deepspeed|colossal|internevo", ZERO),
)
