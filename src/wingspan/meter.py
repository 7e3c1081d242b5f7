"""Wall time, processor time, peak memory and energy of a piece of work on this machine."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import resource
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from wingspan.figures import Figure, measured, predicted

_RAPL = Path("/sys/class/powercap/intel-rapl:0/energy_uj")
_WATTS_PER_BUSY_CORE = 8.0  # a server core under vector load with its share of memory; SPECpower 2023-24 range 5-11
_JOULES_PER_KWH = 3.6e6


class Meter:
    """Measures the block it encloses: `with Meter() as meter: ...; meter.wall_s`."""

    def __enter__(self) -> Self:
        _reset_peak_memory()
        self._wall = time.perf_counter()
        self._cpu = _cpu_seconds()
        self._energy = _rapl_joules()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wall_s = time.perf_counter() - self._wall
        self.cpu_s = _cpu_seconds() - self._cpu
        self.peak_memory_bytes = peak_memory_bytes()
        end = _rapl_joules()
        self._joules = None if end is None or self._energy is None or end < self._energy else end - self._energy

    def energy(self) -> Figure:
        """kWh: read from the processor's counter where there is one, else predicted from its busy time."""
        if self._joules is not None:
            return measured(self._joules / _JOULES_PER_KWH, "kWh", "RAPL counter of the processor package")
        joules = self.cpu_s * _WATTS_PER_BUSY_CORE
        source = f"{_WATTS_PER_BUSY_CORE:.0f} W per busy core; no energy counter is readable here"
        return predicted(joules / _JOULES_PER_KWH, "kWh", error=0.5, source=source)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _rapl_joules() -> float | None:
    try:
        return int(_RAPL.read_text()) / 1e6
    except (OSError, ValueError):
        return None


def _reset_peak_memory() -> None:
    """Give freed memory back and ask Linux to forget the peak so far, so that each stage has its own."""
    gc.collect()
    with suppress(OSError, AttributeError):  # only glibc keeps what was freed, and can be asked for it
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):  # elsewhere the peak covers the whole process
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes() -> int:
    """Largest resident memory of this process since the last reset (Linux) or since its start."""
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        match = None
    if match:
        return int(match.group(1)) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
