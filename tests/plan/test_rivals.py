"""The front of layouts, as the command shows it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wingspan.cli.main import app

EXAMPLES = Path(__file__).parents[2] / "examples"


def ask(*arguments: str) -> str:
    shown = CliRunner().invoke(app, ["plan", "layouts", *arguments])
    assert shown.exit_code == 0, shown.output
    return shown.output


@pytest.mark.parametrize("wide", [(), ("--wide",)])
def test_the_front_trades_time_for_money_and_energy(wide: tuple[str, ...]) -> None:
    small = ("--set", "fleet.devices=64", "--set", "train.global_batch=256", "--set", "model.depth=16")
    sizes = (
        "--set",
        "model.hidden=2048",
        "--set",
        "model.heads=16",
        "--set",
        "model.kv_heads=8",
        "--set",
        "model.ffn=5632",
    )
    found = json.loads(ask(str(EXAMPLES / "frontier"), "--json", *small, *sizes, *wide))
    front = found["front"]
    assert found["fastest"] == front[0]
    assert found["cheapest"]["cost"] == min(row["cost"] for row in front)
    assert [row["days"] for row in front] == sorted(row["days"] for row in front)
    for row in front[1:]:
        assert row["cost"] < front[0]["cost"] or row["energy_mwh"] < front[0]["energy_mwh"]
    assert all(0 < row["memory_bytes"] <= 80 * 2**30 for row in front)
    assert found["weighed"] > (10_000 if wide else 500)


def test_the_table_names_layouts_and_says_how_many_were_weighed() -> None:
    shown = ask(str(EXAMPLES / "laptop"))
    assert "layouts of this-machine weighed" in shown
    assert "micro_batch" in shown
