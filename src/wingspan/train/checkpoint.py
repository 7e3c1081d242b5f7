"""Resumable checkpoints: sharded, complete or absent, each file with its hash; damaged ones are passed over.

    checkpoints/step-00000050/    __0_0.distcp ...    .metadata    manifest.json

torch.distributed.checkpoint writes the shards, under parameter names that no layout changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save as save_shards

from wingspan.train.optimizer import Optimizers
from wingspan.train.parallel import Part

_MANIFEST = "manifest.json"
_NAMES = StateDictOptions(flatten_optimizer_state_dict=True)  # optimizer state under parameter names


@dataclass(frozen=True)
class Position:
    """How far a run has come: steps done and samples consumed. It is the loader's whole state."""

    step: int = 0
    samples: int = 0


def save(folder: Path, part: Part, optimizers: Optimizers, position: Position, keep: int) -> None:
    """Write a checkpoint and remove all but the newest `keep`; every rank calls this.

    The checkpoint appears under its name only when all its files are on disk.
    """
    final = folder / f"step-{position.step:08d}"
    partial = folder / f".{final.name}.partial"
    if _rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    _barrier()
    save_shards(_state(part, optimizers), checkpoint_id=partial, no_dist=part.mesh is None)
    files = _gather_hashes(partial, _names(partial)[_rank() :: _ranks()])
    if _rank() == 0:
        manifest = {"step": position.step, "samples": position.samples, "ranks": _ranks(), "files": files}
        with (partial / _MANIFEST).open("w") as stream:
            json.dump(manifest, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in _checkpoints(folder)[keep:]:
            shutil.rmtree(old)
    _barrier()


def restore(folder: Path, part: Part, optimizers: Optimizers, say: Callable[[str], None]) -> Position:
    """Load the newest whole checkpoint; the start of the run when there is none. Every rank calls this.

    A damaged checkpoint is named through `say` and passed over.
    """
    for path in _checkpoints(folder):
        damage = _damage(path)
        if not damage:
            return _load(path, part, optimizers)
        say(f"checkpoint {path.name} is damaged ({damage}); trying an older one")
    return Position()


def _load(path: Path, part: Part, optimizers: Optimizers) -> Position:
    state = _state(part, optimizers)
    load(state, checkpoint_id=path, no_dist=part.mesh is None)
    set_model_state_dict(part.model, state["model"], options=_NAMES)
    set_optimizer_state_dict(part.model, optimizers.parts, state["optimizer"], options=_NAMES)
    manifest = json.loads((path / _MANIFEST).read_text())
    return Position(manifest["step"], manifest["samples"])


def _state(part: Part, optimizers: Optimizers) -> dict[str, Any]:
    return {
        "model": get_model_state_dict(part.model, options=_NAMES),
        "optimizer": get_optimizer_state_dict(part.model, optimizers.parts, options=_NAMES),
    }


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob("step-*"), reverse=True) if folder.is_dir() else []


def _damage(path: Path) -> str:
    """What is wrong with a checkpoint, '' when it is whole; ranks share the reading and all get the answer."""
    try:
        expected: dict[str, str] = json.loads((path / _MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError):
        return "its manifest cannot be read"
    mine = sorted(expected)[_rank() :: _ranks()]
    missing = {name: "" for name in mine if not (path / name).is_file()}
    found = _gather_hashes(path, [name for name in mine if name not in missing], missing)
    return next((f"{name} has changed" for name in sorted(expected) if found[name] != expected[name]), "")


def _gather_hashes(folder: Path, mine: list[str], known: dict[str, str] | None = None) -> dict[str, str]:
    """Hashes of this rank's files, put together with the other ranks'."""
    hashes = dict(known or {})
    for name in mine:
        with (folder / name).open("rb") as stream:
            hashes[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    if _ranks() == 1:
        return hashes
    everyone: list[dict[str, str]] = [{}] * _ranks()
    dist.all_gather_object(everyone, hashes)
    return {name: found for one in everyone for name, found in one.items()}


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
