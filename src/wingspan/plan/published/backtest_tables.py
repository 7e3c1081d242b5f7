"""A back-test on the terminal: each row beside its prediction, and the errors by source, device and quality."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

_TITLES = {
    "by_source": "by whether the source was fitted on",
    "by_quality": "by quality",
    "by_family": "by source",
    "by_device": "by device",
}


def render_backtest(report: dict[str, Any]) -> RenderableType:
    """The report of `BackTest.as_json` as tables."""
    tables = [_errors(title, report[name]) for name, title in _TITLES.items()]
    return Group(_rows(report["predictions"]), *tables, *_refused(report), "", *_summary(report))


def _rows(predictions: list[dict[str, Any]]) -> Table:
    columns = ("run", "device", "devices", "measured s", "predicted s", "90% band", "error", "like it", "inferred")
    table = Table(*columns, box=None, header_style="dim")
    for row in predictions:
        measured = "" if row["measured_s"] is None else f"{row['measured_s']:.4g}"
        table.add_row(
            row["id"],
            row["device"],
            f"{row['devices']:,}",
            measured,
            f"{row['predicted_s']:.4g}",
            f"{row['low_s']:.4g} to {row['high_s']:.4g}",
            "" if row["error"] is None else f"{row['error']:+.1%}",
            str(row["measured_runs_like_it"]),
            ", ".join(row["inferred"]),
        )
    return table


def _errors(title: str, groups: dict[str, dict[str, Any]]) -> Table:
    table = Table(title, "rows", "mean", "median", "p90", "bias", "in band", box=None, header_style="dim", min_width=72)
    for name, one in groups.items():
        shares = [f"{one[key]:.1%}" for key in ("mape", "median", "p90")]
        table.add_row(name, str(one["rows"]), *shares, f"{one['bias']:+.1%}", f"{one['coverage90']:.0%}")
    return table


def _refused(report: dict[str, Any]) -> list[str]:
    return [f"refused {one['id']}: {one['reason']}" for one in report["refused"]]


def _summary(report: dict[str, Any]) -> list[str]:
    step, memory, constants = report["step_time"], report["memory"], report["constants"]
    lines = [f"{report['answered']} of {report['rows']} rows answered"]
    if report["left_out"]:
        lines[0] += f", each predicted from the others without its {report['left_out']}"
    if step["rows"]:
        lines.append(
            f"step time: {step['rows']} rows, mean error {step['mape']:.1%}, median {step['median']:.1%}, "
            f"p90 {step['p90']:.1%}, mean over sources {step['family_mean']:.1%}, "
            f"{step['coverage90']:.0%} in their band"
        )
    if memory["rows"]:
        lines.append(
            f"memory: {memory['rows']} rows, mean error {memory['mape']:.1%}, "
            f"{memory['wrong_fits']:.1%} that ran were predicted not to fit"
        )
    lines.append(
        f"{constants['all']} fitted constants, at most {constants['per_device']} per device and "
        f"{constants['per_generation']} per release of software"
    )
    if held := constants["held_out"]:
        lines.append(
            f"rows held out when these were fitted: mean {held['mape']:.1%}, median {held['median']:.1%}, "
            f"p90 {held['p90']:.1%}"
        )
    return lines
