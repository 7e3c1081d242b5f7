"""Many layouts at once: one array per dial, so that every formula of the planner is written once.

A single layout is a grid of one. What is trained (`Workload`) and how (`Software`) is the same for all
layouts of a grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wingspan.plan.step import accounting
from wingspan.plan.step.accounting import MEGATRON, Accounting
from wingspan.project import Layout, Project

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

RECOMPUTE = ("none", "selective", "full")
PRECISION = ("bf16", "fp32", "fp8", "fp4")
SCHEDULES = ("1f1b", "zero_bubble", "zbv", "v_half", "v_min")  # of a pipeline; 1f1b may be interleaved


def added(arrays: Iterable[Array]) -> Array:
    """The sum of arrays, element by element; their shapes broadcast."""
    return reduce(np.add, arrays)


@dataclass(frozen=True)
class Workload:
    """One optimizer step: sequences of `sequence` tokens, `global_batch` of them."""

    sequence: int
    global_batch: int
    optimizer_bytes: int = 8  # of state per parameter: AdamW 8 (two fp32 moments), Muon 4

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.sequence * self.global_batch


@dataclass(frozen=True)
class Software:
    """What a generation of training software does; constants of the software, never of one run."""

    name: str
    flash: bool = True  # attention keeps no score matrix and skips the masked half
    gradient_bytes: float = 4.0  # per gradient on the network: reduced in fp32, or in bf16
    accounting: Accounting = MEGATRON  # what its ranks hold
    generation: tuple[str, str, str, str] = ("fsdp", "", "", "")  # style, framework, its year, its release


WINGSPAN = Software("wingspan: FSDP2 and DTensor, eager", accounting=accounting.WINGSPAN)


def workload_of(project: Project) -> Workload:
    """The workload of [train]."""
    train = project.train
    return Workload(train.sequence, train.global_batch, 8 if train.optimizer.name == "adamw" else 4)


@dataclass(frozen=True)
class Grid:
    """Layouts as arrays; whole numbers held as float64.

    The arrays are of equal length, or broadcast: then the arrangements of ranks lie along the last axis and
    every other dial along an axis of its own, so that a formula is worked out once for all dials that it does
    not depend on. `interleave` is the number of model chunks per pipeline rank; `zero` is the ZeRO stage over
    `shard` (3: fully sharded, what wingspan trains with); `recompute`, `precision` and `schedule` index the
    tuples above.
    """

    replicate: Array
    shard: Array
    tp: Array
    cp: Array
    pp: Array
    ep: Array
    micro_batch: Array
    recompute: Array
    precision: Array
    interleave: Array
    zero: Array
    schedule: Array

    def __len__(self) -> int:
        return len(self.tp)

    @property
    def data_parallel(self) -> Array:
        """Ranks that read different samples."""
        return self.replicate * self.shard

    @property
    def devices(self) -> Array:
        """Ranks of the layout."""
        return self.replicate * self.shard * self.tp * self.cp * self.pp

    def micro_batches(self, workload: Workload) -> Array:
        """Micro-batches of each rank per step."""
        return workload.global_batch / (self.data_parallel * self.micro_batch)

    def take(self, chosen: NDArray[Any]) -> Grid:
        """The layouts that an index or mask array chooses."""
        return Grid(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def columns(self, chosen: slice) -> Grid:
        """Some arrangements of a broadcast grid, with all their dials."""
        flat = {one.name: array for one in fields(self) if (array := getattr(self, one.name)).ndim == 1}
        return replace(self, **{name: array[chosen] for name, array in flat.items()})

    def crossed(self, dials: Sequence[Mapping[str, Sequence[float]]]) -> Grid:
        """Flat layouts broadcast against dials: each of `dials` is an axis, of dials that turn together."""
        arrays = {}
        for axis, together in enumerate(dials):
            behind = (1,) * (len(dials) - axis)
            for name, values in together.items():
                arrays[name] = np.asarray(values, dtype=np.float64).reshape(-1, *behind)
        return replace(self, **arrays)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that all arrays broadcast to."""
        return np.broadcast_shapes(*(getattr(self, field.name).shape for field in fields(self)))

    def flattened(self) -> Grid:
        """The same layouts in arrays of equal length, the arrangements running fastest."""
        return self.chosen(np.arange(math.prod(self.shape)))

    def chosen(self, flat: NDArray[np.intp]) -> Grid:
        """Layouts of a broadcast grid by their numbers, as `flattened` counts them."""
        index = np.unravel_index(flat, self.shape)
        return Grid(**{one.name: np.broadcast_to(getattr(self, one.name), self.shape)[index] for one in fields(self)})

    def dials(self, index: int) -> dict[str, Any]:
        """One layout as words: every dial that is not at its neutral value."""
        words = {"recompute": RECOMPUTE, "precision": PRECISION, "schedule": SCHEDULES}
        values = {one.name: int(getattr(self, one.name)[index]) for one in fields(self)}
        named = {name: words[name][value] if name in words else value for name, value in values.items()}
        return {name: value for name, value in named.items() if value != 1}

    @classmethod
    def joined(cls, grids: Sequence[Grid]) -> Self:
        """Flat grids one after another."""
        return cls(**{one.name: np.concatenate([getattr(grid, one.name) for grid in grids]) for one in fields(cls)})

    def layout(self, index: int) -> Layout:
        """One layout as the project file writes it; needs interleave 1, which the file has no key for."""
        return Layout(
            dp_replicate=int(self.replicate[index]),
            dp_shard=int(self.shard[index]),
            tp=int(self.tp[index]),
            cp=int(self.cp[index]),
            pp=int(self.pp[index]),
            ep=int(self.ep[index]),
            micro_batch=int(self.micro_batch[index]),
            recompute=RECOMPUTE[int(self.recompute[index])],  # type: ignore[arg-type]
            precision=PRECISION[int(self.precision[index])],  # type: ignore[arg-type]
        )

    @classmethod
    def product(cls, dials: Mapping[str, Any]) -> Self:
        """Every combination of the values of the dials; a dial left out has its neutral value."""
        others = {"recompute": [0], "precision": [0], "zero": [3], "schedule": [0]}
        neutral = {field.name: [1] for field in fields(cls)} | others
        axes = [np.asarray(dials.get(name, value), dtype=np.float64) for name, value in neutral.items()]
        mesh = np.meshgrid(*axes, indexing="ij")
        return cls(**dict(zip(neutral, (one.ravel() for one in mesh), strict=True)))

    @classmethod
    def of(cls, layout: Layout) -> Self:
        """The grid of one layout."""
        return cls.product(
            {
                "replicate": [layout.dp_replicate],
                "shard": [layout.dp_shard],
                "tp": [layout.tp],
                "cp": [layout.cp],
                "pp": [layout.pp],
                "ep": [layout.ep],
                "micro_batch": [layout.micro_batch],
                "recompute": [RECOMPUTE.index(layout.recompute)],
                "precision": [PRECISION.index(layout.precision)],
            }
        )
