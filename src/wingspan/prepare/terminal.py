"""What prepare did and what it dropped, on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_WIDTH = 28  # of the longest bar
_MOST = 12  # languages and the like; the rest is added up


def render(report: dict[str, Any]) -> RenderableType:
    """report.json: the funnel, and one line each for what was kept, found and made."""
    lines = {
        "languages": report["languages"],
        "tagged, and kept": report["tags"],
        "personal data": report["personal_data"],
        "split": report["split"],
        "tokens": report["tokens"],
    }
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, counts in lines.items():
        facts.add_row(name, _listed(counts))
    hint = Text("See what a rule dropped: wingspan prepare sample PROJECT --dropped-by RULE", "dim")
    return Group(_funnel(report), Text(), facts, *([Text(), hint] if report["refused"] else []))


def _funnel(report: dict[str, Any]) -> Table:
    """Read, refused by reason, damaged and kept, as bars on one scale."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    rows = [("read", report["read"], "bold"), *((name, number, "yellow") for name, number in report["refused"].items())]
    rows += [("damaged", report["damaged"], "red")] if report["damaged"] else []
    rows.append(("kept", report["kept"], "bold green"))
    whole = max(report["read"], 1)
    for name, number, style in rows:
        bar = "█" * round(_WIDTH * number / whole) or "▏" * (number > 0)
        label = name if name in ("read", "kept") else f"  {name}"
        table.add_row(Text(label, style), f"{number:,}", f"{number / whole:.2%}", Text(bar, style))
    return table


def _listed(counts: Mapping[str, int], most: int = _MOST) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{name.replace('_', ' ')} {number:,}" for name, number in ordered[:most]]
    if rest := ordered[most:]:
        shown.append(f"{len(rest)} others {sum(number for _, number in rest):,}")
    return ", ".join(shown) or "none"


def render_samples(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Sampled posts under the rules that dropped or tagged them; the post that one repeats below it."""
    parts: list[Text] = []
    heading = ""
    for row in rows:
        title = f"{row['rule']} ({'dropped' if row['dropped'] else 'tagged, and kept'})"
        if title != heading:
            parts.append(Text(("\n" if heading else "") + title, "bold"))
            heading = title
        parts.append(Text.assemble(("  │ ", "dim"), row["text"].replace("\n", "\n  │ "), (f"  {row['lang']}", "dim")))
        if row["repeats"]:
            parts.append(Text.assemble(("  │   repeats: ", "dim"), (row["kept"].replace("\n", "\n  │   "), "dim")))
    return Group(*parts)


def note_of_reading(tally: Mapping[str, Any]) -> str:
    """Beside the bar while sources are read."""
    sources = tally.get("sources", {}).values()
    read, damaged = (sum(one.get(name, 0) for one in sources) for name in ("read", "damaged"))
    refused = sum(sum(one.get("refused", {}).values()) for one in sources)
    return f"{read:,} read, {refused:,} refused, {damaged:,} damaged"


def note_of_settling(tally: Mapping[str, Any]) -> str:
    """Beside the bar while it is decided what is kept."""
    refused = sum(map(Counter, tally.get("refused", {}).values()), Counter[str]())
    return f"{sum(tally.get('kept', {}).values()):,} kept; {_listed(refused, 2)}"
