"""The scores as a table in the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

_SIGNIFICANT = 0.05


def render(scores: dict[str, Any]) -> Table:
    """scores.json as a table: each model's score with its 95% interval, the difference, its p-value, the verdict."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("items", justify="right", style="dim")
    for model in scores["models"]:
        table.add_column(model, justify="right")
    table.add_column("difference", justify="right")
    table.add_column("p", justify="right")
    table.add_column("")
    for task in scores["tasks"]:
        cells = [
            _score(task["scores"][model]) if model in task["scores"] else Text("not asked", "dim")
            for model in scores["models"]
        ]
        difference = f"{task['difference']['value']:+.3f}"
        table.add_row(
            task["title"], str(task["items"]), *cells, difference, _p_value(task["difference"]), _verdict(task)
        )
    return table


def _score(score: dict[str, float]) -> Text:
    interval = f" {score['low']:.2f} to {score['high']:.2f}"
    return Text.assemble(f"{score['value']:.3f}", (interval, "dim"))


def _verdict(task: dict[str, Any]) -> Text:
    """In words, and only where the difference is unlikely to be chance: some scores are better when lower."""
    difference = task["difference"]
    if difference["p_value"] >= _SIGNIFICANT:
        return Text("not shown", "dim")
    better = (difference["value"] > 0) == task["higher_is_better"]
    return Text("better", "green") if better else Text("worse", "red")


def _p_value(difference: dict[str, Any]) -> str:
    return "< 0.001" if difference["p_value"] < 0.001 else f"{difference['p_value']:.3f}"
