"""What one rank allocates, computes and sends during a step: a dispatch mode that sees every operation.

It works alike on real tensors and on fakes. Memory is counted by storage (two views of one storage
count once), FLOPs on the local shapes of the rank, collectives with their process group and bytes.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from wingspan.train import torch_compat

Kind = Literal["parameters", "gathered", "gradients", "optimizer", "activations", "working"]
KINDS: tuple[Kind, ...] = ("parameters", "gathered", "gradients", "optimizer", "activations", "working")
STATIC_KINDS: tuple[Kind, ...] = ("parameters", "optimizer")  # what a rank holds between two steps

_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


SENDS = ("send", "recv_", "isend", "irecv")

_WHOLE_PRODUCT = (torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten._grouped_mm)
_MOVES_NOTHING = ("empty", "new_empty", "wait_tensor", "_local_scalar_dense", "resize", "set_", "_unsafe_view")

What = Literal["multiply", "attention", "attention backward", "move", "call", "wait"]


class Work(NamedTuple):
    """One piece of a step: multiply (m, k, n, groups), attention (FLOPs,), move (bytes, operations), or call a
    collective or wait for it (its number,).
    """

    what: What
    size: tuple[int, ...]
    phase: int  # of the step: an index into Tracker.phases


@dataclass(eq=False)
class _Block:
    """One storage over the time in which its size does not change; the clock counts allocations."""

    bytes: int
    kind: Kind
    born: int
    died: int | None = None
    backward: int = -1  # the backward pass it was born in


@dataclass(frozen=True)
class Collective:
    """One call: operation, process group, size of the whole message in bytes, peer of a send or receive.

    The message of an all-gather is what it returns, that of a reduce-scatter what it is given.
    """

    op: str
    group: str
    bytes: int
    peer: int | None = None
    ranks: int = 1  # of the group
    stride: int = 1  # between neighbours in it


class Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows a step: `with Tracker() as tracker: step()`.

    Enter it after any FakeTensorMode, so that it is asked first. What is alive before the step is
    announced with `own`; `operations`, `flops` (multiply-adds count two) and `collectives` add up.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0
        self.flops: Counter[str] = Counter()
        self.collectives: list[Collective] = []
        self.phases = ["before"]  # then forward and backward passes, and the optimizer's, as they come
        self.work: list[Work] = []
        self._gathering: dict[int, int] = {}  # storage that an all-gather fills -> its number
        self._live: dict[int, tuple[_Block, weakref.ref[torch.UntypedStorage]]] = {}
        self._blocks: list[_Block] = []
        self._clock = 0
        self._bytes = 0
        self._peak = (0, 0)  # bytes, clock
        self._paused = False
        self._backward = -1
        self._in_optimizer = False

    def own(self, tensors: Iterable[torch.Tensor], kind: Kind) -> None:
        """Say what some tensors are, whether they were seen before or not."""
        for tensor in tensors:
            for storage in _storages(tensor):
                self._see(storage)
                self._live[id(storage)][0].kind = kind

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Tell the optimizer's part of a step from the backward pass; its state is named as such."""

        def before(*_: Any) -> None:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self.own(gradients, "gradients")
            self._in_optimizer = True
            self.begin("after")

        def after(*_: Any) -> None:
            self._in_optimizer = False
            self.own(optimizer_tensors(optimizer), "optimizer")

        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)

    def begin(self, phase: str) -> None:
        """What comes now belongs to a new phase of the step."""
        self.phases.append(phase)

    @property
    def peak_bytes(self) -> int:
        """The most that was alive at once."""
        return self._peak[0]

    def at_peak(self) -> dict[Kind, int]:
        """Bytes of each kind at the moment of the peak."""
        moment, found = self._peak[1], dict.fromkeys(KINDS, 0)
        for block in self._blocks:
            if block.born <= moment and (block.died is None or block.died > moment):
                found[block.kind] += block.bytes
        return found

    def alive(self) -> dict[Kind, int]:
        """Bytes of each kind now."""
        found = dict.fromkeys(KINDS, 0)
        for block, _ in self._live.values():
            found[block.kind] += block.bytes
        return found

    # How it sees ---------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(torch_compat.around_sharding_propagation(self._pause))
            stack.enter_context(torch_compat.around_waits(self._pause))
            stack.enter_context(self._watching_resizes())
            super().__enter__()  # type: ignore[no-untyped-call]
            self._leave = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._leave.close()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(issubclass(kind, torch_compat.WRAPPERS) for kind in types):
            return NotImplemented  # it comes again with the local tensors inside
        out = func(*args, **(kwargs or {}))
        if self._paused or func.namespace == "prim":
            return out
        self.operations += 1
        for tensor in _tensors(out):
            for storage in _storages(tensor):
                self._see(storage)
        if (backward := torch_compat.backward_pass()) >= 0 and backward != self._backward:
            self._backward = backward
            self.begin("backward")
        if self._gathering:
            self._wait_for_gathers(args)
        if (group := torch_compat.group_of(func, args)) is not None:
            self._note_collective(func, group, args, out)
        elif (count := _flop_formula(func)) is not None:
            flops = count(*args, **(kwargs or {}), out_val=out)
            self.flops[func._overloadpacket.__name__] += flops
            self._note_product(func._overloadpacket, args, flops)
        elif not func.is_view and not func._opname.startswith(_MOVES_NOTHING):
            self._note_move(args, out)
        return out

    def _note(self, what: What, *size: int) -> None:
        self.work.append(Work(what, size, len(self.phases) - 1))

    def _note_product(self, packet: Any, args: tuple[Any, ...], flops: int) -> None:
        if packet in _WHOLE_PRODUCT:
            self._note("multiply", *_product_size(*args))
        else:
            self._note("attention backward" if packet is _FLASH_BACKWARD else "attention", flops)

    def _note_move(self, args: tuple[Any, ...], out: Any) -> None:
        """Elementwise work reads its inputs and writes its outputs; what follows on another is noted with it."""
        bytes_ = sum(min(one.nbytes, one.untyped_storage().nbytes()) for one in (*_tensors(args), *_tensors(out)))
        last = self.work[-1] if self.work else None
        if last and last.what == "move" and last.phase == len(self.phases) - 1:
            self.work[-1] = last._replace(size=(last.size[0] + bytes_, last.size[1] + 1))
        else:
            self._note("move", bytes_, 1)

    def _wait_for_gathers(self, args: tuple[Any, ...]) -> None:
        """An operation that reads what is being gathered waits for it; streams of a device do so, fakes do not."""
        for tensor in _tensors(args):
            if (number := self._gathering.pop(id(tensor.untyped_storage()), None)) is not None:
                self._note("wait", number)

    @contextmanager
    def _pause(self) -> Iterator[None]:
        """DTensor asks for output shapes by running an operation on its global shape: nobody computes that."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    @contextmanager
    def _watching_resizes(self) -> Iterator[None]:
        """FSDP frees a gathered parameter by resizing its storage, which no dispatch mode is told of."""
        resize = torch.UntypedStorage.resize_

        def watched(storage: torch.UntypedStorage, bytes_: int) -> Any:
            result = resize(storage, bytes_)
            if id(storage) in self._live:
                self._live[id(storage)][0].kind = "gathered"
                self._end(id(storage))
            self._begin(storage, "gathered")
            return result

        torch.UntypedStorage.resize_ = watched  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]

    def _see(self, storage: torch.UntypedStorage) -> None:
        if id(storage) not in self._live:
            self._begin(
                storage, "working" if self._in_optimizer or torch_compat.backward_pass() >= 0 else "activations"
            )

    def _begin(self, storage: torch.UntypedStorage, kind: Kind) -> None:
        key = id(storage)
        self._clock += 1
        block = _Block(storage.nbytes(), kind, self._clock, backward=torch_compat.backward_pass())
        self._live[key] = block, weakref.ref(storage, lambda _: self._end(key))
        self._blocks.append(block)
        self._bytes += block.bytes
        if self._bytes > self._peak[0]:
            self._peak = self._bytes, self._clock

    def _end(self, key: int) -> None:
        block, _ = self._live.pop(key)
        block.died = self._clock + 1
        self._bytes -= block.bytes
        if block.kind == "working" and block.backward >= 0 and torch_compat.backward_pass() != block.backward:
            block.kind = "gradients"  # it outlived its backward pass: an accumulated gradient, not yet reduced

    def _note_collective(self, func: Any, group: str, args: tuple[Any, ...], out: Any) -> None:
        op = func._overloadpacket.__name__
        size = max(sum(tensor.nbytes for tensor in _tensors(one)) for one in (*args, out))
        peer = next(one for one in args if isinstance(one, int)) if op in SENDS else None
        self.collectives.append(Collective(op, group, size, peer))
        number = len(self.collectives) - 1
        self._note("call", number)
        if op == "_allgather_base_":
            self._gathering[id(args[0].untyped_storage())] = number


def passes_of(op: str) -> int:
    """How often a message goes round in a collective: an all-reduce is a scatter and a gather."""
    return 2 if "reduce" in op and "scatter" not in op else 1


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The tensors of an optimizer's state."""
    return [one for state in optimizer.state.values() for one in state.values() if isinstance(one, torch.Tensor)]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)


