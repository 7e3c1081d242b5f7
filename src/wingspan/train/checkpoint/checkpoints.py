"""Resumable checkpoints: sharded, complete or absent, each file with its hash; damaged ones are passed over.

    checkpoints/step-00000050/    __0_0.distcp ...    .metadata    manifest.json

torch.distributed.checkpoint writes the shards, under parameter names that no layout changes. Training
waits until they are handed to the operating system; flushing to disk, hashing and publishing go on
beside the next steps.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch.distributed as dist
import xxhash
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from wingspan.train.faults.health import Seen
from wingspan.train.optimize.optimizers import Optimizers
from wingspan.train.parallel.build import Part

_MANIFEST = "manifest.json"
_BY_NAME = StateDictOptions(flatten_optimizer_state_dict=True)  # optimizer state under parameter names
_BLOCK = 1 << 22  # bytes read at once


@dataclass(frozen=True)
class Position:
    """How far a run has come: steps done and samples consumed, which is the loader's whole state.

    `seen` are the loss and gradient norm of the last good steps, by which the next are judged.
    """

    step: int = 0
    samples: int = 0
    seen: Sequence[Seen] = ()


class Checkpoints:
    """The checkpoints of one run in one folder; every rank calls every method. Open it around the loop."""

    def __init__(self, folder: Path, part: Part, optimizers: Optimizers, keep: int) -> None:
        self._folder, self._part, self._optimizers, self._keep = folder, part, optimizers, keep
        self._distributed = part.mesh is not None
        self._rank = dist.get_rank() if self._distributed else 0
        self._ranks = dist.get_world_size() if self._distributed else 1
        self._beside = dist.new_group(backend="gloo") if self._distributed else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publish")
        self._publishing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=error is None)
        if error is None:
            self._finish_publishing()

    def save(self, position: Position) -> None:
        """Write a checkpoint, to be published soon; raises what publishing the one before ran into."""
        self._finish_publishing()
        partial = self._folder / f".step-{position.step:08d}.partial"
        if self._rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        if self._distributed:
            dist.barrier()
        with _plain_errors():
            save(
                self._state(),
                storage_writer=FileSystemWriter(partial, sync_files=False),
                no_dist=not self._distributed,
            )
        self._publishing = self._thread.submit(self._publish, partial, position)

    def restore(self, say: Callable[[str], None]) -> Position:
        """Load the newest whole checkpoint; the start of the run when there is none.

        A damaged checkpoint is named through `say` and passed over.
        """
        self._finish_publishing()
        if self._rank == 0:
            for unfinished in self._folder.glob(".step-*.partial"):
                shutil.rmtree(unfinished)
        for path in self._published():
            damage = self._damage(path)
            if not damage:
                return self._load(path)
            say(f"checkpoint {path.name} is damaged ({damage}); trying an older one")
        return Position()

    def _finish_publishing(self) -> None:
        if self._publishing is not None:
            self._publishing.result()
            self._publishing = None

    def _publish(self, partial: Path, position: Position) -> None:
        mine = [path.name for path in partial.glob(f"__{self._rank}_*")] + [".metadata"] * (self._rank == 0)
        for name in mine:
            with (partial / name).open("rb") as stream:
                os.fsync(stream.fileno())
        files = self._gather({name: _hash(partial / name) for name in mine})
        if self._rank:
            return
        manifest = asdict(position) | {"ranks": self._ranks, "files": files}
        with (partial / _MANIFEST).open("w") as stream:
            json.dump(manifest, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        final = self._folder / f"step-{position.step:08d}"
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in self._published()[self._keep :]:
            shutil.rmtree(old)

    def _load(self, path: Path) -> Position:
        state = self._state()
        with _plain_errors():
            load(state, checkpoint_id=path, no_dist=not self._distributed)
        set_model_state_dict(self._part.model, state["model"], options=_BY_NAME)
        set_optimizer_state_dict(self._part.model, self._optimizers.parts, state["optimizer"], options=_BY_NAME)
        manifest = json.loads((path / _MANIFEST).read_text())
        return Position(manifest["step"], manifest["samples"], [(loss, norm) for loss, norm in manifest["seen"]])

    def _state(self) -> dict[str, Any]:
        model, optimizers = self._part.model, self._optimizers.parts
        return {
            "model": get_model_state_dict(model, options=_BY_NAME),
            "optimizer": get_optimizer_state_dict(model, optimizers, options=_BY_NAME),
        }

    def _published(self) -> list[Path]:
        """Newest first."""
        return sorted(self._folder.glob("step-*"), reverse=True)

    def _damage(self, path: Path) -> str:
        """What is wrong with a checkpoint, '' when it is whole; ranks share the reading and all get the answer."""
        try:
            expected: dict[str, str] = json.loads((path / _MANIFEST).read_text())["files"]
        except (OSError, ValueError, KeyError):
            return "its manifest cannot be read"
        mine = sorted(expected)[self._rank :: self._ranks]
        found = self._gather({name: _hash(path / name) if (path / name).is_file() else "" for name in mine})
        return next((f"{name} has changed" for name in sorted(expected) if found[name] != expected[name]), "")

    def _gather(self, mine: dict[str, str]) -> dict[str, str]:
        """All ranks' entries in one dictionary."""
        if self._beside is None:
            return mine
        everyone: list[dict[str, str]] = [{}] * self._ranks
        dist.all_gather_object(everyone, mine, group=self._beside)
        return {name: value for one in everyone for name, value in one.items()}


def _hash(path: Path) -> str:
    """XXH3 of a file: finds every accident (not every forgery) at the speed of memory."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise what went wrong on a rank, a full disk say, not the list that torch packs it in; no chatter."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            yield
        except CheckpointException as error:
            raise next(iter(error.failures.values()))[0] from error
