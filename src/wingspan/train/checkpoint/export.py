"""A trained network as a Hugging Face folder, whatever the layout it was trained in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from wingspan.model.checkpoint import write_folder, write_index, write_weights
from wingspan.train.parallel.build import Part
from wingspan.train.torch_compat import hush_redistribution


def export(part: Part, folder: Path, tokenizer: Path, end_of_document: int) -> None:
    """Write config.json, bf16 safetensors and the tokenizer; every rank calls this.

    One rank of each pipeline stage writes that stage's weights; parameters are gathered one at a time.
    """
    first = not dist.is_initialized() or dist.get_rank() == 0
    if first:
        shutil.rmtree(folder, ignore_errors=True)
        write_folder(folder, part.shape, tokenizer, end_of_document)
    if part.mesh is None:
        write_index(folder, write_weights(folder, _whole(part), torch.bfloat16, lambda number: f"part-{number}"))
        return
    hush_redistribution()
    dist.barrier()
    stage = part.mesh.get_local_rank("pp")
    files: dict[str, str] = {}
    if part.data_rank == 0 and part.mesh.get_local_rank("tp") == 0:
        files = write_weights(
            folder, _whole(part), torch.bfloat16, lambda number: f"part-{stage:05d}-{number:05d}.partial"
        )
    else:
        for _ in _whole(part):  # takes part in the gathering
            pass
    everyone: list[dict[str, str]] = [{}] * dist.get_world_size()
    dist.all_gather_object(everyone, files)
    if first:
        write_index(folder, {name: file for one in everyone for name, file in one.items()})
    dist.barrier()


def _whole(part: Part) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in part.model.named_parameters():
        yield name, parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
