"""What this machine can do, measured in about two seconds: matrix multiplication, memory, cores.

Training multiplies in bfloat16 through torch, so torch is timed too where it is installed; it runs in
a process of its own, which keeps torch out of the planner's.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

_SIDE = 768  # of the square matrices; a training step of a small model multiplies matrices of this size
_COPY_BYTES = 128 * 1024**2  # beyond every cache
_SECONDS_EACH = 0.4

_TORCH_PROBE = f"""
import json, time, torch
def rate(dtype):
    a, b = torch.ones({_SIDE}, {_SIDE}, dtype=dtype), torch.ones({_SIDE}, {_SIDE}, dtype=dtype)
    best, end = float("inf"), time.perf_counter() + {_SECONDS_EACH}
    torch.mm(a, b)
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * {_SIDE} ** 3 / best
print(json.dumps({{"bf16": rate(torch.bfloat16), "threads": torch.get_num_threads()}}))
"""


@dataclass(frozen=True)
class Measurement:
    """Rates in FLOP/s and bytes/s of the whole machine; `bf16_flops` is None where torch is not installed."""

    processor: str
    cores: int
    memory_bytes: int
    memory_bytes_per_s: float  # read and write together, as the copy moves them
    float32_flops: float
    bf16_flops: float | None
    seconds: float  # the measurement took, without the start of the torch process

    def as_json(self) -> dict[str, Any]:
        """Every field under its name."""
        return asdict(self)


def measure() -> Measurement:
    """Measure this machine. Best of the repetitions: what else runs now is not the machine's speed."""
    start = time.perf_counter()
    bandwidth = _copy_rate()
    float32 = _matmul_rate()
    seconds = time.perf_counter() - start
    bf16 = _torch_rate()
    return Measurement(
        processor=_processor(),
        cores=usable_cores(),
        memory_bytes=memory_bytes(),
        memory_bytes_per_s=bandwidth,
        float32_flops=float32,
        bf16_flops=bf16,
        seconds=round(seconds + (_SECONDS_EACH if bf16 else 0.0), 2),
    )


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or less where a control group limits it."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):
        return physical
    return min(physical, limit)


def _best_time(work: Callable[[], object]) -> float:
    """Shortest of the repetitions that fit into the time given, after one to warm up; seconds."""
    work()
    best, end = float("inf"), time.perf_counter() + _SECONDS_EACH
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def _copy_rate() -> float:
    source = np.ones(_COPY_BYTES, dtype=np.uint8)
    target = np.empty_like(source)
    return 2 * _COPY_BYTES / _best_time(lambda: np.copyto(target, source))


def _matmul_rate() -> float:
    a = np.ones((_SIDE, _SIDE), dtype=np.float32)
    out = np.empty_like(a)
    return float(2 * _SIDE**3 / _best_time(lambda: np.matmul(a, a, out=out)))


def _torch_rate() -> float | None:
    """bfloat16 matrix multiplications of torch, FLOP/s; None where torch is missing or does not start."""
    try:
        done = subprocess.run([sys.executable, "-c", _TORCH_PROBE], capture_output=True, text=True, timeout=60)
        return float(json.loads(done.stdout)["bf16"])
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def _processor() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def nominal() -> Measurement:
    """This machine's cores and memory with the rates of an ordinary server core: decisions rest on it, times do not.

    30 GFLOP/s of fp32 and 100 of bf16 per core, 15 GB/s of memory bandwidth in all.
    """
    cores = usable_cores()
    return Measurement(
        processor=_processor(),
        cores=cores,
        memory_bytes=memory_bytes(),
        memory_bytes_per_s=15e9,
        float32_flops=3e10 * cores,
        bf16_flops=1e11 * cores,
        seconds=0.0,
    )
