"""How a stage gets a network to train: layout read, built over the ranks, filled with its first weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from wingspan.model.checkpoint import Folder
from wingspan.model.shape import ModelShape
from wingspan.project import Layout
from wingspan.train.parallel.build import Part, build, initial_value, make_mesh, materialise
from wingspan.train.parallel.layouts import compute_precision, fit_layout
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
    compile_blocks: bool = False,
) -> Part:
    """This rank's part of a network with its first weights: those of a Hugging Face folder, or random by a seed.

    Raises InputError when the layout does not fit the model, the batch or the ranks that run.
    """
    fitting = fit_layout(layout, shape, sequence=sequence, global_batch=global_batch, ranks=ranks())
    part = build(
        shape,
        fitting,
        sequence=sequence,
        rows=global_batch // fitting.data_parallel,
        compute=compute_precision(fitting, device),
        device=device,
        mesh=make_mesh(fitting, device.type) if ranks() > 1 else None,
        compile_blocks=compile_blocks,
    )
    if isinstance(start, Folder):
        materialise(part, lambda name, size: start.tensor(name))
    else:
        materialise(part, lambda name, size: initial_value(shape, start, name, size))
    return part
