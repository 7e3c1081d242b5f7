"""What this machine can do, measured in about two seconds: matrix multiplication, memory, cores.

Training multiplies in bfloat16 through torch, so torch is timed too where it is installed. All of it runs
in a process of its own, which keeps torch out of the planner's and every measurement on one thread.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wingspan.errors import WorkError

# One core is timed and counted once per core: two threads on a busy machine measure the other work.
_CORES_TOGETHER = 0.89  # of n cores' rates that n cores reach; a second core adds 0.78 to 0.89 of the first
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_START_TIMEOUT_S = 120

_PROBE = """
import json, sys, time
import numpy

SIDE, COPY, EACH = 768, 128 * 1024**2, 0.5

def best(work):
    work()
    shortest, end = float("inf"), time.perf_counter() + EACH
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        shortest = min(shortest, time.perf_counter() - start)
    return shortest

started = time.perf_counter()
source = numpy.ones(COPY, dtype=numpy.uint8)
target = numpy.empty_like(source)
copied = 2 * COPY / best(lambda: numpy.copyto(target, source))
square = numpy.ones((SIDE, SIDE), dtype=numpy.float32)
float32 = 2 * SIDE**3 / best(lambda: numpy.matmul(square, square))
seconds, bf16 = time.perf_counter() - started, None
if "torch" in sys.argv:
    try:
        import torch
    except ImportError:
        pass
    else:
        started = time.perf_counter()
        matrix = torch.ones(SIDE, SIDE, dtype=torch.bfloat16)
        bf16 = 2 * SIDE**3 / best(lambda: torch.mm(matrix, matrix))
        seconds += time.perf_counter() - started
print(json.dumps({"copied": copied, "float32": float32, "bf16": bf16, "seconds": seconds}))
"""


@dataclass(frozen=True)
class Measurement:
    """Rates in FLOP/s and bytes/s of the whole machine; `bf16_flops` is None where torch was not timed."""

    processor: str
    cores: int
    memory_bytes: int
    memory_bytes_per_s: float  # read and write together, as a copy moves them
    float32_flops: float
    bf16_flops: float | None
    seconds: float  # that the measurement took, without starting its process

    def as_json(self) -> dict[str, Any]:
        """Every field under its name."""
        return asdict(self)


def measure(*, torch: bool = True) -> Measurement:
    """Measure this machine, with or without torch; raises WorkError when the measurement cannot run.

    The best of the repetitions counts: what else runs now is not the machine's speed.
    """
    command = [sys.executable, "-c", _PROBE, *(["torch"] if torch else [])]
    environment = os.environ | dict.fromkeys(_THREADS, "1")
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_START_TIMEOUT_S)
        found = json.loads(done.stdout)
    except (ValueError, subprocess.TimeoutExpired) as error:
        raise WorkError(
            "this machine could not be measured", where=sys.executable, remedy="See that this Python runs NumPy"
        ) from error
    cores = usable_cores()
    together = 1 + _CORES_TOGETHER * (cores - 1) if cores > 1 else 1.0
    return Measurement(
        processor=_processor(),
        cores=cores,
        memory_bytes=memory_bytes(),
        memory_bytes_per_s=found["copied"],
        float32_flops=found["float32"] * together,
        bf16_flops=found["bf16"] and found["bf16"] * together,
        seconds=round(found["seconds"], 2),
    )


def nominal() -> Measurement:
    """This machine's cores and memory with the rates of an ordinary server core: decisions rest on it, times do not.

    30 GFLOP/s of fp32 and 100 of bf16 per core, 15 GB/s of memory bandwidth in all.
    """
    cores = usable_cores()
    return Measurement(_processor(), cores, memory_bytes(), 15e9, 3e10 * cores, 1e11 * cores, 0.0)


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


def _processor() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match.group(1).strip() if match else platform.processor() or platform.machine()
