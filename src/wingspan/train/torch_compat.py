"""Every private torch API that wingspan uses, in one place, each with a test (torch 2.13)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import ProcessGroup
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.distributed_c10d import GroupName, _resolve_process_group  # type: ignore[attr-defined]
from torch.distributed.pipelining import schedules
from torch.distributed.pipelining._utils import InferenceMode
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator
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
    wait = dist.Work.wait

    def waiting(work: dist.Work, *args: Any, **kwargs: Any) -> bool:
        with context():
            return wait(work, *args, **kwargs)

    dist.Work.wait = waiting  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        dist.Work.wait = wait  # type: ignore[method-assign]


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