def _storages(tensor: torch.Tensor) -> Iterator[torch.UntypedStorage]:
    yield (tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage()


def _product_size(a: torch.Tensor, b: torch.Tensor, ends: torch.Tensor | None = None, *_: Any) -> tuple[int, ...]:
    """(m, k, n, groups) of a product; of a grouped one the mean size of its groups, which `ends` counts."""
    (m, k), n, groups = a.shape[-2:], b.shape[-1], a.shape[0] if a.ndim == 3 else 1
    if ends is None:
        return m, k, n, groups
    return (m // len(ends), k, n, len(ends)) if b.ndim == 3 else (m, k // len(ends), n, len(ends))


def _flop_formula(func: Any) -> Any:
    packet = func._overloadpacket
    return _OWN_FORMULAS.get(packet) or flop_registry.get(packet)


def _attention(query: torch.Tensor, key: torch.Tensor, causal: bool, products: int) -> int:
    """FLOPs of `products` matrix products of queries [B, H, S, D] and keys [B, H, T, D].

    A causal kernel skips the masked half (Dao 2023, FlashAttention-2, section 3.1).
    """
    batch, heads, queries, width = query.shape
    full = products * 2 * batch * heads * queries * key.shape[2] * width
    return full // 2 if causal else full


def _flash_forward(query: Any, key: Any, value: Any, dropout: float = 0.0, causal: bool = False, **_: Any) -> int:
    return _attention(query, key, causal, products=2)


def _flash_backward(
    grad: Any, query: Any, key: Any, value: Any, out: Any, lse: Any, dropout: float, causal: bool, **_: Any
) -> int:
    return _attention(query, key, causal, products=5)  # the scores once again, then four gradients


_OWN_FORMULAS = {_FLASH: _flash_forward, _FLASH_BACKWARD: _flash_backward}
