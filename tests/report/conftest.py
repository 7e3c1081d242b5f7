"""A run folder as the stages leave it, with plainly invented numbers: what the report's tests read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from wingspan.figures import predicted
from wingspan.workspace import Run, find_run

PROJECT = """
[project]
name = "invented"
description = "A fixture: no number in it was measured"

[rights]
basis = "consent"
statement = "Everybody in this fixture was invented and agreed to it."

[model]
depth = 4
vocab = 512

[assistant]
name = "Testbird"

[[prepare.posts]]
name = "made-up"
path = "posts.tsv"
licence = "CC0-1.0"
reader = "delimited"
"""

HOSTILE = '<script>alert("post")</script><img src=x onerror=alert(1)> {{ 7 * 7 }} & "quotes"'
REPEAT = {"post_id": "2", "text": "the tram was late again!", "repeats": "8", "kept": "the tram was late again"}
SECONDS = {"plan": 2.5, "rehearse": 21.0, "prepare": 6.0, "train": 240.0, "align": 130.0, "evaluate": 61.0}


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """Makes a run folder in which the given stages (by default all) are published."""
    return partial(invent_run, tmp_path)


def invent_run(folder: Path, stages: Sequence[str] = tuple(SECONDS)) -> Run:
    """A run folder in which these stages are published."""
    (folder / "wingspan.toml").write_text(PROJECT)
    run = find_run(folder, runs=folder / "runs")
    for stage in stages:
        for name, text in _FILES[stage]().items():
            path = run.folder / stage / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (run.folder / stage / "manifest.json").write_text(json.dumps(_manifest(stage)))
    return run


def _manifest(stage: str) -> dict[str, Any]:
    seconds = SECONDS[stage]
    return {
        "stage": stage,
        "version": 1,
        "fingerprint": stage.encode().hex().ljust(64, "0"),
        "outputs": {name: {"bytes": len(text), "sha256": "ab" * 32} for name, text in _FILES[stage]().items()},
        "summary": _SUMMARIES.get(stage, {}),
        "wall_s": seconds,
        "cpu_s": 2 * seconds,
        "peak_memory_bytes": int(seconds * 1e7) + 200_000_000,
        "energy": _guess(seconds * 4e-6, "kWh", 0.5),
        "finished_at": "2000-01-01T00:00:00Z",
        "versions": {"wingspan": "0.0.0", "python": "3.11.0"},
    }


def _guess(value: float, unit: str, error: float = 0.25) -> dict[str, Any]:
    return predicted(value, unit, error=error, source="invented").as_json()


_SUMMARIES: dict[str, dict[str, Any]] = {
    "train": {
        "tokens": 40960,
        "steps": 40,
        "skipped_steps": 0,
        "parameters": 134_515_008,
        "held_out_bits_per_byte": {"before": 1.6, "after": 1.4},
        "tokens_per_s": 190.0,
        "first_step_s": 9.5,
    },
    "align": {
        "conversations": 700,
        "supervised_tokens": 9000,
        "steps": 30,
        "skipped_steps": 0,
        "held_out_loss": {"before": 2.5, "after": 1.1},
        "supervised_tokens_per_s": 70.0,
        "first_step_s": 6.0,
    },
}


def _plan() -> dict[str, str]:
    guesses = {"prepare": (5.0, 5e8), "train": (260.0, 2.4e9), "align": (100.0, 2e9), "evaluate": (40.0, 1e9)}
    stages = {
        name: {
            "wall_s": _guess(seconds, "s"),
            "peak_memory_bytes": _guess(memory, "B", 0.2),
        }
        for name, (seconds, memory) in guesses.items()
    }
    machine = {"processor": "Invented CPU", "cores": 2, "memory_bytes": 8 << 30}
    figures = {
        "step_s": _guess(5.5, "s"),
        "tokens_per_s": _guess(7e6, "tokens/s"),
        "mfu": _guess(0.41, ""),
        "memory_bytes": _guess(3e10, "B", 0.15),
        "days": _guess(12.5, "days"),
        "energy_mwh": _guess(2100.0, "MWh"),
        "carbon_t": _guess(840.0, "t"),
        "cost": _guess(7.1e6, "USD"),
    }
    could = {"days": 30.0, "mfu": 0.38, "parameters": 2.8e11, "tokens": 5.7e12, "source": "invented"}
    plan = {
        "machine": machine,
        "sentence": "A sentence of the plan.",
        "this_machine": {"stages": stages},
        "fleet": {"device": "this-machine", "devices": 1, **figures},
        "at_scale": {"device": "Chip", "devices": 64, "fleet_devices": 10_000, "could_train": could, **figures},
    }
    return {"plan.json": json.dumps(plan)}


def _rehearsal() -> dict[str, str]:
    gib, band = 1 << 30, {"mean": 1.0, "p5": 1.0, "p50": 1.0, "p90": 1.0, "p95": 1.0}
    kinds = [
        {
            "kind": name,
            "rank": rank,
            "ranks": 64,
            "at_peak": {"parameters": 9 * gib, "gradients": 4 * gib, "optimizer": 13 * gib, "activations": busy * gib},
            "unseen_bytes": 2 * gib,
            "flops": 1e15,
            "collectives": [{"op": "_allgather_base_", "group": "dp_shard", "size": 64, "count": 9, "bytes": 3 * gib}],
            "step_s": 8.0,
            "compute_s": 5.0,
            "exposed_s": 1.0,
            "bubble_s": 2.0,
        }
        for name, rank, busy in (("first stage", 0, 9), ("middle stage", 8, 6), ("last stage", 1016, 14))
    ]
    rehearsal = {
        "title": "An invented model of two stages",
        "device": "Chip",
        "devices": 1024,
        "device_memory_bytes": 80 * gib,
        "wall_s": 20.0,
        "peak_rss_gib": 0.6,
        "kinds": kinds,
        "findings": [{"severity": "warns", "problem": "an invented finding", "remedy": "Do nothing"}],
        "plan": [{"item": "parameters", "plan": 10 * gib, "rehearsed": 9 * gib, "difference": -0.1}],
        "checkpoint": {"bytes": 5 * gib, "files": 1024},
        "goodput": {
            "goodput": band | {"mean": 0.9, "p5": 0.85, "p95": 0.93},
            "finishing_day": band | {"p50": 83.0, "p90": 87.0},
            "interruptions_per_day": 5.4,
            "checkpoint_interval_s": 420.0,
            "spares": 19,
            "share_of_clock": {"steps kept": 0.9, "restarts": 0.06, "site down": 0.04, "maintenance": 0.0},
            "energy_mwh": band,
            "cost_usd": band,
        },
    }
    return {"rehearsal.json": json.dumps(rehearsal)}


def _prepared() -> dict[str, str]:
    report = {
        "read": 1000,
        "refused": {"too short": 29, "near duplicate": 20},
        "damaged": 1,
        "kept": 950,
        "split": {"train": 855, "held_out": 95},
        "languages": {"en": 900, "fr": 50},
        "characters": {"shortest": 3, "median": 80, "p95": 200, "longest": 280, "total": 76_000},
        "tombstones": {
            "reasons": {"deleted": 4, "opted out": 2},
            "ids_searched": 9000,
            "files_searched": 5,
            "found": 0,
        },
        "personal_data": {"email": 3, "phone": 1},
        "conversations": {"train": {"dialogue": 500, "grounded": 200}, "held_out": {"dialogue": 55}},
        "tokens": {"train": 24_000, "held_out": 2_600},
        "samples": {"too short": [{"post_id": "1", "text": HOSTILE}], "near duplicate": [REPEAT]},
        "lengths": [{"up_to": 64, "posts": 400}, {"up_to": 128, "posts": 550}],
        "tags": {"shouting": 12},
        "tagged_samples": {"shouting": [{"post_id": "4", "text": "WHY IS NOBODY TALKING ABOUT TRAMS"}]},
        "sources": [
            {"name": "made-up", "licence": "CC0-1.0", "read": 1000, "refused": {"x": 49}, "damaged": 1, "kept": 950}
        ],
        "by_language": {"en": {"kept": 900, "near duplicate": 20}, "fr": {"kept": 50}},
        "compression": [{"vocab": 1024, "tokens_per_byte": 0.5}, {"vocab": 2048, "tokens_per_byte": 0.4}],
        "mixture": {"made-up/en": 1.5, "made-up/fr": 4.0},
        "evaluation_sets": [
            {"post_id": "3", "item": "exam.jsonl#7"},
            {"conversation_id": "d-1", "item": "exam.jsonl#8"},
        ],
    }
    return {"report.json": json.dumps(report)}


def _metrics(steps: int, first: float) -> dict[str, str]:
    lines = [{"step": step, "loss": first * (1 + 3 / (step + 3)) + 0.1 * (step % 3)} for step in range(1, steps + 1)]
    return {"metrics.jsonl": "".join(json.dumps(line) + "\n" for line in lines)}


def _train() -> dict[str, str]:
    """The second launch did the last ten steps again."""
    of_all = {"loop": "train", "left_out": False, "energy": "RAPL counter", "price": "$2 per device-hour"}
    lines = [
        of_all | {"step": step, "tokens": 100, "kwh": 0.02, "usd": 0.1, "ns": {kind: seconds * 10**9, "compute": 10**9}}
        for step, kind, seconds in (
            *((step, "start", 10 * (step == 0)) for step in range(30)),
            *((step, "restart", 50 * (step == 20)) for step in range(20, 40)),
        )
    ]
    groups = [{"source": "made-up", "language": language, "bytes": 50} for language in ("en", "fr")]
    scores = [
        {"step": step, "bits_per_byte": score, "by": [group | {"bits_per_byte": score} for group in groups]}
        for step, score in ((20, 1.5), (40, 1.25))
    ]
    files = {"goodput.jsonl": lines, "evaluations.jsonl": scores}
    return _metrics(40, 3.0) | {name: "".join(json.dumps(one) + "\n" for one in all_) for name, all_ in files.items()}


def _task(name: str, title: str, metric: str, base: float, assistant: float, up: bool, p: float) -> dict[str, Any]:
    change = assistant - base
    return {
        "name": name,
        "title": title,
        "metric": metric,
        "unit": "",
        "higher_is_better": up,
        "items": 200,
        "scores": {
            model: {"value": value, "low": value - 0.05, "high": value + 0.05}
            for model, value in (("base", base), ("assistant", assistant))
        },
        "difference": {"value": change, "low": change - 0.04, "high": change + 0.04, "p_value": p, "test": "sign"},
    }


def _scores() -> dict[str, str]:
    tasks = [
        _task("bpb", "Held-out posts", "bits per byte", 1.6, 1.4, False, 0.0005),
        _task("replies", "Reply choice", "accuracy", 0.4, 0.55, True, 0.002),
        _task("sentiment", "Sentiment", "correlation", 0.2, 0.35, True, 0.01),
        _task("citations", "Citations", "precision", 0.5, 0.52, True, 0.6),
    ]
    posts = [{"post_id": "7", "text": HOSTILE}, {"post_id": "8", "text": "the tram was late again"}]
    answers = {"base": "Trams run.", "assistant": "The tram was late [2]. <b>Not bold</b>"}
    cited = {"number": 2, "post_id": "8", "claim": "The tram was late", "supported": True}
    sample = {
        "question": "Was the tram late?",
        "answerable": True,
        "posts": posts,
        "answers": answers,
        "citations": {"base": [], "assistant": [cited]},
    }
    unanswered = {
        "question": "Who drove it?",
        "answerable": False,
        "posts": [],
        "answers": {"base": "", "assistant": "The posts do not say."},
        "citations": {"base": [], "assistant": []},
    }
    return {
        "scores.json": json.dumps({"models": ["base", "assistant"], "tasks": tasks, "samples": [sample, unanswered]})
    }


_FILES = {
    "plan": _plan,
    "rehearse": _rehearsal,
    "prepare": _prepared,
    "train": _train,
    "align": lambda: {f"sft/{name}": text for name, text in _metrics(30, 1.5).items()},
    "evaluate": _scores,
}
