"""The fleet's checkpoints on metadata alone: size, files, how long planning and writing take, another layout.

torch's own planner plans some parameters for all ranks that share them; its work is per shard, so that the whole
network's is that times the shards that there are.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from wingspan.project import Layout, Train
from wingspan.rehearse.findings import Finding
from wingspan.rehearse.rank import RankRehearsal
from wingspan.units import duration, size

Sizes = tuple[tuple[int, ...], tuple[int, ...]]  # of a parameter and of a rank's shard of it

_STATES = {"adamw": 3, "muon": 2}  # tensors per parameter: the weight and its moments
_MOST_PLANNED = 20_000  # pieces
_LARGEST_METADATA = 2**30  # bytes, which every rank reads and holds as it resumes


def rehearse_checkpoint(
    kinds: Sequence[RankRehearsal], layout: Layout, train: Train, plan: Mapping[str, Any]
) -> dict[str, Any]:
    """Save and resume of the whole fleet; `plan` gives the storage's speed and the time between two checkpoints.

    Resuming is on half the shard ranks, without tensor parallelism: every rank reads what several have written.
    """
    kind, states = max(kinds, key=lambda one: one.ranks), _STATES[train.optimizer.name]
    sample = _sample(kind.shards)
    pieces = states * sum(sum(map(_pieces, one.shards.values())) * len(one.pipeline_ranks) for one in kinds)
    share = sum(map(_pieces, sample.values())) / pieces
    began = time.process_time()
    _, metadata = DefaultSavePlanner(flatten_state_dict=False).create_global_plan(_plans(sample, layout))
    planned = time.process_time()
    fewer = min(2, layout.dp_shard) * layout.tp
    reads = [_reads(name, metadata, _first_of_fewer(whole, mine, fewer)) for name, (whole, mine) in sample.items()]
    read = time.process_time()
    numbers = sum(sum(prod(whole) for whole, _ in one.shards.values()) * len(one.pipeline_ranks) for one in kinds)
    bytes_ = 4 * states * numbers  # all of it is fp32
    rate = 1e9 * plan["checkpoint_read_gb_s"]["value"] if "checkpoint_read_gb_s" in plan else None
    return {
        "bytes": bytes_,
        "files": layout.world_size // layout.dp_replicate,
        "pieces": pieces,
        "share_planned": share,
        "planning_s": (planned - began) / share,
        "metadata_bytes": round(len(pickle.dumps(metadata)) / share),
        "save_s": bytes_ / rate if rate else None,
        "interval_s": train.checkpoint_every * plan["step_s"]["value"] if "step_s" in plan else None,
        "resume": {
            "fewer_ranks": fewer,
            "files_per_rank": max(reads),
            "planning_s": (read - planned) * states * len(kind.shards) / len(sample),
        },
    }


def check_checkpoint(checkpoint: Mapping[str, Any]) -> list[Finding]:
    """A checkpoint must be planned and written before the next is due, and its metadata fit into every process."""
    found = []
    takes = checkpoint["planning_s"] + (checkpoint["save_s"] or 0.0)
    if checkpoint["interval_s"] and takes > checkpoint["interval_s"]:
        problem = f"the first checkpoint of {size(checkpoint['bytes'])} takes {duration(takes)} to plan and write, "
        problem += f"and one is due every {duration(checkpoint['interval_s'])}"
        found.append(Finding("warns", problem, "Raise train.checkpoint_every, or shard over fewer ranks"))
    if checkpoint["metadata_bytes"] > _LARGEST_METADATA:
        problem = f"the metadata of a checkpoint is {size(checkpoint['metadata_bytes'])}, which every rank reads"
        found.append(Finding("warns", problem, "Shard over fewer ranks: raise layout.dp_replicate"))
    return found


def _pieces(sizes: Sizes) -> int:
    """Into how many shards a tensor is cut."""
    whole, mine = sizes
    return prod(-(-all_ // part) for all_, part in zip(whole, mine, strict=True)) if prod(mine) else 0


def _sample(shards: Mapping[str, Sizes]) -> dict[str, Sizes]:
    """The first parameters, of so many pieces that planning them lasts about a second."""
    found: dict[str, Sizes] = {}
    for name, one in shards.items():
        if _pieces(one) and (not found or sum(map(_pieces, found.values())) + _pieces(one) <= _MOST_PLANNED):
            found[name] = one
    return found


def _plans(sample: Mapping[str, Sizes], layout: Layout) -> list[SavePlan]:
    """What every rank of a stage would write: its piece of each tensor, the replicas the same."""
    ranks = layout.world_size // layout.pp // layout.dp_replicate
    items: list[list[WriteItem]] = [[] for _ in range(ranks)]
    for name, (whole, mine) in sample.items():
        for rank, chunk in enumerate(_chunks(whole, mine)):
            data = TensorWriteData(chunk, TensorProperties(dtype=torch.float32), torch.Size(whole))
            index = MetadataIndex(name, chunk.offsets)
            items[rank % ranks].append(WriteItem(index, WriteItemType.SHARD, tensor_data=data))
    return [SavePlan(one) for _ in range(layout.dp_replicate) for one in items]


def _chunks(whole: Sequence[int], mine: Sequence[int]) -> Iterator[ChunkStorageMetadata]:
    """A tensor cut into pieces of the size of `mine`, smaller ones at the ends."""
    for offsets in product(*(range(0, all_, part) for all_, part in zip(whole, mine, strict=True))):
        sizes = [min(part, all_ - at) for at, part, all_ in zip(offsets, mine, whole, strict=True)]
        yield ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))


def _first_of_fewer(whole: Sequence[int], mine: Sequence[int], fewer: int) -> ChunkStorageMetadata:
    """The first rank's piece where `fewer` times fewer ranks share a tensor."""
    sizes = list(mine)
    for axis, part in enumerate(mine):
        sizes[axis] = min(whole[axis], part * fewer)
        fewer = max(1, fewer * part // sizes[axis])
    return ChunkStorageMetadata(torch.Size([0] * len(sizes)), torch.Size(sizes))


def _reads(name: str, metadata: Metadata, chunk: ChunkStorageMetadata) -> int:
    """How many saved pieces a rank reads, each from another file, for one of its own."""
    saved = metadata.state_dict_metadata[name]
    assert isinstance(saved, TensorStorageMetadata)
    return len(create_read_items_for_chunk_list(name, saved, [chunk]))
