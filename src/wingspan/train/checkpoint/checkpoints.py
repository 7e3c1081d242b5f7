"""Resumable checkpoints: sharded, complete or absent, each file with its hash; bad ones are passed over.

    checkpoints/step-00000050/    __0_0.distcp ...    .metadata    manifest.json

torch.distributed.checkpoint writes the shards, under parameter names that no layout changes. A thread copies them to
host memory, for which the next update waits, and writes, flushes, hashes and publishes beside the next steps.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from wingspan.errors import InputError, WorkError
from wingspan.train.checkpoint.local import LocalCopies, file_hash
from wingspan.train.faults.health import Seen
from wingspan.train.faults.leaving import Left
from wingspan.train.optimize.optimizers import Optimizers
from wingspan.train.parallel.part import Part
from wingspan.units import size

MANIFEST, _ID = "manifest.json", ".id"
_BY_NAME = StateDictOptions(flatten_optimizer_state_dict=True)  # optimizer state under parameter names
Item = TypeVar("Item")

_LAST_WRITE_S = 10.0  # what a run that ends by an error gives the checkpoint that is being written


@dataclass(frozen=True)
class Position:
    """How far a run has come: steps done and samples consumed, which is the loader's whole state.

    `seen` are the loss and gradient norm of the last good steps, by which the next are judged.
    """

    step: int = 0
    samples: int = 0
    seen: Sequence[Seen] = ()


class Checkpoints:
    """The checkpoints of one run in one folder; every rank calls every method. Open it around the loop.

    Every `every` steps one is due, of which the last `keep` stay. Every `local_every` steps (0: never) each rank keeps
    a copy of its own shards under `local`, a fast disk of its node.
    """

    def __init__(
        self,
        folder: Path,
        part: Part,
        optimizers: Optimizers,
        *,
        every: int = 1,
        keep: int = 1,
        local: str = "",
        local_every: int = 0,
    ) -> None:
        self._folder, self._part, self._optimizers = folder, part, optimizers
        self._every, self._keep, self._local_every = every, keep, local_every if local else 0
        self._distributed = part.mesh is not None
        self._rank = dist.get_rank() if self._distributed else 0
        self._ranks = dist.get_world_size() if self._distributed else 1
        self._beside = dist.new_group(backend="gloo") if self._distributed else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._stager: DefaultStager | None = None
        self._staged: Future[Any] | None = None
        self._writing: Future[None] | None = None
        self._local = LocalCopies(Path(local) / self._run_id(), part.layout, self._rank) if self._local_every else None
        for optimizer in optimizers.parts:
            optimizer.register_step_pre_hook(lambda *_: self._wait_for_staging())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
            if self._local is not None:
                self._local.clear()
        elif self._writing is not None:
            wait([self._writing], _LAST_WRITE_S)
        self._thread.shutdown(wait=False)

    @property
    def failed(self) -> bool:
        """Whether a checkpoint could not be written; `finish` raises why."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def offer(self, position: Position, *, leave: bool = False) -> None:
        """Save if a checkpoint of either kind is due; to `leave`, save and raise Left, or why saving failed."""
        if leave:
            self.save(position)
            self.finish()
            raise Left(
                f"the run was asked to end: step {position.step} is saved",
                where=self._folder,
                remedy="Give the same command again to go on",
            )
        if position.step % self._every == 0:
            self.save(position)
        elif self._local is not None and position.step % self._local_every == 0:
            self._begin(self._write_local, position)

    def save(self, position: Position) -> None:
        """Begin to write a checkpoint; raises what writing the one before ran into."""
        self._begin(self._write, position)

    def finish(self) -> None:
        """Wait until the checkpoint is there; raises WorkError for one that could not be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def restore(
        self,
        say: Callable[[str], None],
        sound: Callable[[Position], bool] = lambda _: True,
        *,
        local: bool = True,
    ) -> Position:
        """Load the newest checkpoint that is whole and `sound` once loaded; the start of the run when there is none.

        Others are named through `say` and removed. Without `local`, those of the fast tier are too new, and forgotten.
        Raises WorkError when none that was loaded is sound, InputError for one of another model.
        """
        self.finish()
        if self._rank == 0:
            for unfinished in self._folder.glob(".step-*.partial"):
                shutil.rmtree(unfinished)
        published = self._published()
        if self._local is not None:
            if local and (found := self._restore_local(self._local, published, say, sound)) is not None:
                return found
            self._local.clear()
        loaded = False
        for number, path in enumerate(published):
            wrong = self._damage(path)
            if not wrong:
                loaded, position = True, self._load(path)
                if sound(position):
                    for bad in published[:number] if self._rank == 0 else ():
                        shutil.rmtree(bad)
                    return position
                wrong = "the loss that it gives is not finite"
            say(f"checkpoint {path.name} is damaged ({wrong}); trying an older one")
        if loaded:
            raise WorkError(
                "no checkpoint gives a loss that is finite", where=self._folder, remedy="Begin anew with --force"
            )
        return Position()

    def _begin(self, write: Callable[[Future[Any], Position], None], position: Position) -> None:
        self.finish()
        device = self._part.device
        if device.type != "cpu":  # the update may be under way, and the copies do not wait for it
            torch.accelerator.synchronize()
        if self._stager is None:
            fast = device.type == "cuda"
            self._stager = DefaultStager(StagingOptions(fast, False, True, fast))
        self._staged = self._stager.stage(self._state())  # type: ignore[assignment]  # a Future, as staging is async
        self._writing = self._thread.submit(self._write_and_let_go, write, position)

    def _wait_for_staging(self) -> None:
        staged = self._staged
        if staged is not None:
            staged.result()

    def _write_and_let_go(self, write: Callable[[Future[Any], Position], None], position: Position) -> None:
        assert self._staged is not None
        try:
            write(self._staged, position)
        finally:
            self._staged = None
            if self._stager is not None and self._part.device.type == "cpu":  # pinned memory is dear, keep it
                self._stager.close()
                self._stager = None

    def _write_local(self, staged: Future[Any], position: Position) -> None:
        assert self._local is not None
        copies = self._local
        self._everyone(position.step, lambda: copies.write(position.step, asdict(position), staged.result()))

    def _write(self, staged: Future[Any], position: Position) -> None:
        partial = self._folder / f".step-{position.step:08d}.partial"
        try:
            self._everyone(position.step, lambda: self._make(partial))
            with quiet():
                save(
                    staged.result(),
                    storage_writer=FileSystemWriter(partial, sync_files=False),
                    planner=DefaultSavePlanner(enable_plan_caching=True),
                    process_group=self._beside,
                    no_dist=not self._distributed,
                )
            files = self._everyone(position.step, lambda: self._flush(partial))
            self._everyone(position.step, lambda: self._publish(partial, position, files))
        except CheckpointException as error:
            rank, (cause, _) = next(iter(error.failures.items()))
            raise self._unwritten(rank, cause, position.step) from error
        finally:
            if self._rank == 0:
                shutil.rmtree(partial, ignore_errors=True)

    def _make(self, partial: Path) -> dict[str, str]:
        if self._rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        return {}

    def _flush(self, partial: Path) -> dict[str, str]:
        """Bring this rank's files to the disk; their hashes."""
        mine = [path.name for path in partial.glob(f"__{self._rank}_*")] + [".metadata"] * (self._rank == 0)
        for name in mine:
            with (partial / name).open("rb") as stream:
                os.fsync(stream.fileno())
        return {name: file_hash(partial / name) for name in mine}

    def _publish(self, partial: Path, position: Position, files: dict[str, str]) -> dict[str, str]:
        if self._rank:
            return {}
        manifest = asdict(position) | {"ranks": self._ranks, "shape": asdict(self._part.shape), "files": files}
        with (partial / MANIFEST).open("w") as stream:
            json.dump(manifest, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        final = self._folder / f"step-{position.step:08d}"
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in self._published()[self._keep :]:
            shutil.rmtree(old)
        return {}

    def _load(self, path: Path) -> Position:
        manifest = json.loads((path / MANIFEST).read_text())
        check_shape(manifest["shape"], self._part, path)
        state = self._state()
        with quiet():
            load(state, checkpoint_id=path, no_dist=not self._distributed)
        return self._take(state, manifest)

    def _take(self, state: dict[str, Any], position: dict[str, Any]) -> Position:
        set_model_state_dict(self._part.model, state["model"], options=_BY_NAME)
        set_optimizer_state_dict(self._part.model, self._optimizers.parts, state["optimizer"], options=_BY_NAME)
        return Position(position["step"], position["samples"], [(loss, norm) for loss, norm in position["seen"]])

    def _restore_local(
        self,
        local: LocalCopies,
        published: Sequence[Path],
        say: Callable[[str], None],
        sound: Callable[[Position], bool],
    ) -> Position | None:
        """The newest copy that all ranks have, if it is newer than all checkpoints."""
        newest = int(published[0].name.removeprefix("step-")) if published else -1
        everyone = self._gather({step for step in local.steps() if step > newest})
        for step in sorted(set.intersection(*everyone), reverse=True):
            state = self._state()
            saved = local.read(step, state)
            if all(self._gather(saved is not None)) and saved is not None:
                position = self._take(state, saved)
                if sound(position):
                    return position
            say(f"the local copies of step {step} are damaged; trying an older checkpoint")
        return None

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
            expected: dict[str, str] = json.loads((path / MANIFEST).read_text())["files"]
        except (OSError, ValueError, KeyError):
            return "its manifest cannot be read"
        mine = sorted(expected)[self._rank :: self._ranks]
        found: dict[str, str] = {}
        for one in self._gather({name: file_hash(path / name) if (path / name).is_file() else "" for name in mine}):
            found |= one
        return next((f"{name} has changed" for name in sorted(expected) if found[name] != expected[name]), "")

    def _run_id(self) -> str:
        """What tells the copies of this run from those of another: made with the first checkpoint folder."""
        file = self._folder / _ID
        if self._rank == 0 and not file.is_file():
            self._folder.mkdir(parents=True, exist_ok=True)
            file.write_text(os.urandom(8).hex())
        self._gather(None)
        return file.read_text()

    def _everyone(self, step: int, work: Callable[[], dict[str, str]]) -> dict[str, str]:
        """Do work on every rank; all ranks' entries in one dictionary, or an error of one rank raised on all."""
        error: Exception | None = None
        mine: dict[str, str] = {}
        try:
            mine = work()
        except (OSError, RuntimeError) as caught:
            error = caught
        found: dict[str, str] = {}
        for rank, (one, failure) in enumerate(self._gather((mine, error))):
            if failure is not None:
                raise self._unwritten(rank, failure, step) from error
            found |= one
        return found

    def _unwritten(self, rank: int, error: BaseException, step: int) -> WorkError:
        free = size(shutil.disk_usage(self._folder).free)
        why = "the disk is full" if getattr(error, "errno", None) == errno.ENOSPC else str(error)
        return WorkError(
            f"rank {rank} could not write the checkpoint of step {step}: {why}; the disk has {free} free",
            where=self._folder,
            remedy="Free some space there and give the same command again: it goes on from the last whole checkpoint",
        )

    def _gather(self, mine: Item) -> list[Item]:
        if self._beside is None:
            return [mine]
        everyone = [mine] * self._ranks
        dist.all_gather_object(everyone, mine, group=self._beside)
        return everyone


def check_shape(saved: dict[str, Any], part: Part, path: Path) -> None:
    """Raise InputError when a checkpoint is of a network of other sizes."""
    ours = json.loads(json.dumps(asdict(part.shape)))
    other = [f"{name} {saved.get(name)} and not {ours[name]}" for name in ours if saved.get(name) != ours[name]]
    if other:
        raise InputError(
            f"the checkpoint is of another model: {', '.join(other)}",
            where=path,
            remedy="Give its settings back, or begin anew with --force",
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's remark that one process saves and loads alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
