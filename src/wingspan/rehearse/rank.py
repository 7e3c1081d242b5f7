"""One rank of a fleet that does not exist: built by the function that train calls, stepped for real on fakes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor, Shard
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from wingspan.errors import WorkError
from wingspan.model.network import Decoder
from wingspan.model.shape import ModelShape
from wingspan.project import Layout, Train
from wingspan.rehearse.trackers import Collective, Kind, Tracker, Work, optimizer_tensors
from wingspan.train import torch_compat
from wingspan.train.data.batches import Batch
from wingspan.train.faults.health import Health
from wingspan.train.loop import take_step
from wingspan.train.optimize.optimizers import make_optimizers
from wingspan.train.parallel.build import build
from wingspan.train.parallel.layouts import compute_precision, layers_of_rank, stages_of_rank
from wingspan.train.parallel.mesh import MESH_AXES, make_mesh
from wingspan.train.parallel.part import Part

_ITEM = torch.ops.aten._local_scalar_dense.default
_INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_, torch.ops.aten._index_put_impl_)
_CPU = torch.device("cpu")  # fakes of a processor's tensors: torch without CUDA cannot make others


@dataclass(frozen=True)
class RankTask:
    """What to rehearse: one rank of a layout, standing for `ranks` ranks of its kind."""

    kind: str
    rank: int
    ranks: int
    shape: ModelShape
    layout: Layout
    train: Train
    accelerator: bool  # the fleet's devices are not processors: their precision is what the layout says
    pipeline_ranks: tuple[int, ...] = (0,)  # that are of this kind

    @property
    def micro_batches(self) -> int:
        """Forward passes of a step."""
        return self.train.global_batch // (self.layout.data_parallel * self.layout.micro_batch)


@dataclass(frozen=True)
class RankRehearsal:
    """One training step of one rank: bytes at the peak and what they are made of, FLOPs, collectives."""

    kind: str
    rank: int
    ranks: int
    stage: int
    stages: int
    micro_batches: int  # of a step
    rehearsed_micro_batches: int  # the others were reckoned from the difference that one makes
    peak_bytes: int
    static_bytes: int  # parameters and optimizer state: what is there between two steps
    at_peak: Mapping[Kind, int]
    flops: Mapping[str, int]
    operations: int
    collectives: Mapping[tuple[str, str, int], tuple[int, int]]  # (op, mesh axes, ranks) -> calls, bytes
    calls: Sequence[Collective] = field(repr=False)  # in order, of the rehearsed micro-batches
    unsharded: Mapping[str, int]  # parameters that should be sharded and lie whole on every rank: bytes
    shards: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(repr=False, default_factory=dict)  # sizes
    samples: Sequence[RankRehearsal] = field(repr=False, default=())  # of which this was put together, if it was
    phases: Sequence[str] = field(repr=False, default=())  # of the step, in order
    work: Sequence[Work] = field(repr=False, default=())  # in order, each in one of the phases
    pipeline_ranks: tuple[int, ...] = (0,)  # that are of this kind
    order: Sequence[Sequence[str]] = field(repr=False, default=())  # of every pipeline rank: 0F1, 0B1, ...


def samples_of(task: RankTask) -> list[RankTask]:
    """The tasks that show what `task` takes: itself, or of many micro-batches fewer.

    The fewest that fill the pipeline (at least two, as gradients then accumulate), and one more, or one more for
    each rank where stages take turns: each of the others adds the same operations again, and memory no longer
    grows. `reckon` puts them together.
    """
    stages = len(stages_of_rank(task.layout, 0))
    few, more = max(task.layout.pp * stages, 2), task.layout.pp if stages > 1 else 1
    if task.micro_batches <= few + more:
        return [task]
    row = task.layout.data_parallel * task.layout.micro_batch
    trains = [task.train.model_copy(update={"global_batch": number * row}) for number in (few, few + more)]
    return [replace(task, train=train) for train in trains]


def rehearse_rank(task: RankTask) -> RankRehearsal:
    """Build and step one rank in this process, which afterwards must not rehearse another: DTensor remembers groups."""
    torch_compat.start_fake_process_group(task.rank, task.layout.world_size)
    try:
        return _rehearse(task)
    finally:
        dist.destroy_process_group()


def _rehearse(task: RankTask) -> RankRehearsal:
    layout, micro_batches = task.layout, task.micro_batches
    part = build(
        task.shape,
        layout,
        sequence=task.train.sequence,
        rows=micro_batches * layout.micro_batch,
        compute=compute_precision(layout, torch.device("cuda") if task.accelerator else _CPU),
        device=_CPU,
        mesh=make_mesh(layout, _CPU.type) if layout.world_size > 1 else None,
    )
    with _fake_tensors(), torch_compat.static_pipeline_shapes():
        part.model.to_empty(device=_CPU)
        with _naming_modules(part):
            tracker = track_step(part, task.train, micro_batches)
    calls = [_placed(one, layout) for one in tracker.collectives]
    return RankRehearsal(
        kind=task.kind,
        rank=task.rank,
        ranks=task.ranks,
        stage=task.rank * layout.pp // layout.world_size,
        stages=layout.pp,
        micro_batches=micro_batches,
        rehearsed_micro_batches=micro_batches,
        peak_bytes=tracker.peak_bytes,
        static_bytes=sum(tracker.alive()[kind] for kind in ("parameters", "optimizer")),
        at_peak=tracker.at_peak(),
        flops=dict(tracker.flops),
        operations=tracker.operations,
        collectives=_sums(calls),
        calls=calls,
        unsharded=_unsharded(part),
        shards=_shards(part),
        phases=tracker.phases,
        work=tracker.work,
        pipeline_ranks=task.pipeline_ranks,
        order=_order(part, micro_batches),
    )


@contextmanager
def _naming_modules(part: Part) -> Iterator[None]:
    """Say of an error inside in which module of the network it arose."""
    names, last = {module: name for name, module in part.model.named_modules()}, "the model"

    def note(module: torch.nn.Module, _: Any) -> None:
        nonlocal last
        last = names.get(module) or last

    handle = register_module_forward_pre_hook(note)
    try:
        yield
    except Exception as error:
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        raise WorkError(f"{type(first).__name__}: {str(first).strip() or 'no message'}", where=last) from error
    finally:
        handle.remove()


def _order(part: Part, micro_batches: int) -> list[list[str]]:
    """What each pipeline rank computes, in order; 0F1 is stage 0 forward on micro-batch 1."""
    planned = part.pipeline.pipeline_order if part.pipeline and len(stages_of_rank(part.layout, 0)) > 1 else None
    if not planned:  # 1F1B follows no list, and the one that torch draws of it is another
        return [one_forward_one_backward(stage, part.layout.pp, micro_batches) for stage in range(part.layout.pp)]
    return [[str(one) for one in planned[rank] if one is not None] for rank in sorted(planned)]


def one_forward_one_backward(stage: int, stages: int, micro_batches: int) -> list[str]:
    """Narayanan et al. 2019: as many forward passes as stages are left, then one backward for one forward."""
    ahead = min(stages - stage, micro_batches)
    order = [f"{stage}F{number}" for number in range(ahead)]
    for number in range(micro_batches):
        order.append(f"{stage}B{number}")
        if number + ahead < micro_batches:
            order.append(f"{stage}F{number + ahead}")
    return order


def track_step(part: Part, train: Train, micro_batches: int) -> Tracker:
    """Follow one step of the training loop as it is after the first: with the optimizer's state in place."""
    optimizers = make_optimizers(part.model, train.optimizer)
    for parameter in part.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.step(0.0)
    batch = _batch(micro_batches * part.layout.micro_batch, train.sequence)
    tracker = Tracker()
    tracker.own(part.model.parameters(), "parameters")
    for optimizer in optimizers.parts:
        tracker.own(optimizer_tensors(optimizer), "optimizer")
        tracker.follow(optimizer)
    with tracker, _telling_forward(tracker):
        take_step(part, optimizers, batch, train.optimizer.clip, learning_rate=0.0, health=Health(0, 0))
    return tracker


