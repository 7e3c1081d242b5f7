"""What is checked before the first step: timeouts that rise from rung to rung, memory that must suffice."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from wingspan.errors import InputError
from wingspan.model.shape import ModelShape
from wingspan.project import Layout
from wingspan.units import duration, size

HEARTBEAT = "TORCH_NCCLHEARTBEAT_TIMEOUT_SEC"  # after which NCCL's own watchdog ends a process
_BYTES_PER_PARAMETER = 12  # at least: weight, gradient and one moment in float32


def check_timeouts(hang_timeout_s: float) -> None:
    """Who speaks first, knows most: the watch, then at twice its time a collective, then NCCL's heartbeat.

    Raises InputError when the environment puts the last before the others.
    """
    heartbeat_s = float(os.environ.setdefault(HEARTBEAT, f"{3 * hang_timeout_s:.0f}"))
    if heartbeat_s <= 2 * hang_timeout_s:
        raise InputError(
            f"{duration(heartbeat_s)} end a rank before a collective gives up ({duration(2 * hang_timeout_s)})",
            where=HEARTBEAT,
            remedy="Raise it, or lower train.hang_timeout_s",
        )


def check_memory(shape: ModelShape, layout: Layout, device: torch.device) -> None:
    """Raise InputError when weights, gradients and optimizer alone do not fit into the memory that is free here."""
    if device.type == "cuda":
        free, ranks = torch.cuda.mem_get_info(device)[0], 1
    else:
        found = re.search(r"MemAvailable:\s+(\d+) kB", _meminfo())
        free, ranks = 1024 * int(found.group(1)) if found else 0, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    needed = _BYTES_PER_PARAMETER * shape.parameters * ranks // (layout.pp * layout.tp * layout.dp_shard)
    if free and needed > free:
        raise InputError(
            f"training needs more than {size(needed)} of memory here, {size(free)} are free",
            where="layout",
            remedy="Spread it over more devices (layout.dp_shard, tp, pp), or train a smaller model",
        )


def _meminfo() -> str:
    path = Path("/proc/meminfo")
    return path.read_text() if path.is_file() else ""
