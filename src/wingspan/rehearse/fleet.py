"""A whole fleet rehearsed: one process per kind of rank, their reports side by side, what was found."""

from __future__ import annotations

import gzip
import json
import logging
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from wingspan.errors import InputError, WorkError
from wingspan.meter import peak_memory_bytes
from wingspan.model.shape import ModelShape
from wingspan.progress import Progress, SilentProgress
from wingspan.project import Layout, Train
from wingspan.rehearse import findings
from wingspan.rehearse.campaign import THIS_MACHINE
from wingspan.rehearse.checkpoint import check_checkpoint, rehearse_checkpoint
from wingspan.rehearse.checks import check_samples, check_scale, check_timeouts
from wingspan.rehearse.findings import Finding
from wingspan.rehearse.levels import compare_bytes
from wingspan.rehearse.rank import RankRehearsal, RankTask, kinds_of_ranks, reckon, rehearse_rank, samples_of
from wingspan.rehearse.timeline import Prices, times, trace
from wingspan.train.parallel.layouts import fit_layout
from wingspan.units import GIB

Task = TypeVar("Task")
Result = TypeVar("Result")
ALL_KINDS = "all-kinds"
_SILENT = SilentProgress()
UNSEEN_ITEMS = ("communication", "framework", "fragmentation")  # of plan's memory: no tensor shows them


def rehearse(
    shape: ModelShape,
    layout: Layout,
    train: Train,
    devices: int,
    *,
    ranks: str = ALL_KINDS,
    plan: Mapping[str, Any] | None = None,
    seed: int = 1,
    prices: Prices | None = None,
    trace_to: Path | None = None,
    title: str = "one training step",
    progress: Progress = _SILENT,
) -> dict[str, Any]:
    """Rehearse one training step of a layout on `devices` devices and hold it against a plan.

    `ranks` is 'all-kinds', some of 'first,middle,last' (pipeline stages), or numbers like '7,4321'. `plan`
    has plan's `device`, `device_memory_bytes`, `memory_items_bytes` and FLOPs of this layout; without it
    nothing is compared and the devices are taken for accelerators. With `prices`, all kinds are also replayed as a
    timeline, drawn in the file `trace_to`. Returns what rehearsal.json says of one
    fleet. Raises InputError for ranks that do not exist, WorkError when a rank cannot be rehearsed.
    """
    began = time.perf_counter()
    plan = plan or {}
    found: list[Finding] = []
    kinds: list[RankRehearsal] = []
    peaks = [0]
    try:
        layout = fit_layout(layout, shape, sequence=train.sequence, global_batch=train.global_batch, ranks=devices)
    except InputError as error:
        found.append(Finding("stops", f"train refuses {error.where}: {error.problem}", error.remedy))
    else:
        kinds_there = kinds_of_ranks(shape, layout, train, accelerator=plan.get("device") != THIS_MACHINE)
        tasks = choose_ranks(ranks, kinds_there)
        kinds, peaks = in_processes(tasks, title, progress)
    whole = bool(kinds) and ranks == ALL_KINDS
    checkpoint = rehearse_checkpoint(kinds, layout, train, plan) if whole else None
    if checkpoint:
        found += [*_first_day(layout, train, plan, seed), *check_checkpoint(checkpoint)]
    unseen = sum(plan["memory_items_bytes"][item] for item in UNSEEN_ITEMS) if "memory_items_bytes" in plan else 0.0
    found += findings.check_ranks(kinds, plan.get("device_memory_bytes"), unseen)
    timed = times(kinds, prices) if prices and whole else {}
    if prices and timed and trace_to:
        drawn = json.dumps(trace([kind.samples[0] if kind.samples else kind for kind in kinds], prices))
        trace_to.write_bytes(gzip.compress(drawn.encode(), 6, mtime=0))
    beside = []
    if kinds and "memory_items_bytes" in plan:
        beside = findings.compare(plan, kinds, compare_bytes(shape, layout, train, kinds), timed)
    found += findings.check_plan(beside)
    return {
        "title": title,
        "devices": devices,
        "device": plan.get("device", "device"),
        "device_memory_bytes": plan.get("device_memory_bytes"),
        "layout": layout.model_dump(mode="json"),
        "wall_s": round(time.perf_counter() - began, 2),
        "peak_rss_gib": round((peak_memory_bytes() + sum(peaks)) / GIB, 3),
        "kinds": [_as_json(kind, unseen) | timed.get(kind.kind, {}) for kind in kinds],
        "findings": [vars(one) for one in found],
        "plan": beside,
        "checkpoint": checkpoint,
    }


