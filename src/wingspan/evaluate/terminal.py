"""The scores as a table in the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

_SIGNIFICANT = 0.05


def render(scores: dict[str, Any]) -> Table:
    """scores.json as a table: each model's score with its 95% interval, the difference and its p-value."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("items", justify="right", style="dim")
    for model in scores["models"]:
        table.add_column(model, justify="right")
    table.add_column("difference", justify="right")
    table.add_column("p", justify="right")
    for task in scores["tasks"]:
        cells = [_score(task["scores"][model]) for model in scores["models"]]
        table.add_row(task["title"], str(task["items"]), *cells, _difference(task), _p_value(task["difference"]))
    return table


def _score(score: dict[str, float]) -> Text:
    interval = f" {score['low']:.2f} to {score['high']:.2f}"
    return Text.assemble(f"{score['value']:.3f}", (interval, "dim"))


def _difference(task: dict[str, Any]) -> Text:
    """Green or red only where the difference is unlikely to be chance."""
    difference = task["difference"]
    better = (difference["value"] > 0) == task["higher_is_better"]
    style = "" if difference["p_value"] >= _SIGNIFICANT else "green" if better else "red"
    return Text(f"{difference['value']:+.3f}", style)


def _p_value(difference: dict[str, Any]) -> str:
    return "< 0.001" if difference["p_value"] < 0.001 else f"{difference['p_value']:.3f}"