@contextmanager
def _telling_forward(tracker: Tracker) -> Iterator[None]:
    """Tell the tracker when a stage of the network begins a forward pass, before its parameters are gathered."""
    handle = register_module_forward_pre_hook(
        lambda module, _: tracker.begin("forward") if isinstance(module, Decoder) else None
    )
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _fake_tensors() -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=True), _Guesses():  # type: ignore[no-untyped-call]
        yield


class _Guesses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers for fakes, which hold no numbers: a float read off the device is 1, a mask chooses everything.

    Whole numbers are how many rows go to each rank's experts: as many as to every other's.
    """

    _rows = 0  # that the last count of rows by expert counted

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _ITEM:
            return 1.0 if args[0].dtype.is_floating_point else self._share(args[0])
        if func is torch.ops.aten.scatter_add.default:
            self._rows = args[3].numel()
        if func._overloadpacket in _INDEXING:
            args = (args[0], [_all_of(one) for one in args[1]], *args[2:])
        return func(*args, **(kwargs or {}))

    def _share(self, one: torch.Tensor) -> int:
        ranks = one.untyped_storage().nbytes() // one.itemsize
        return self._rows // ranks + (one.storage_offset() < self._rows % ranks) if ranks > 1 else 1


def _all_of(index: torch.Tensor | None) -> torch.Tensor | None:
    return torch.arange(len(index)) if index is not None and index.dtype is torch.bool else index


def _batch(rows: int, sequence: int) -> Batch:
    """Rows of one whole document each: every token is predicted, which is the most that a step can hold."""
    positions = torch.arange(sequence).expand(rows, sequence).contiguous()
    tokens, targets, documents = (torch.zeros_like(positions) for _ in range(3))
    return Batch(tokens, targets, positions, documents)


def _placed(call: Collective, layout: Layout) -> Collective:
    """The call with its group as the axes of the mesh along which the group's ranks differ, joined by '+'.

    Expert parallelism lies inside dp_shard x cp: there all-to-alls are among near ranks, what shards experts among far.
    """
    ranks = torch_compat.group_ranks(call.group)
    stride = ranks[1] - ranks[0] if len(ranks) > 1 else 1
    axes = _axes(tuple(ranks), (layout.pp, layout.dp_replicate, layout.dp_shard, layout.cp, layout.tp))
    if "alltoall" in call.op:
        axes = "ep"
    elif len(ranks) < math.prod(getattr(layout, axis) for axis in axes.split("+") if axis):
        axes = "expert_shard"
    return replace(call, group=axes, ranks=len(ranks), stride=stride)


@lru_cache
def _axes(ranks: tuple[int, ...], sizes: tuple[int, ...]) -> str:
    coordinates = np.unravel_index(ranks, sizes)
    return "+".join(name for name, along in zip(MESH_AXES, coordinates, strict=True) if len(set(along)) > 1)


def _sums(calls: Sequence[Collective]) -> dict[tuple[str, str, int], tuple[int, int]]:
    """Calls and bytes of each operation in each group."""
    found: dict[tuple[str, str, int], tuple[int, int]] = {}
    for one in calls:
        key = one.op, one.group, one.ranks
        before = found.get(key, (0, 0))
        found[key] = before[0] + 1, before[1] + one.bytes
    return found


def _shards(part: Part) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Parameters of this rank by name: the size of the whole one and of this rank's shard."""
    return {
        name: (tuple(one.shape), tuple((one.to_local() if isinstance(one, DTensor) else one).shape))
        for name, one in part.model.named_parameters()
    }


