"""How a stage gets a network to train: layout read, built over the ranks, filled with its first weights."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from wingspan.assets import cache_folder
from wingspan.model.checkpoint import Folder
from wingspan.model.lora import DOWN, UP
from wingspan.model.shape import ModelShape
from wingspan.project import Layout, TunedAt
from wingspan.train.faults.before import check_memory
from wingspan.train.optimize.transfer import initial_scale
from wingspan.train.parallel.balance import install_balances
from wingspan.train.parallel.build import build
from wingspan.train.parallel.layouts import compute_precision, fit_layout
from wingspan.train.parallel.mesh import make_mesh
from wingspan.train.parallel.part import Part
from wingspan.train.parallel.weights import initial_value, materialise
from wingspan.train.processes import ranks


def read_layout(path: Path) -> Layout:
    """The layout that plan wrote: `plan/layout.json`."""
    return Layout.model_validate(json.loads(path.read_text())["layout"])


def start_part(
    shape: ModelShape,
    layout: Layout,
    start: Folder | int,
    *,
    sequence: int,
    global_batch: int,
    device: torch.device,
    compiled: bool = False,
    tuned_at: TunedAt | None = None,
    lora_rank: int = 0,
    z_loss: float = 0.0,
) -> Part:
    """This rank's part of a network with its first weights: those of a Hugging Face folder, or random by a seed.

    With `lora_rank` only adapters learn, which change nothing at first.

    Raises InputError when the layout does not fit the model, the batch or the ranks that run.
    """
    if compiled:  # the next run finds what this one compiles; torch itself names a folder that goes with a restart
        named = os.environ.get("TORCHINDUCTOR_CACHE_DIR", tempfile.gettempdir())
        if Path(named).is_relative_to(tempfile.gettempdir()):
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder() / "compiled")
    fitting = fit_layout(layout, shape, sequence=sequence, global_batch=global_batch, ranks=ranks())
    if not lora_rank:
        check_memory(shape, fitting, device)
    part = build(
        shape,
        fitting,
        sequence=sequence,
        rows=global_batch // fitting.data_parallel,
        compute=compute_precision(fitting, device),
        device=device,
        mesh=make_mesh(fitting, device.type) if ranks() > 1 else None,
        compiled=compiled,
        lora_rank=lora_rank,
        z_loss=z_loss,
    )
    if isinstance(start, Folder):
        materialise(part, lambda name, size: _value(start, shape, name, size))
    else:
        materialise(
            part, lambda name, size: initial_value(shape, start, name, size) * initial_scale(name, shape, tuned_at)
        )
    install_balances(part)
    return part


def _value(start: Folder, shape: ModelShape, name: str, size: torch.Size) -> Tensor:
    """A parameter of a folder, or the start of an adapter, which the folder lacks."""
    if name.endswith(UP):
        return torch.zeros(size)
    return initial_value(shape, 0, name, size) if name.endswith(DOWN) else start.tensor(name)
