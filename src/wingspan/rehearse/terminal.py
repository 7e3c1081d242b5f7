"""A rehearsal on one screen: what each kind of rank holds at its peak, what it sends, what was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wingspan.rehearse import months
from wingspan.units import duration, size

_WIDTH = 40  # characters of a bar that fills the device
_COLOURS = {
    "parameters": "blue",
    "gathered": "cyan",
    "gradients": "magenta",
    "optimizer": "yellow",
    "activations": "green",
    "working": "bright_black",
    "unseen": "white",
}
_MEANINGS = {
    "parameters": "weights",
    "gathered": "weights gathered whole",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations",
    "working": "temporary",
    "unseen": "device context, communication buffers, fragmentation",
}
_MARKS = {"stops": ("✗", "bold red"), "warns": ("!", "yellow"), "differs": ("≠", "cyan")}
_COLLECTIVES_SHOWN = 5


def render(rehearsal: Mapping[str, Any]) -> RenderableType:
    """The content of rehearsal.json as a screen for rich."""
    parts: list[RenderableType] = [_fleet(rehearsal)]
    if rehearsal.get("on_a_fleet"):
        parts += [Text(), _fleet(rehearsal["on_a_fleet"])]
    if rehearsal.get("goodput"):
        parts += [Text(), months.render(rehearsal["goodput"])]
    return Group(*parts)


def _fleet(rehearsal: Mapping[str, Any]) -> RenderableType:
    parts: list[RenderableType] = [_headline(rehearsal)]
    if rehearsal["kinds"]:
        parts += [Text(), _memory(rehearsal), _legend(rehearsal)]
    if any(kind["collectives"] for kind in rehearsal["kinds"]):
        parts += [Text(), _collectives(rehearsal)]
    if rehearsal["checkpoint"]:
        parts += [Text(), _checkpoint(rehearsal["checkpoint"])]
    return Group(*parts, Text(), *_findings(rehearsal))


def _checkpoint(found: Mapping[str, Any]) -> Text:
    """Save and resume in two lines."""
    resume, planning = found["resume"], f"planned once in {duration(found['planning_s'])}"
    text = Text("a checkpoint", style="dim")
    text.append(f"  {size(found['bytes'])} in {found['files']:,} files, {planning}", "default")
    if found["save_s"]:
        text.append(f", written in {duration(found['save_s'])}", "default")
    if found["files"] > 1:
        text.append(f"\nresume elsewhere  with {resume['fewer_ranks']} times fewer shards a rank reads ")
        text.append(f"{resume['files_per_rank']} files per tensor, planned in {duration(resume['planning_s'])}")
    return text


def _headline(rehearsal: Mapping[str, Any]) -> Text:
    layout = {key: one for key, one in rehearsal["layout"].items() if isinstance(one, int) and one > 1}
    arranged = " × ".join(f"{key} {one}" for key, one in layout.items() if key != "micro_batch") or "no parallelism"
    devices = rehearsal["devices"]
    text = Text(f"{devices:,} × {rehearsal['device']}" if devices > 1 else rehearsal["device"], style="bold")
    text.append(f"  {arranged}", style="not bold")
    took = f"{duration(rehearsal['wall_s'])}, {size(rehearsal['peak_rss_gib'] * 2**30)}"
    text.append(f"\n{rehearsal['title']} (rehearsed in {took})", style="not bold dim")
    if part := next((kind for kind in rehearsal["kinds"] if _reckoned(kind)), None):
        run, all_ = part["rehearsed_micro_batches"], part["micro_batches"]
        text.append(f"\n{run} of {all_} micro-batches run, then more; each other adds the difference", "not bold dim")
    return text


def _reckoned(kind: Mapping[str, Any]) -> bool:
    return bool(kind["rehearsed_micro_batches"] < kind["micro_batches"])


def _memory(rehearsal: Mapping[str, Any]) -> Table:
    """One bar per kind of rank; the whole width is the device's memory, or the largest peak beyond it."""
    capacity = rehearsal["device_memory_bytes"]
    scale = max([capacity or 0, *(_needed(kind) for kind in rehearsal["kinds"])])
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("kind of rank", "ranks", "memory at the peak"):
        table.add_column(heading, justify="right" if heading == "ranks" else "left")
    timed = "step_s" in rehearsal["kinds"][0]
    for heading in ("peak", "of device", "a step", *(("computes", "exposed", "waits") if timed else ())):
        table.add_column(heading, justify="right")
    for kind in rehearsal["kinds"]:
        share = _needed(kind) / capacity if capacity else None
        table.add_row(
            kind["kind"],
            f"{kind['ranks']:,}",
            _bar(kind, scale),
            size(_needed(kind)),
            Text(f"{share:.0%}" if share is not None else "?", style="bold red" if share and share > 1 else ""),
            _flops(kind["flops"]),
            *(duration(kind[item]) for item in ("compute_s", "exposed_s", "bubble_s") if timed),
        )
    return table