def _unsharded(part: Part) -> dict[str, int]:
    """Parameters that every rank holds whole although the layout shards parameters: name -> bytes."""
    if part.layout.dp_shard == 1:
        return {}
    return {
        name: parameter.nbytes
        for name, parameter in part.model.named_parameters()
        if not isinstance(parameter, DTensor) or not any(isinstance(one, Shard) for one in parameter.placements)
    }


def reckon(task: RankTask, samples: Sequence[RankRehearsal]) -> RankRehearsal:
    """What `task` takes, from its samples: the first, and what the second added for every micro-batch not run."""
    if len(samples) == 1:
        return samples[0]
    base, more = samples
    others, added = task.micro_batches - base.micro_batches, more.micro_batches - base.micro_batches

    def grown(before: int, after: int) -> int:
        return before + others * (after - before) // added

    fuller = max(samples, key=lambda one: one.peak_bytes)
    return replace(
        base,
        samples=samples,
        micro_batches=task.micro_batches,
        peak_bytes=fuller.peak_bytes,
        at_peak=fuller.at_peak,
        flops={op: grown(base.flops[op], more.flops[op]) for op in base.flops},
        operations=grown(base.operations, more.operations),
        collectives={
            key: (grown(calls, more.collectives[key][0]), grown(bytes_, more.collectives[key][1]))
            for key, (calls, bytes_) in base.collectives.items()
        },
    )


def kinds_of_ranks(shape: ModelShape, layout: Layout, train: Train, *, accelerator: bool) -> list[RankTask]:
    """One task for every distinct kind of rank: pipeline stages that hold the same blocks and ends.

    Of the stages alike the earliest is rehearsed: under 1F1B it holds the most micro-batches. Ranks that
    differ in the other axes run the same program on equal or smaller shards.
    """
    per_stage = layout.world_size // layout.pp
    alike: dict[tuple[int, bool, bool], list[int]] = {}
    for rank in range(layout.pp):
        layers = layers_of_rank(shape.layers, layout, rank)
        alike.setdefault((len(layers), 0 in layers, shape.layers - 1 in layers), []).append(rank)
    return [
        RankTask(
            _name(stages, layout),
            stages[0] * per_stage,
            len(stages) * per_stage,
            shape,
            layout,
            train,
            accelerator,
            tuple(stages),
        )
        for stages in alike.values()
    ]


def _name(stages: Sequence[int], layout: Layout) -> str:
    if layout.pp == 1:
        return "every rank" if layout.world_size > 1 else "the device"
    first, last = stages[0], stages[-1]
    if first == 0:
        return "first stage"
    if last == layout.pp - 1:
        return "last stage"
    return f"stages {first + 1} to {last + 1}" if len(stages) > 1 else f"stage {first + 1}"
