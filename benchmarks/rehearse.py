"""How long rehearsals of ten thousand devices take, and how near months lived through come to published runs.

python benchmarks/rehearse.py [--quick] [--json] [--runs WHOLERUNS.csv]

The published runs come from --runs, or from $WINGSPAN_SHARED/plan/wholeruns.csv; without either they are left out.
--quick rehearses one kind of rank of each model.
"""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path

from targets import Figures, Targets, finish, parser, say
from wingspan.model.shape import ModelShape
from wingspan.project import Layout, Train
from wingspan.rehearse.fleet import ALL_KINDS, rehearse
from wingspan.rehearse.goodput import Campaign, Operation, live

LLAMA_70B = ModelShape("llama", 80, 8192, 64, 8, 128, 28672, 128256, tie_embeddings=False)
LLAMA_405B = ModelShape("llama", 126, 16384, 128, 8, 128, 53248, 128256, tie_embeddings=False)
STEPS = {  # model, layout, sequences of a step, seconds allowed
    "70B": (LLAMA_70B, Layout(dp_replicate=16, dp_shard=80, tp=8, recompute="full"), 2560, 60.0),
    "405B": (LLAMA_405B, Layout(pp=16, dp_shard=80, tp=8, recompute="full"), 80 * 32, 180.0),
}
MEMORY_GIB = 2.0
LIVED_S = 10.0  # 100 seeds x 90 days x 10,240 devices
WITHIN = 0.05  # of a published goodput or number of interruptions
# What is published of how a run was operated: devices, days, hours between checkpoints, hours of a restart, of spare
# nodes, copies in memory, and how often its nodes failed over Llama 3's. Devices, Llama's days and MegaScale's restart
# are published; the other numbers, and all of Gemini's, are assumed.
OPERATED = {
    "Llama-3.1 405B": (16_384, 54.0, 0.1, 0.2, 60, True, 1.0),  # arXiv 2407.21783
    "MegaScale production run": (12_288, 30.0, 0.25, 1 / 6, 60, False, 1.0),  # arXiv 2402.15627: under 10 minutes
    "Gemini Ultra": (16_384, 54.0, 0.1, 0.1, 60, True, 0.5),  # arXiv 2312.11805; fleet not published
}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--runs", type=Path, help="CSV of published whole runs")
    options = made.parse_args()
    figures: Figures = {}
    targets: Targets = {}
    for name in STEPS:
        _rehearse(name, figures, targets, quick=options.quick)
    _live(figures, targets)
    shared = os.environ.get("WINGSPAN_SHARED")
    runs = options.runs or (Path(shared) / "plan" / "wholeruns.csv" if shared else None)
    if runs and runs.is_file():
        _published(runs, figures, targets)
    finish(figures, targets, "torch", options.json)


def _rehearse(name: str, figures: Figures, targets: Targets, *, quick: bool) -> None:
    shape, layout, batch, allowed_s = STEPS[name]
    train = Train(sequence=8192, global_batch=batch)
    ranks = ("middle" if layout.pp == 1 else "last") if quick else ALL_KINDS
    began, cpu = time.perf_counter(), _cpu_s()
    found = rehearse(shape, layout, train, layout.world_size, ranks=ranks)
    wall_s = time.perf_counter() - began
    figures |= {f"{name}_wall_s": wall_s, f"{name}_cpu_s": _cpu_s() - cpu, f"{name}_rss_gib": found["peak_rss_gib"]}
    kinds = ", ".join(f"{kind['kind']} {kind['peak_gib']:.1f} GiB" for kind in found["kinds"])
    say(f"{name} on {layout.world_size:,} devices: {wall_s:.1f} s, {found['peak_rss_gib']:.2f} GiB here; {kinds}")
    if not quick:
        targets |= {
            f"{name}_wall_s": (wall_s, allowed_s, True),
            f"{name}_rss_gib": (found["peak_rss_gib"], MEMORY_GIB, True),
        }


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _live(figures: Figures, targets: Targets) -> None:
    campaign = Campaign(nodes=1280, work_h=1e9, days=90.0, restart_h=0.2)
    began = time.perf_counter()
    live(campaign, [Operation(interval_h=0.1, stall_h=5 / 3600, spares=20)], 100, 1)
    figures["lived_s"] = time.perf_counter() - began
    targets["lived_s"] = (figures["lived_s"], LIVED_S, True)


def _published(path: Path, figures: Figures, targets: Targets) -> None:
    """Goodput and interruptions of the runs whose makers tell them; '>90' is met by more."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = {row["model"]: row for row in csv.DictReader(stream)}
    for name, (devices, days, interval_h, restart_h, spares, memory, failures) in OPERATED.items():
        campaign = Campaign(devices // 8, 1e9, days, restart_h, failure_scale=failures)
        operation = Operation(interval_h, 5 / 3600, spares, memory_interval_h=1 / 60 if memory else 0.0)
        (lived,) = live(campaign, [operation], 100, 1)
        told = rows[name]["goodput_pct"]
        goodput, published = float(lived.goodput.mean()), float(told.strip(">")) / 100
        off = max(0.0, published - goodput) if ">" in told else abs(goodput - published)
        figures[f"goodput_{name}"] = goodput
        targets[f"goodput_{name[:12]}_off"] = (off, WITHIN, True)
        say(f"{name}: goodput {goodput:.1%}, published {told}%")
        if reported := rows[name]["failures_per_day"]:
            a_day = float(lived.interruptions.mean()) / days
            planned = 47 / 54  # besides what the row counts: the same source's planned ones
            off = abs(a_day - planned - float(reported)) / float(reported)
            targets[f"interruptions_{name[:12]}_off"] = (off, WITHIN, True)
            say(f"{name}: {a_day:.2f} interruptions a day, published {reported} and {planned:.2f} planned")


if __name__ == "__main__":
    main()