def _first_day(layout: Layout, train: Train, plan: Mapping[str, Any], seed: int) -> list[Finding]:
    with _processes(1) as pool:
        scaled = pool.submit(_in_own_process, check_scale, layout)
        return [*check_samples(layout, train, seed), *check_timeouts(train, plan), *scaled.result()[0]]


def _processes(workers: int) -> ProcessPoolExecutor:
    """Each does one thing, as DTensor remembers process groups."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([check_scale.__module__, rehearse_rank.__module__])  # torch is imported once
    return ProcessPoolExecutor(workers, context, max_tasks_per_child=1)


def choose_ranks(ranks: str, kinds: Sequence[RankTask]) -> list[RankTask]:
    """The ranks that `ranks` means, out of one task per kind. Raises InputError for a word that names none."""
    if ranks == ALL_KINDS:
        return list(kinds)
    named = {"first": kinds[0], "middle": kinds[len(kinds) // 2], "last": kinds[-1]}
    world_size = kinds[0].layout.world_size
    chosen: dict[int, RankTask] = {}
    for word in ranks.split(","):
        if word in named:
            task = named[word]
        elif word.isdecimal() and int(word) < world_size:
            task = replace(kinds[0], kind=f"rank {word}", rank=int(word), ranks=1)
        else:
            raise InputError(
                f"'{word}' is no rank of {world_size}",
                where="--ranks",
                remedy=f"Use {ALL_KINDS}, first,middle,last, or numbers below {world_size}",
            )
        chosen[task.rank] = task
    return list(chosen.values())


def in_processes(
    tasks: Sequence[RankTask], title: str = "rehearsal", progress: Progress = _SILENT
) -> tuple[list[RankRehearsal], list[int]]:
    """Rehearse every task in processes of its own, as each rank is one; also their peak memories, largest first.

    Only as many as there are processors run at a time; the peaks returned are those of that many.
    """
    samples = [(number, sample) for number, task in enumerate(tasks) for sample in samples_of(task)]
    workers = min(len(samples), os.cpu_count() or 1)
    done: dict[int, list[RankRehearsal]] = {}
    peaks = []
    with (
        progress.task(title, len(samples), "ranks") as bar,
        _processes(workers) as pool,
    ):
        futures = [pool.submit(_in_own_process, rehearse_rank, sample) for _, sample in samples]
        for (number, task), future in zip(samples, futures, strict=True):
            try:
                rehearsal, peak = future.result()
            except Exception as error:
                pool.shutdown(wait=False, cancel_futures=True)
                module = f" in {error.where}" if isinstance(error, WorkError) and error.where else ""
                raise WorkError(
                    f"the rehearsal of {task.kind} (rank {task.rank}) failed{module}: {_first_line(error)}",
                    remedy="The same step would fail on the fleet; --debug shows where",
                ) from error
            done.setdefault(number, []).append(rehearsal)
            peaks.append(peak)
            bar.advance(note=task.kind)
    return [reckon(task, done[number]) for number, task in enumerate(tasks)], sorted(peaks, reverse=True)[:workers]


def _in_own_process(work: Callable[[Task], Result], task: Task) -> tuple[Result, int]:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    torch.set_num_threads(1)
    logging.getLogger("torch").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    return work(task), peak_memory_bytes()


def _first_line(error: BaseException) -> str:
    if isinstance(error, WorkError):
        return error.problem.splitlines()[0]
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"


def _as_json(kind: RankRehearsal, unseen: float) -> dict[str, Any]:
    return {
        "kind": kind.kind,
        "rank": kind.rank,
        "ranks": kind.ranks,
        "stage": kind.stage,
        "peak_gib": round(kind.peak_bytes / GIB, 4),
        "static_gib": round(kind.static_bytes / GIB, 4),
        "peak_bytes": kind.peak_bytes,
        "static_bytes": kind.static_bytes,
        "at_peak": dict(kind.at_peak),
        "unseen_bytes": unseen,
        "flops": sum(kind.flops.values()),
        "flops_by_operation": dict(kind.flops),
        "operations": kind.operations,
        "micro_batches": kind.micro_batches,
        "rehearsed_micro_batches": kind.rehearsed_micro_batches,
        "collectives": [
            {"op": op, "group": group, "size": size, "count": calls, "bytes": bytes_}
            for (op, group, size), (calls, bytes_) in kind.collectives.items()
        ],
    }
