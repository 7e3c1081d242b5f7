"""Every private torch API that wingspan uses, in one place, each with a test (torch 2.13)."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as _functional_collectives
from torch._C._distributed_c10d import ProcessGroup, _dump_fr_trace_json  # type: ignore[attr-defined]
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import GroupName, _resolve_process_group  # type: ignore[attr-defined]
from torch.distributed.pipelining import schedules
from torch.distributed.pipelining._utils import InferenceMode
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.distributed.tensor.placement_types import Placement, Shard, _StridedShard
from torch.testing._internal.distributed.fake_pg import FakeStore

WRAPPERS = (DTensor, AsyncCollectiveTensor)  # tensor classes that hold a local tensor and dispatch on it again


def cpu_multiplies_bf16() -> bool:
    """Whether this processor has bfloat16 matrix instructions that torch uses."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def static_pipeline_shapes() -> Iterator[None]:
    """Inside, pipeline schedules trust the shapes their stages were given, without asking the neighbours.

    The stock warm-up exchanges messages and reads a tensor's value, neither of which works among fake
    ranks or with fake tensors.
    """

    def trust(schedule: Any, stages: Any, *rest: Any) -> None:
        for stage in stages:
            stage._inference_mode = InferenceMode.STATIC

    stock = schedules._PipelineSchedule._warmup_p2p
    schedules._PipelineSchedule._warmup_p2p = trust  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        schedules._PipelineSchedule._warmup_p2p = stock  # type: ignore[method-assign]


@contextmanager
def forward_only(schedule: Any) -> Iterator[None]:
    """Inside, a schedule of several stages per rank runs forward passes alone.

    The stock `eval` runs the other actions too and fails where two neighbouring stages lie on one rank.
    """
    whole = getattr(schedule, "pipeline_order_with_comms", None)
    if whole is not None:
        kinds = {schedules.FORWARD, schedules.SEND_F, schedules.RECV_F, schedules.UNSHARD, schedules.RESHARD}
        schedule.pipeline_order_with_comms = {
            rank: [action for action in actions if action.computation_type in kinds] for rank, actions in whole.items()
        }
    try:
        yield
    finally:
        if whole is not None:
            schedule.pipeline_order_with_comms = whole


def hush_redistribution() -> None:
    """Silence the advice to flatten meshes: gathering a parameter for export is rare, its order does not matter."""
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)


def start_fake_process_group(rank: int, world_size: int) -> None:
    """Make this process rank `rank` of a fleet that does not exist: collectives return at once, unset."""
    dist.init_process_group("fake", rank=rank, world_size=world_size, store=FakeStore())


def backward_pass() -> int:
    """A number that names the backward pass under way, -1 outside of one."""
    return torch._C._current_graph_task_id()


@contextmanager
def around_sharding_propagation(context: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Enter `context` wherever DTensor runs an operation on global shapes to learn its output's shape."""

    class _Around:
        def __enter__(self) -> None:
            self._inner = context()
            self._inner.__enter__()

        def __exit__(self, *error: Any) -> None:
            self._inner.__exit__(*error)

    before = ShardingPropagator._fake_mode_lock
    ShardingPropagator._fake_mode_lock = _Around()  # type: ignore[assignment]
    try:
        yield
    finally:
        ShardingPropagator._fake_mode_lock = before


@contextmanager
def around_waits(context: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Enter `context` wherever a rank waits for a collective: gloo copies some messages there, NCCL does not."""
    wait, wait_tensor = dist.Work.wait, _functional_collectives.wait_tensor

    def waiting(work: dist.Work, *args: Any, **kwargs: Any) -> bool:
        with context():
            return wait(work, *args, **kwargs)

    def waiting_tensor(tensor: torch.Tensor) -> torch.Tensor:
        with nullcontext() if torch.compiler.is_compiling() else context():
            waited: torch.Tensor = wait_tensor(tensor)  # type: ignore[no-untyped-call]
            return waited

    dist.Work.wait = waiting  # type: ignore[method-assign, assignment]
    _functional_collectives.wait_tensor = waiting_tensor
    try:
        yield
    finally:
        dist.Work.wait, _functional_collectives.wait_tensor = wait, wait_tensor  # type: ignore[method-assign]


def record_collectives() -> None:
    """Turn torch's flight recorder on; call before the process group is made."""
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "32")


def last_collective() -> str:
    """The collective that this process began last, '' where none was recorded."""
    recorded = json.loads(_dump_fr_trace_json()).get("entries")
    if not recorded:
        return ""
    last = recorded[-1]
    return f"{last['profiling_name'].partition(':')[2]} of {last['input_sizes']} in {last['process_group'][1]}"


def group_of(func: Any, args: tuple[Any, ...]) -> str | None:
    """The name of the process group of a collective, from its dispatch; None for an operation that sends nothing."""
    if func.namespace == "c10d":
        boxed = next(one for one in args if isinstance(one, torch.ScriptObject))
        return str(ProcessGroup.unbox(boxed).group_name)
    if func.namespace in ("_c10d_functional", "_dtensor"):
        return next((one for one in reversed(args) if isinstance(one, str)), None)
    return None


def group_ranks(name: str) -> list[int]:
    """The global ranks of the process group of that name."""
    return dist.get_process_group_ranks(_resolve_process_group(GroupName(name)))


def flat_group(mesh: DeviceMesh) -> ProcessGroup:
    """One process group over all axes of a mesh, ranks in row-major order of their places; every rank calls this."""
    if mesh.ndim == 1:
        return mesh.get_group()
    with unset_fake_temporarily():  # a rehearsal's tensors are fake, the places of its ranks are not
        return mesh._flatten().get_group()


def shard_of(
    size: Sequence[int], mesh: Sequence[int], place: Sequence[int], placements: Sequence[Placement]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Offsets and sizes of the shard that the rank at a place of a mesh holds of a tensor, cut as torch.chunk cuts.

    A strided shard, FSDP's of what tensor parallelism has cut, is cut after those that are not.
    """
    offset, left = [0] * len(size), list(size)
    for axis in sorted(range(len(placements)), key=lambda axis: isinstance(placements[axis], _StridedShard)):
        placement = placements[axis]
        if isinstance(placement, Shard | _StridedShard):
            step = -(-left[placement.dim] // mesh[axis])
            begin = min(step * place[axis], left[placement.dim])
            offset[placement.dim] += begin
            left[placement.dim] = min(step, left[placement.dim] - begin)
    return tuple(offset), tuple(left)


def flatten_mesh(mesh: DeviceMesh, name: str) -> DeviceMesh:
    """All axes of a mesh as one of that name."""
    return mesh._flatten(name)


def unflatten_mesh(mesh: DeviceMesh, sizes: tuple[int, ...], names: tuple[str, ...]) -> DeviceMesh:
    """The one axis of a mesh as several."""
    return mesh._unflatten(0, sizes, names)


def join_meshes(*meshes: DeviceMesh) -> DeviceMesh:
    """The mesh with the axes of several meshes of the same ranks."""
    return DeviceMesh._concatenate(list(meshes))
