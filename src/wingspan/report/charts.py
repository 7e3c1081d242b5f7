"""Charts as inline SVG: pure functions from numbers to markup.

Horizontal positions are percentages of whatever width the page gives, so text keeps its size and
strokes their weight from a phone to a printed page. Colours are the page's CSS classes `c0`, `c1`, ...
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_MARK_COLOURS = (1, 0, 2)  # of the first, second and third mark of a row
_BAR, _BESIDE, _STACK, _DUMBBELL = 34, 44, 46, 104  # pixels from one row of a chart to the next
_MARK = 15  # pixels from one mark of a dumbbell to the next; a row has room for two


@dataclass(frozen=True)
class Line:
    """One curve of a line chart."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    faint: bool = False


@dataclass(frozen=True)
class Bar:
    """One horizontal bar; `text` is its value in words."""

    label: str
    value: float
    text: str
    colour: int = 0


@dataclass(frozen=True)
class Mark:
    """An estimate on a dumbbell or beside a prediction: a point with its interval."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Dumbbell:
    """Two or more estimates of one quantity; every row has its own scale, printed below it."""

    label: str
    note: str
    text: str
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Beside:
    """A predicted band with what was measured, None where nothing was."""

    label: str
    text: str
    predicted: Mark
    measured: float | None


@dataclass(frozen=True)
class Stack:
    """One bar made of parts, in the order of the chart's names; `limit` is drawn as a line across it."""

    label: str
    text: str
    parts: Sequence[float]
    limit: float | None = None


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, about `count` steps apart."""
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, low + (abs(low) or 1) / 2
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def line_chart(title: str, description: str, lines: Sequence[Line], x_name: str, y_name: str) -> Markup:
    """Curves over a common scale; the vertical axis spans the data and need not start at zero."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    rows, left, right = ticks(min(ys), max(ys)), min(xs), max(max(xs), min(xs) + 1)
    gutter, top, height = 11, 24, 190  # percent, pixels, pixels

    def across(x: float) -> float:
        return (x - left) / (right - left)

    def down(y: float) -> float:
        return height * (rows[-1] - y) / (rows[-1] - rows[0])

    parts = [_text(y_name, 0, 12, "note")]
    for row in rows:
        y = top + down(row)
        parts += [_rule(gutter, 100, y), _text(_number(row, rows), gutter - 1, y + 4, "tick", "end")]
    curves = [
        _tag(
            "polyline",
            points=" ".join(f"{1000 * across(x):.1f},{down(y):.1f}" for x, y in line.points),
            class_=f"curve s{line.colour}" + (" faint" if line.faint else ""),
            vector_effect="non-scaling-stroke",
        )
        for line in lines
    ]
    plot = {"x": f"{gutter}%", "y": top, "width": f"{100 - gutter}%", "height": height}
    parts.append(
        _tag("svg", *curves, viewBox=f"0 0 1000 {height}", preserveAspectRatio="none", overflow="visible", **plot)
    )
    for x, anchor in ((left, "start"), (right, "end")):
        place = gutter + (100 - gutter) * across(x)
        parts.append(_text(f"{x:,.0f}", place, top + height + 18, "tick", anchor))
    parts.append(_text(x_name, gutter + (100 - gutter) / 2, top + height + 18, "note", "middle"))
    keys = [_key(f"stroke c{line.colour}" + (" faint" if line.faint else ""), line.name) for line in lines]
    return _figure(title, description, parts, top + height + 26, keys if len(keys) > 1 else [])


def bar_chart(title: str, description: str, bars: Sequence[Bar]) -> Markup:
    """Horizontal bars from zero, each below its label."""
    widest = max((bar.value for bar in bars), default=0) or 1
    parts = []
    for index, bar in enumerate(bars):
        y = _BAR * index
        parts += _heading(bar.label, bar.text, y)
        parts += [_box(0, 100, y + 19, 8, "track"), _box(0, 100 * bar.value / widest, y + 19, 8, f"c{bar.colour}")]
    return _figure(title, description, parts, _BAR * len(bars))


def dumbbells(title: str, description: str, rows: Sequence[Dumbbell]) -> Markup:
    """Estimates with their intervals; the first mark of each row is drawn hollow, so that print shows it too."""
    parts = []
    more = _MARK * (max(len(row.marks) for row in rows) - 2)
    for index, row in enumerate(rows):
        y = (_DUMBBELL + more) * index
        scale = ticks(*_domain(row.marks), 4)
        parts += [_text(row.label, 0, y + 14, "label"), _text(row.text, 100, y + 32, "value", "end")]
        parts.append(_text(row.note, 0, y + 32, "note"))
        for tick in scale:
            place = 2 + 96 * _share(tick, scale)
            parts.append(_tag("line", x1=_pc(place), x2=_pc(place), y1=y + 40, y2=y + 74 + more, class_="rule"))
            anchor = "start" if tick == scale[0] else "end" if tick == scale[-1] else "middle"
            edge = {"start": 0.0, "end": 100.0}.get(anchor, place)
            parts.append(_text(_number(tick, scale), edge, y + 88 + more, "tick", anchor))
        for order, mark in enumerate(row.marks):
            parts += _interval(mark, scale, y + 50 + _MARK * order, order)
    keys = [
        _key(f"dot c{_MARK_COLOURS[order]}" if order else f"ring c{_MARK_COLOURS[order]}", mark.name)
        for order, mark in enumerate(rows[0].marks)
    ]
    return _figure(
        title, description, parts, (_DUMBBELL + more) * len(rows) - 8, [*keys, _key("", "lines are 95% intervals")]
    )


