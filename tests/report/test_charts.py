from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from wingspan.report.charts import (
    Bar,
    Beside,
    Dumbbell,
    Line,
    Mark,
    Stack,
    bar_chart,
    beside,
    dumbbells,
    line_chart,
    stacked_bars,
    ticks,
)

numbers = st.floats(-1e9, 1e9, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-9)


@given(numbers, numbers)
def test_ticks_are_even_and_hold_the_range(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    if high - low < 1e-6 * max(abs(low), abs(high)):
        return
    found = ticks(low, high)
    assert 2 <= len(found) <= 8
    slack = 1e-6 * (found[1] - found[0])
    assert found[0] <= low + slack
    assert found[-1] >= high - slack


def test_ticks_of_a_single_value_surround_it() -> None:
    assert ticks(3.0, 3.0)[0] < 3.0 < ticks(3.0, 3.0)[-1]
    assert len(ticks(0.0, 0.0)) >= 2


MARK = Mark("base <1>", 0.4, 0.3, 0.5)
CHARTS = {
    "line": line_chart("<t>", "&d", [Line("<l>", [(1, 4.0), (2, 3.0), (3, 3.5)], 0)], "step", "loss"),
    "line of one point": line_chart("t", "d", [Line("l", [(1, 4.0)], 0)], "step", "loss"),
    "bars": bar_chart("<t>", "&d", [Bar("<script>", 3, "3"), Bar("b", 0, "0")]),
    "no bars": bar_chart("t", "d", []),
    "dumbbells": dumbbells("<t>", "&d", [Dumbbell("<a>", "n", "x", [MARK, Mark("other", 0.6, 0.5, 0.7)])]),
    "beside": beside("<t>", "&d", [Beside("<a>", "x", MARK, 0.45), Beside("b", "x", MARK, None)]),
    "stacks": stacked_bars("<t>", "&d", ["<p>", "q"], [Stack("<a>", "x", [1.0, 2.0], 4.0)]),
}


@pytest.mark.parametrize("chart", CHARTS.values(), ids=CHARTS.keys())
def test_a_chart_is_well_formed_and_says_what_it_is(chart: Markup) -> None:
    figure = ElementTree.fromstring(chart)
    image = figure.find("svg")
    assert image is not None
    assert image.get("role") == "img"
    assert image.findtext("title")
    assert image.findtext("desc")


def test_a_bar_is_as_long_as_its_share() -> None:
    chart = ElementTree.fromstring(bar_chart("t", "d", [Bar("a", 10, "10"), Bar("b", 5, "5", 1)]))
    widths = [box.get("width") for box in chart.iter("rect") if box.get("class") != "track"]
    assert widths == ["100.00%", "50.00%"]


def test_shares_are_drawn_on_the_whole_scale() -> None:
    chart = ElementTree.fromstring(dumbbells("t", "d", [Dumbbell("a", "n", "x", [Mark("m", 0.5, 0.25, 0.75)])]))
    circle = next(chart.iter("circle"))
    assert circle.get("cx") == "50.00%"
    labels = [text.text for text in chart.iter("text") if text.get("class") == "tick"]
    assert labels == ["0.00", "0.25", "0.50", "0.75", "1.00"]


def test_stacked_parts_follow_each_other() -> None:
    chart = ElementTree.fromstring(stacked_bars("t", "d", ["p", "q"], [Stack("a", "x", [1.0, 3.0])]))
    boxes = [(box.get("x"), box.get("width")) for box in chart.iter("rect") if box.get("class") != "track"]
    assert boxes == [("0.00%", "25.00%"), ("25.00%", "75.00%")]