def _flops(flops: float) -> str:
    """FLOPs with three digits: `853 GFLOP`, `13.8 PFLOP`."""
    for prefix, scale in (("E", 1e18), ("P", 1e15), ("T", 1e12)):
        if flops >= scale:
            return f"{flops / scale:.3g} {prefix}FLOP"
    return f"{flops / 1e9:.3g} GFLOP"


def _needed(kind: Mapping[str, Any]) -> float:
    return float(kind["peak_bytes"] + kind["unseen_bytes"])


def _bar(kind: Mapping[str, Any], scale: float) -> Text:
    text, drawn, total = Text(), 0, 0.0
    for item, bytes_ in {**kind["at_peak"], "unseen": kind["unseen_bytes"]}.items():
        total += bytes_
        end = round(total / scale * _WIDTH)
        text.append("█" * (end - drawn), style=_COLOURS[item])
        drawn = max(drawn, end)
    return text.append("·" * (_WIDTH - drawn), style="dim")


def _legend(rehearsal: Mapping[str, Any]) -> Text:
    text = Text()
    for item, colour in _COLOURS.items():
        largest = max(
            kind["unseen_bytes"] if item == "unseen" else kind["at_peak"].get(item, 0) for kind in rehearsal["kinds"]
        )
        if largest:
            text.append("■ ", style=colour).append(f"{_MEANINGS[item]} {size(largest)}   ", style="dim")
    return text


def _collectives(rehearsal: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading, side in (("sends each step", "left"), ("what", "left"), ("over (ranks)", "left"), ("calls", "right")):
        table.add_column(heading, justify="right" if side == "right" else "left")
    table.add_column("bytes", justify="right")
    for kind in rehearsal["kinds"]:
        largest = sorted(kind["collectives"], key=lambda one: -one["bytes"])
        for row, one in enumerate(largest[:_COLLECTIVES_SHOWN]):
            name = kind["kind"] if row == 0 else ""
            over = f"{one['group']} ({one['size']:,})"
            table.add_row(name, one["op"].strip("_").replace("_", " "), over, f"{one['count']:,}", size(one["bytes"]))
        if rest := largest[_COLLECTIVES_SHOWN:]:
            calls, sent = sum(one["count"] for one in rest), sum(one["bytes"] for one in rest)
            table.add_row("", Text(f"{len(rest)} smaller", style="dim"), "", f"{calls:,}", size(sent))
    return table


def _findings(rehearsal: Mapping[str, Any]) -> list[Text]:
    if not rehearsal["findings"]:
        return [Text("✓ it holds: nothing found", style="green")]
    lines = []
    for finding in rehearsal["findings"]:
        mark, style = _MARKS[finding["severity"]]
        line = Text(f"{mark} ", style=style).append(finding["problem"], style="default")
        lines.append(line.append(f". {finding['remedy']}" if finding["remedy"] else "", style="dim"))
    return lines
