"""A trained network as a Hugging Face folder, whatever the layout it was trained in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.tensor import DTensor

from wingspan.errors import InputError, WorkError
from wingspan.model.checkpoint import write_folder, write_index, write_weights
from wingspan.model.lora import merged
from wingspan.model.shape import ModelShape
from wingspan.project import Layout
from wingspan.train.checkpoint.checkpoints import MANIFEST, quiet
from wingspan.train.checkpoint.local import file_hash
from wingspan.train.parallel.mesh import MESH_AXES
from wingspan.train.parallel.part import Part
from wingspan.train.start import start_part
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
        parameters = whole_parameters(part)
        write_index(folder, write_weights(folder, parameters, torch.bfloat16, lambda number: f"part-{number}"))
        return
    hush_redistribution()
    dist.barrier()
    stage = part.mesh.get_local_rank("pp")
    files: dict[str, str] = {}
    if all(part.mesh.get_local_rank(axis) == 0 for axis in MESH_AXES if axis != "pp"):
        files = write_weights(
            folder, whole_parameters(part), torch.bfloat16, lambda number: f"part-{stage:05d}-{number:05d}.partial"
        )
    else:
        for _ in whole_parameters(part):  # takes part in the gathering
            pass
    everyone: list[dict[str, str]] = [{}] * dist.get_world_size()
    dist.all_gather_object(everyone, files)
    if first:
        write_index(folder, {name: file for one in everyone for name, file in one.items()})
    dist.barrier()


def export_checkpoint(checkpoint: Path, folder: Path, prepared: Path) -> None:
    """Write a checkpoint of whatever layout as `export` writes a model; `prepared` is prepare's folder.

    One process does it, in float32 memory. Raises InputError without such a checkpoint, WorkError for a damaged one.
    """
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
    except OSError as error:
        there = ", ".join(str(int(one.name[5:])) for one in sorted(checkpoint.parent.glob("step-*"))) or "none"
        raise InputError("there is no such checkpoint", where=checkpoint, remedy=f"Steps there: {there}") from error
    if damaged := [name for name, known in manifest["files"].items() if file_hash(checkpoint / name) != known]:
        raise WorkError(f"the checkpoint is damaged: {damaged[0]} has changed", where=checkpoint, remedy="Take another")
    shape, layout = ModelShape(**manifest["shape"]), Layout(precision="fp32")
    part = start_part(shape, layout, 0, sequence=1, global_batch=1, device=torch.device("cpu"))
    state = {"model": get_model_state_dict(part.model)}
    with quiet():
        load(state, checkpoint_id=checkpoint, no_dist=True)
    set_model_state_dict(part.model, state["model"])
    end_of_document = json.loads((prepared / "tokens/index.json").read_text())["end_of_document"]
    export(part, folder, prepared / "tokenizer", end_of_document)


def whole_parameters(part: Part) -> Iterator[tuple[str, Tensor]]:
    """The plain network's parameters, each whole, adapters merged; every rank takes part in the gathering."""
    return merged(_gathered(part))


def _gathered(part: Part) -> Iterator[tuple[str, Tensor]]:
    """Each parameter of this rank's stages; of tied embeddings, which the last stage has too, the first one's."""
    for name, parameter in part.model.named_parameters():
        if name.endswith("embed_tokens.weight") and not part.model.first:
            continue
        yield name, parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