def beside(title: str, description: str, rows: Sequence[Beside]) -> Markup:
    """Predicted bands with the measured point on one scale from zero."""
    top = max([row.predicted.high for row in rows] + [row.measured or 0 for row in rows], default=1) or 1
    parts = []
    for index, row in enumerate(rows):
        y = _BESIDE * index
        parts += _heading(row.label, row.text, y)
        low, value, high = (
            98 * number / top for number in (row.predicted.low, row.predicted.value, row.predicted.high)
        )
        parts += [_rule(0, 100, y + 27), _box(low, high - low, y + 21, 12, "band")]
        parts.append(_tag("line", x1=_pc(value), x2=_pc(value), y1=y + 19, y2=y + 35, class_="prediction"))
        if row.measured is not None:
            parts.append(_tag("circle", cx=_pc(98 * row.measured / top), cy=y + 27, r=5, class_="c0"))
    keys = [_key("band", "predicted, 90% band"), _key("dot c0", "measured")]
    return _figure(title, description, parts, _BESIDE * len(rows), keys)


def stacked_bars(title: str, description: str, names: Sequence[str], stacks: Sequence[Stack]) -> Markup:
    """Bars made of parts on one scale from zero."""
    top = max([sum(stack.parts) for stack in stacks] + [stack.limit or 0 for stack in stacks], default=1) or 1
    parts = []
    for index, stack in enumerate(stacks):
        y, start = _STACK * index, 0.0
        parts += _heading(stack.label, stack.text, y)
        parts.append(_box(0, 100, y + 20, 16, "track"))
        for colour, part in enumerate(stack.parts):
            width = 100 * part / top
            parts.append(_box(start, width, y + 20, 16, f"c{colour} part", names[colour]))
            start += width
        if stack.limit is not None:
            place = _pc(99.8 * stack.limit / top)
            parts.append(_tag("line", x1=place, x2=place, y1=y + 17, y2=y + 39, class_="limit"))
    keys = [_key(f"c{colour}", name) for colour, name in enumerate(names)]
    return _figure(title, description, parts, _STACK * len(stacks) - 6, keys)


def _domain(marks: Sequence[Mark]) -> tuple[float, float]:
    """The whole scale of shares, else the span of the intervals."""
    low, high = min(mark.low for mark in marks), max(mark.high for mark in marks)
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)


def _share(value: float, scale: Sequence[float]) -> float:
    return (value - scale[0]) / (scale[-1] - scale[0])


def _interval(mark: Mark, scale: Sequence[float], y: float, order: int) -> list[Markup]:
    low, value, high = (_pc(2 + 96 * _share(one, scale)) for one in (mark.low, mark.value, mark.high))
    title = _tag("title", f"{mark.name}: {mark.value:.4g}, 95% interval {mark.low:.4g} to {mark.high:.4g}")
    colour = _MARK_COLOURS[order]
    return [
        _tag("line", x1=low, x2=high, y1=y, y2=y, class_=f"interval s{colour}"),
        _tag("circle", title, cx=value, cy=y, r=5.5, class_=f"c{colour}" if order else f"hollow s{colour}"),
    ]


def _number(value: float, scale: Sequence[float]) -> str:
    """A tick with as many decimals as its neighbours need."""
    step = abs(scale[1] - scale[0]) if len(scale) > 1 else abs(value) or 1
    decimals = max(0, math.ceil(-math.log10(step) - 1e-9)) if step < 1 else 0
    if round(step * 10**decimals, 6) % 1:
        decimals += 1
    return f"{value + 0.0:,.{decimals}f}".replace("-", "−")


def _figure(
    title: str, description: str, parts: Sequence[Markup], height: float, keys: Sequence[Markup] = ()
) -> Markup:
    words = [_tag("title", title), _tag("desc", description)]
    image = _tag("svg", *words, *parts, role="img", width="100%", height=max(height, 1), class_="chart")
    legend = _tag("ul", *keys, class_="legend") if keys else ""
    return _tag("figure", _tag("figcaption", title), legend, image) + Markup("\n")


def _key(kind: str, name: str) -> Markup:
    """One entry of a legend; without a kind it is a remark."""
    return _tag("li", *([_tag("i", class_=f"key {kind}")] if kind else []), name)


def _tag(name: str, *content: Markup | str, **attributes: object) -> Markup:
    """An element with escaped text and attributes; `class_` and `vector_effect` become what XML calls them."""
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    inside = Markup("").join(Markup(' {}="{}"').format(key, value) for key, value in pairs)
    return Markup("<{}{}>{}</{}>").format(name, inside, Markup("").join(map(escape, content)), name)


def _pc(number: float) -> str:
    return f"{number:.2f}%"


def _text(text: str, x: float, y: float, kind: str, anchor: str = "start") -> Markup:
    return _tag("text", text, x=_pc(x), y=f"{y:.1f}", class_=kind, text_anchor=anchor)


def _heading(label: str, text: str, y: float) -> list[Markup]:
    """The line above a row: what it is on the left, its value on the right."""
    return [_text(label, 0, y + 13, "label"), _text(text, 100, y + 13, "value", "end")]


def _rule(start: float, end: float, y: float) -> Markup:
    return _tag("line", x1=_pc(start), x2=_pc(end), y1=f"{y:.1f}", y2=f"{y:.1f}", class_="rule")


def _box(x: float, width: float, y: float, height: float, kind: str, title: str = "") -> Markup:
    words = [_tag("title", title)] if title else []
    return _tag("rect", *words, x=_pc(x), width=_pc(max(width, 0)), y=y, height=height, class_=kind)
