"""A second, faster tier of checkpoints: each rank's own shards, on a disk of its own node.

    LOCAL/RUN/pp1-dp1x2-cp1-tp1/    step-00000012.rank-00003.HASH

A copy is one file that is whole if its content has the hash in its name. It serves the same layout only; what it
cannot serve, a lost node or another layout, the checkpoints on shared storage do.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor
from torch.distributed.tensor import DTensor

from wingspan.project import Layout

_KEPT = 2  # one may be cut short while the other is whole
_BLOCK = 1 << 22  # bytes read at once


class LocalCopies:
    """This rank's copies of one run."""

    def __init__(self, folder: Path, layout: Layout, rank: int) -> None:
        name = f"pp{layout.pp}-dp{layout.dp_replicate}x{layout.dp_shard}-cp{layout.cp}-tp{layout.tp}"
        self._run, self._folder, self._rank = folder, folder / name, rank

    def write(self, step: int, position: dict[str, Any], state: dict[str, Any]) -> dict[str, str]:
        """Keep this rank's shards of a state in host memory; older copies but one are removed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f".rank-{self._rank:05d}.partial"
        torch.save({"position": position, "state": _own_shards(state)}, partial)
        partial.rename(self._folder / f"step-{step:08d}.rank-{self._rank:05d}.{file_hash(partial)}")
        for old in self._files()[:-_KEPT]:
            old.unlink()
        return {}

    def steps(self) -> list[int]:
        """Of which this rank has copies."""
        return [int(file.name[5:13]) for file in self._files()]

    def read(self, step: int, state: dict[str, Any]) -> dict[str, Any] | None:
        """Put a copy's shards into a state, in place, and return its position; None, and nothing done, if damaged."""
        file = next(one for one in self._files() if int(one.name[5:13]) == step)
        if file_hash(file) != file.suffix[1:]:
            return None
        saved = torch.load(file, weights_only=True, mmap=True)
        for part, values in saved["state"].items():
            for name, value in values.items():
                ours = state[part][name]
                if isinstance(ours, Tensor):
                    (ours.to_local() if isinstance(ours, DTensor) else ours).copy_(value)
                else:
                    state[part][name] = value
        position: dict[str, Any] = saved["position"]
        return position

    def clear(self) -> None:
        """The run is done."""
        shutil.rmtree(self._run, ignore_errors=True)

    def _files(self) -> list[Path]:
        """Oldest first."""
        return sorted(self._folder.glob(f"step-*.rank-{self._rank:05d}.*"))


def file_hash(path: Path) -> str:
    """XXH3 of a file: finds every accident (not every forgery) at the speed of memory."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _own_shards(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        part: {name: value.to_local() if isinstance(value, DTensor) else value for name, value in values.items()}
        for part, values in state.items()
    }
