"""The catalogue of chips, this machine's measurement, and what both feed."""

import json
import subprocess
import sys

import pytest

from wingspan.errors import InputError
from wingspan.plan.devices.chips import catalogue, chip_named, this_machine
from wingspan.plan.devices.machine import Measurement, measure, nominal


def test_every_chip_of_the_catalogue_says_where_its_figures_come_from() -> None:
    chips = catalogue()
    assert len(chips) >= 25
    assert len({chip.name for chip in chips}) == len(chips)
    for chip in chips:
        assert chip.source
        assert (chip.usd_per_hour is None) == (not chip.price_source)
        assert (chip.wall_w is None) == (not chip.wall_source)
        assert (chip.reserved_usd_per_hour is None) == (not chip.reserved_source)
        assert (chip.purchase_usd is None) == (not chip.purchase_source)


@pytest.mark.parametrize("name", ["H100 SXM", "h100-sxm", "H100_sxm"])
def test_names_are_found_whatever_their_case_and_punctuation(name: str) -> None:
    assert chip_named(name).bf16_tflops == 989


def test_an_unknown_chip_names_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        chip_named("H100")
    assert "H100 SXM" in caught.value.remedy
    with pytest.raises(InputError, match="Did you mean"):
        chip_named("MI300")


def test_unknown_figures_stay_unknown() -> None:
    assert chip_named("Cerebras WSE-3").missing
    assert chip_named("MI355X").usd_per_hour is None


@pytest.mark.slow
def test_this_machine_is_measured_in_seconds() -> None:
    found = measure(torch=False)
    assert found.seconds < 10
    assert found.bf16_flops is None
    assert found.float32_flops > 1e8
    assert found.memory_bytes_per_s > 1e8
    assert found.cores > 0
    assert json.loads(json.dumps(found.as_json()))["cores"] == found.cores
    assert this_machine(found).bf16_tflops == pytest.approx(found.float32_flops / 1e12)


def test_nominal_rates_do_not_depend_on_the_day() -> None:
    assert nominal() == nominal()
    assert isinstance(nominal(), Measurement)


def test_planning_loads_no_torch() -> None:
    code = (
        "import sys; import wingspan.plan.stage, wingspan.plan.screens.terminal;"
        "assert not {'torch', 'polars', 'pyarrow', 'transformers'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
