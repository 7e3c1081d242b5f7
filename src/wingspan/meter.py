"""Wall time, processor time, peak memory and energy of a piece of work on this machine."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from wingspan.figures import Figure, measured, predicted

_RAPL = Path("/sys/class/powercap/intel-rapl:0/energy_uj")
_WATTS_PER_BUSY_CORE = 8.0  # a server core under vector load with its share of memory; SPECpower 2023-24 range 5-11
_JOULES_PER_KWH = 3.6e6
COUNTERS = ("NVML", "RAPL")  # what a measured energy names as its source


class Meter:
    """Measures the block it encloses: `with Meter() as meter: ...; meter.wall_s`."""

    def __enter__(self) -> Self:
        _reset_peak_memory()
        self._wall = time.perf_counter()
        self._cpu = _cpu_seconds()
        self._energy = EnergyMeter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wall_s = time.perf_counter() - self._wall
        self.cpu_s = _cpu_seconds() - self._cpu
        self.peak_memory_bytes = peak_memory_bytes()
        kwh, source = self._energy.since_last(self.wall_s)
        counted = source.startswith(COUNTERS)
        self._used = measured(kwh, "kWh", source) if counted else predicted(kwh, "kWh", error=0.5, source=source)

    def energy(self) -> Figure:
        """kWh: read from the processor's counter where there is one, else predicted from its busy time."""
        return self._used


class EnergyMeter:
    """Energy of a piece of work: counted by its NVIDIA devices or this processor, else predicted, and said which.

    `watts` are of one of the work's `devices`, where they are no processors; each uses as much as this process's own.
    """

    def __init__(self, watts: float | None = None, devices: int = 1) -> None:
        self._watts, self._devices = watts, devices
        self._nvidia = _nvidia_device() if watts else None
        self._counted, self._cpu = self._count(), _cpu_seconds()

    def since_last(self, seconds: float) -> tuple[float, str]:
        """kWh since this was last asked, `seconds` ago, and what they rest on."""
        joules, cpu = self._count(), _cpu_seconds()
        counted, busy = (joules, self._counted), cpu - self._cpu
        self._counted, self._cpu = joules, cpu
        if counted[0] is not None and counted[1] is not None and counted[0] >= counted[1]:  # none has begun again
            used = counted[0] - counted[1]
            if self._nvidia:
                return used * self._devices / _JOULES_PER_KWH, f"NVML counter of a device, times {self._devices}"
            return used / _JOULES_PER_KWH, "RAPL counter of the processor package"
        if self._watts:
            return (
                seconds * self._watts * self._devices / _JOULES_PER_KWH,
                f"{self._watts:.0f} W per device, as planned",
            )
        source = f"{_WATTS_PER_BUSY_CORE:.0f} W per busy core; no energy counter is readable here"
        return busy * _WATTS_PER_BUSY_CORE * self._devices / _JOULES_PER_KWH, source

    def _count(self) -> float | None:
        """Joules so far, None where nothing counts them."""
        if self._nvidia:
            return self._nvidia()
        return None if self._watts else _rapl_joules()


def _nvidia_device() -> Callable[[], float] | None:
    """Joules that this process's device has used, where NVML (the optional nvidia-ml-py) is there to say so."""
    try:
        import pynvml

        pynvml.nvmlInit()
        device = pynvml.nvmlDeviceGetHandleByIndex(int(os.environ.get("LOCAL_RANK", "0")))
        pynvml.nvmlDeviceGetTotalEnergyConsumption(device)
    except Exception:  # no library, no driver, no device, or one without a counter: each has an error of its own
        return None
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(device)) / 1e3


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
