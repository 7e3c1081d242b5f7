"""The ladder for a person: its rungs, the law, the prediction."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from wingspan.train.ladder.ladder import Ladder
from wingspan.units import count


def render(ladder: Ladder) -> Group:
    """A table of the rungs (measured), and below it what they say of the project (predicted)."""
    table = Table(box=None, pad_edge=False)
    for name in ("layers", "hidden", "parameters", "tokens", "loss", "law"):
        table.add_column(name, justify="right")
    for rung in ladder.rungs:
        sizes = (str(rung.layers), str(rung.hidden), count(rung.parameters), count(rung.tokens))
        table.add_row(*sizes, f"{rung.loss:.3f}", f"{rung.fitted:.3f}")
    law = ladder.law
    return Group(
        table,
        Text(
            f"loss = {law.floor:.3f} + {law.model:.3g} / N^{law.model_exponent:.3g}"
            f" + {law.data:.3g} / D^{law.data_exponent:.3g}"
        ),
        Text(
            f"this project, {count(ladder.parameters)} parameters and {count(ladder.tokens)} tokens: "
            f"loss {ladder.loss.value:.3f} ({ladder.loss.low:.3f} to {ladder.loss.high:.3f}), "
            f"{ladder.bits_per_byte.value:.3f} bits per byte ({ladder.bits_per_byte.low:.3f} to "
            f"{ladder.bits_per_byte.high:.3f}), predicted from {ladder.compute_share:.1%} of its compute"
        ),
    )
