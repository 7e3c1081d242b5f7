"""How wrong the planner is on published runs, and how fast it searches.

python benchmarks/plan.py [--quick] [--json] [--runs RUNS.csv]

The runs come from --runs, or from $WINGSPAN_SHARED/plan/runs_public.csv; without either only the search is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from targets import Figures, Targets, finish, parser, say
from wingspan.plan.devices.chips import chip_named
from wingspan.plan.fleet import busy_share
from wingspan.plan.layouts.problem import WIDE, Problem, Space
from wingspan.plan.layouts.search import search
from wingspan.plan.published.backtest import BackTest, Errors, back_test
from wingspan.plan.published.runs import software_of
from wingspan.plan.published.wholeruns import backtest_whole_runs, render_whole_runs
from wingspan.plan.step.grid import Workload
from wingspan.plan.step.network import Network
from wingspan.plan.whole.wholerun import node_watts

GPT3 = Network(96, 12288, 96, 96, 128, 49152, 51200, gated=False)
LLAMA_405B = Network(128, 16384, 128, 8, 128, 53248, 131072)
DEEPSEEK_V3 = Network(
    61, 7168, 128, 128, 192, 18432, 129280, experts=256, experts_per_token=8, shared_experts=1, expert_ffn=2048,
    dense_layers=3, q_rank=1536, kv_rank=512, rope_dim=64, value_head_dim=128,
)  # fmt: skip
CALCULONS_SPACE = 7_126_368  # executions that calculon enumerates for GPT-3 175B on 4,096 devices


def main() -> None:
    options = _options()
    figures: Figures = {}
    targets: Targets = {}
    path = _runs(options.runs)
    if path is None:
        say("no measured runs here: give --runs RUNS.csv or set WINGSPAN_SHARED")
    else:
        _back_test(path, figures, targets)
        _whole_runs(path.with_name("wholeruns.csv"), targets)
        _power(path.with_name("wall_power.json"), targets)
    _search(figures, targets, repeats=1 if options.quick else 5)
    _start_up(figures, targets, repeats=1 if options.quick else 5)
    finish(figures, targets, "numpy", options.json)


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--runs", type=Path, help="CSV of measured runs")
    return made.parse_args()


def _runs(given: Path | None) -> Path | None:
    if given:
        return given
    shared = os.environ.get("WINGSPAN_SHARED")
    path = Path(shared) / "plan" / "runs_public.csv" if shared else None
    return path if path and path.is_file() else None


def _back_test(path: Path, figures: Figures, targets: Targets) -> None:
    found = back_test(path)
    step, held_out = found.step_time(), found.calibration.held_out
    say(f"step time: {len(found.rows)} rows answered, {len(found.refused)} refused")
    for one in found.refused:
        say(f"  refused {one.id}: {one.reason}")
    _table("by source", found.errors_by(lambda run: run.family))
    _table("by device", found.errors_by(lambda run: run.device))
    _table("by quality", found.errors_by(lambda run: run.quality or "?"))
    answered = len(found.rows) / (len(found.rows) + len(found.refused))
    figures |= {"rows": len(found.rows), "fitted_mape": step["mape"], "fitted_median": step["median"]}
    targets |= {
        "answered": (answered, 1.0, False),
        "step_time_mape": (held_out["mape"], 0.08, True),
        "step_time_median": (held_out["median"], 0.05, True),
        "step_time_p90": (held_out["p90"], 0.18, True),
        "step_time_family_mean": (held_out["family_mean"], 0.10, True),
    }
    _memory(found, figures, targets)


def _memory(found: BackTest, figures: Figures, targets: Targets) -> None:
    """Only rows whose source reports memory; a wrong fit is one that was predicted not to fit, as all of these ran."""
    memory = found.memory()
    say(
        f"memory: {memory['rows']} rows, mean error {memory['mape']:.1%}, median {memory['median']:.1%}, "
        f"{memory['wrong_fits']:.1%} that ran were predicted not to fit"
    )
    figures |= {"memory_rows": memory["rows"]}
    targets |= {"memory_mape": (memory["mape"], 0.08, True), "memory_wrong_fits": (memory["wrong_fits"], 0.02, True)}


def _whole_runs(path: Path, targets: Targets) -> None:
    """Device-hours, failures, goodput and energy of published trainings."""
    if not path.is_file():
        return
    found = backtest_whole_runs(path)
    Console(file=sys.stderr, width=120).print(render_whole_runs(found))
    hours, every = found["quality_a"]["device_hours"], found["errors"]
    energy = [row["figures"]["energy_mwh"]["error"] for row in found["rows"] if "energy_mwh" in row["figures"]]
    flagship = next((row["figures"] for row in found["rows"] if "405B" in row["model"]), {})
    targets |= {
        "whole_runs_a_within_15": (hours["within_15"], 1.0, False),
        "whole_runs_a_median": (hours["median"], 0.15, True),
        "whole_runs_coverage90": (every["device_hours"]["coverage90"], 0.85, False),
        "energy_within_10": (sum(abs(one) <= 0.1 for one in energy) / len(energy), 1.0, False),
    }
    if flagship:
        targets["llama_interruptions"] = (abs(flagship["failures_per_day"]["error"]), 0.25, True)
        targets["llama_goodput"] = (abs(flagship["goodput"]["error"]), 0.03, True)


def _power(path: Path, targets: Targets) -> None:
    """Power of a node against power at the wall.

    A LoRA run's share of computing is the time that one node would need over the time it took, from the samples to
    converge at its batch (mlcommons/logging, rcps_llama2_70b_lora: 3,950 at 8, 9,100 at 32); GPT-3's is its step's.
    """
    if not path.is_file():
        return
    logs = [log for log in json.loads(path.read_text()) if "dc-power" not in log["key"]]
    alone = next(log["dur_s"] for log in logs if log["system"].startswith("1x"))
    worst = 0.0
    for log in logs:
        chip = chip_named("B200 SXM" if "B200" in log["system"] else "H100 SXM")
        samples = 9100 if log["nodes"] == 64 else 3950
        busy = alone * samples / 3950 / log["nodes"] / log["dur_s"] if log["bench"] != "gpt3" else _gpt3_busy()
        watts = 8 * (node_watts(chip, busy if chip.name == "H100 SXM" else 1.0, _cooling(log["system"])) or 0.0)
        error = watts / log["mean_w_node"] - 1
        worst = max(worst, abs(error))
        numbers = f"{log['mean_w_node']:6,.0f} W, predicted {watts:6,.0f} {error:+.1%}"
        say(f"  {log['system'][:36]:36} {log['bench']:16} {numbers}")
    targets["node_power_worst"] = (worst, 0.05, True)


def _cooling(system: str) -> str:
    return "air" if "XE9680" in system else "liquid"


@cache
def _gpt3_busy() -> float:
    """Of GPT-3 on 512 H100 in fp8, in its best layout."""
    software = software_of({"framework": "NeMo Megatron", "year": "2024"})
    problem = Problem(GPT3, Workload(2048, 2048), chip_named("H100 SXM"), 512, 8, software)
    found = search(problem, Space(most_interleave=6, zero=(1,), precision=(2,)))
    items = problem.step_time(found.grid.take(np.array([found.fastest])))
    return busy_share({name: float(value[0]) for name, value in items.items()})


def _search(figures: Figures, targets: Targets, repeats: int) -> None:
    """Layouts weighed per second of one core, exhaustively: all parallelisms, schedules, ZeRO stages, precisions."""
    h100 = chip_named("H100 SXM")
    problems = {
        "gpt3_4096": Problem(GPT3, Workload(2048, 4096), chip_named("A100-80GB SXM"), 4096),
        "405b_10240": Problem(LLAMA_405B, Workload(8192, 5120), h100, 10_240),
        "deepseek_v3_10240": Problem(DEEPSEEK_V3, Workload(4096, 10_240), h100, 10_240),
    }
    for name, problem in problems.items():
        weighed = search(problem, WIDE).weighed
        seconds = _cpu_seconds(lambda problem=problem: search(problem, WIDE), repeats)
        figures[f"layouts_{name}"], figures[f"search_{name}_s"] = weighed, seconds
        figures[f"layouts_per_s_{name}"] = weighed / seconds
        targets[f"search_{name}_s"] = (seconds, 5.0, True)
        say(f"search {name}: {weighed:,} layouts in {seconds:.3f} s, {weighed / seconds:,.0f} a second")
    targets["layouts_per_s"] = (min(figures[f"layouts_per_s_{name}"] for name in problems), 1e6, False)
    figures["calculons_gpt3_space_s"] = CALCULONS_SPACE / figures["layouts_per_s_gpt3_4096"]
    targets["calculons_gpt3_space_s"] = (figures["calculons_gpt3_space_s"], 5.0, True)


def _cpu_seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median processor time of the repetitions."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def _start_up(figures: Figures, targets: Targets, repeats: int) -> None:
    """Wall time from nothing to `wingspan.plan` and its first answer, in a new process."""
    code = (
        "from wingspan.plan.layouts.choice import *; from wingspan.plan.devices.chips import chip_named;"
        "from wingspan.plan.step.grid import Workload; from wingspan.plan.step.network import Network;"
        "choose(Problem(Network(32, 4096, 32, 8, 128, 14336, 128256), Workload(8192, 512), chip_named('H100 SXM'), 64))"
    )
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.perf_counter() - start)
    figures["first_answer_s"] = statistics.median(times[1:])
    targets["first_answer_s"] = (figures["first_answer_s"], 0.5, True)


def _table(title: str, groups: dict[str, Errors]) -> None:
    say(f"\n{title:<28} {'rows':>5} {'mean':>7} {'median':>7} {'p90':>7} {'bias':>7}")
    for name, one in groups.items():
        say(f"{name:<28} {one.rows:>5} {one.mape:>7.1%} {one.median:>7.1%} {one.p90:>7.1%} {one.bias:>+7.1%}")


if __name__ == "__main__":
    main()
