"""Sizes, times, counts, energy, mass and money as a person reads them."""

from __future__ import annotations

import pytest

from wingspan import units


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (units.size, 512, "512 B"),
        (units.size, 3.4 * 1024**2, "3.4 MiB"),
        (units.size, 999 * 1024**3, "999 GiB"),
        (units.size, 2.5 * 1024**5, "2.5 PiB"),
        (units.duration, 0.0123, "12 ms"),
        (units.duration, 0.0, "0.0 s"),
        (units.duration, 0.44, "0.4 s"),
        (units.duration, 200, "3 min 20 s"),
        (units.duration, 7500, "2 h 5 min"),
        (units.duration, 86400 * 17.26, "17.3 days"),
        (units.count, 134_515_008, "135M"),
        (units.count, 950, "950"),
        (units.count, 1.5e13, "15T"),
        (units.energy, 0.0018, "1.8 Wh"),
        (units.energy, 2_100_000, "2.1 GWh"),
        (units.mass, 7e-7, "0.7 g"),
        (units.mass, 0.0024, "2.4 kg"),
        (units.mass, 2450, "2,450 t"),
        (units.money, 0.0021, "$0.0021"),
        (units.money, 0.00018, "$0.00018"),
        (units.money, 48_200, "$48,200"),
        (units.money, 24_100_000, "$24.1M"),
    ],
)
def test_units(function: object, value: float, text: str) -> None:
    assert function(value) == text  # type: ignore[operator]
