"""One way to say sizes, times, counts, energy, mass and money."""

from __future__ import annotations

import math

GIB = 1024**3
MIB = 1024**2


def size(bytes_: float) -> str:
    """Bytes as a person reads them: `512 B`, `3.4 MiB`, `0.35 GiB`."""
    if bytes_ < 1024:
        return f"{bytes_:.0f} B"
    for unit, scale in (("KiB", 1024), ("MiB", MIB), ("GiB", GIB), ("TiB", 1024 * GIB)):
        if bytes_ < 1000 * scale:
            return f"{bytes_ / scale:.3g} {unit}"
    return f"{bytes_ / (1024 * 1024 * GIB):.3g} PiB"


def duration(seconds: float) -> str:
    """Seconds as a person reads them: `12 ms`, `0.4 s`, `3 min 20 s`, `2 h 5 min`, `17.3 days`."""
    if 0 < seconds < 0.1:
        return f"{seconds * 1000:.2g} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    if seconds < 48 * 3600:
        hours, rest = divmod(round(seconds / 60), 60)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{seconds / 86400:,.1f} days"


def count(number: float) -> str:
    """A count: `950`, `12.4k`, `135M`, `15T`."""
    for scale, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= scale:
            return f"{number / scale:.3g}{suffix}"
    return f"{number:.3g}" if number != int(number) else f"{int(number)}"


def energy(kwh: float) -> str:
    """Energy as a person reads it: `3.2 Wh`, `1.25 kWh`, `310 MWh`, `12 GWh`."""
    for unit, scale in (("GWh", 1e6), ("MWh", 1e3), ("kWh", 1.0)):
        if kwh >= scale:
            return f"{kwh / scale:.3g} {unit}"
    return f"{kwh * 1000:.3g} Wh"


def mass(tonnes: float) -> str:
    """Mass as a person reads it: `0.7 g`, `2.4 kg`, `2,450 t`."""
    for unit, scale in (("t", 1.0), ("kg", 1e3)):
        if tonnes * scale >= 1:
            return f"{tonnes * scale:,.3g} {unit}" if tonnes * scale < 1000 else f"{tonnes * scale:,.0f} {unit}"
    return f"{tonnes * 1e6:.3g} g"


def money(dollars: float) -> str:
    """US dollars: `$0.0021`, `$12.40`, `$48,200`, `$24.1M`."""
    if dollars >= 1e9:
        return f"${dollars / 1e9:,.2f}B"
    if dollars >= 1e6:
        return f"${dollars / 1e6:,.1f}M"
    if dollars >= 1000:
        return f"${dollars:,.0f}"
    decimals = 2 if dollars >= 0.01 or dollars == 0 else 1 - math.floor(math.log10(dollars))
    return f"${dollars:.{decimals}f}"


def amount(value: float, unit: str) -> str:
    """A number with its unit, each unit said in one way."""
    match unit:
        case "s":
            return duration(value)
        case "days":
            return duration(value * 86400)
        case "B":
            return size(value)
        case "USD":
            return money(value)
        case "kWh":
            return energy(value)
        case "MWh":
            return energy(value * 1000)
        case "t":
            return mass(value)
        case "share":
            return f"{100 * value:.3g}%"
        case "kW":
            return f"{value / 1000:,.3g} MW" if value >= 1000 else f"{value:,.3g} kW"
        case "m3":
            return f"{value:,.0f} m³"
        case _:
            return f"{count(value)} {unit}"
