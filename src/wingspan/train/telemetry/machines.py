"""What a run's time is worth on the machines that plan priced: work per token, peak, power, price."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from wingspan.project import Fleet


@dataclass(frozen=True)
class Machines:
    """The machines of a run; None is what is not known. `peak` are FLOP/s of all of them, `watts` of each."""

    devices: int = 1
    flops_per_token: float | None = None
    peak: float | None = None
    watts: float | None = None
    usd_per_device_hour: float | None = None
    usd_per_kwh: float = 0.0

    def mfu(self, tokens_per_s: float) -> float | None:
        """Model FLOPs over what the machines could do, None where one of them is not known."""
        return tokens_per_s * self.flops_per_token / self.peak if self.flops_per_token and self.peak else None

    def cost(self, seconds: float, kwh: float) -> tuple[float, str]:
        """US dollars of so much time and energy, and what they rest on."""
        if self.usd_per_device_hour is None:
            return kwh * self.usd_per_kwh, f"electricity at ${self.usd_per_kwh:g} per kWh"
        usd = seconds / 3600 * self.devices * self.usd_per_device_hour
        return usd, f"${self.usd_per_device_hour:.4g} per device-hour"


def read_machines(plan: Path, fleet: Fleet) -> Machines:
    """The machines as plan.json describes them; what it does not know is of the project file, or not known."""
    priced = json.loads(plan.read_text())["fleet"] if plan.is_file() else {}

    def value(name: str) -> float | None:
        found = priced.get(name)
        return float(found["value"] if isinstance(found, dict) else found) if found else None

    flops, rate, mfu = value("flops_per_token"), value("tokens_per_s"), value("mfu")
    cost, hours = value("cost"), value("device_hours")
    return Machines(
        devices=fleet.devices,
        flops_per_token=flops,
        peak=flops * rate / mfu if flops and rate and mfu else None,
        watts=value("watts_per_device"),
        usd_per_device_hour=fleet.price_per_device_hour or (cost / hours if cost and hours else None),
        usd_per_kwh=fleet.price_per_kwh,
    )
