"""What a rehearsal found: what would stop the run, what deserves a look, where plan saw it otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from wingspan.rehearse.rank import RankRehearsal
from wingspan.rehearse.trackers import SENDS, Kind
from wingspan.units import count, duration, size

Severity = Literal["stops", "warns", "differs"]
TOLERANCE = 0.05  # a difference from plan above this is a finding

_EXCHANGES = {
    "tensor_parallel", "context_parallel", "expert_parallel", "shard_exchange", "gradient_sync", "pipeline_send"
}  # fmt: skip
_SECONDS = {
    "compute_s": "computing",
    "exposed_s": "of exposed communication",
    "bubble_s": "of waiting for other stages",
    "step_s": "of a step without stragglers",
}
_STATES: tuple[Kind, ...] = ("parameters", "gradients", "optimizer")
_PASSING: tuple[Kind, ...] = ("gathered", "activations", "working")


@dataclass(frozen=True)
class Finding:
    """One thing found: 'stops' the run, 'warns', or 'differs' from plan."""

    severity: Severity
    problem: str
    remedy: str = ""


def check_ranks(kinds: Sequence[RankRehearsal], device_memory: float | None, unseen: float) -> list[Finding]:
    """What the rehearsed ranks show: too little memory, parameters left whole, calls that would hang."""
    found = []
    for kind in kinds:
        needed = kind.peak_bytes + unseen
        if device_memory and needed > device_memory:
            problem = f"{kind.kind}: needs {size(needed)}, the device has {size(device_memory)}"
            found.append(Finding("stops", problem, "Shard over more ranks, recompute, or lower layout.micro_batch"))
        if kind.unsharded:
            total, first = sum(kind.unsharded.values()), next(iter(kind.unsharded))
            problem = f"{kind.kind}: {len(kind.unsharded)} parameters lie whole on every rank ({size(total)}), "
            found.append(Finding("warns", problem + f"the first is {first}", "Shard them"))
    return [*found, *check_calls(kinds)]


def check_calls(kinds: Sequence[RankRehearsal]) -> list[Finding]:
    """Ranks of one group must make the same calls in the same order, and receive what their neighbours send.

    Ranks of one kind run the same program on the same shapes. So only groups that join different kinds
    can disagree: those along the pipeline.
    """
    found = []
    joined = [[one for one in kind.calls if "pp" in one.group.split("+")] for kind in kinds]
    for kind, calls in zip(kinds[1:], joined[1:], strict=True):
        first, other = (
            [(one.op, one.group, one.bytes) for one in each if one.op not in SENDS] for each in (joined[0], calls)
        )
        if first != other:
            at = next(
                (i for i, (a, b) in enumerate(zip(first, other, strict=False)) if a != b), min(len(first), len(other))
            )
            problem = f"{kinds[0].kind} and {kind.kind} make different calls in one group: call {at + 1} is "
            problem += f"{_call(first, at)} here and {_call(other, at)} there"
            found.append(Finding("stops", problem, "The ranks would wait for each other for ever"))
    return [*found, *_unequal("next", kinds), *_unequal("previous", kinds)]


def _unequal(direction: str, kinds: Sequence[RankRehearsal]) -> Iterable[Finding]:
    """Every stage passes on to the next the messages that the first sends, and back alike."""
    step = 1 if direction == "next" else -1
    streams = {f"{kind.kind} sends": _messages(kind, "send", step) for kind in kinds if _has_stage(kind, step)}
    streams |= {f"{kind.kind} receives": _messages(kind, "recv", -step) for kind in kinds if _has_stage(kind, -step)}
    if len({frozenset(one.items()) for one in streams.values()}) > 1:
        said = "; ".join(
            f"{who} {one.total():,} messages of {size(sum(bytes_ * calls for bytes_, calls in one.items()))}"
            for who, one in streams.items()
        )
        yield Finding("stops", f"messages to the {direction} stage do not match: {said}", "The pipeline would hang")


def _has_stage(kind: RankRehearsal, step: int) -> bool:
    return 0 <= kind.stage + step < kind.stages


def _messages(kind: RankRehearsal, verb: str, step: int) -> Counter[int]:
    """Sizes of the messages to or from the stage `step` further and how many of each."""
    return Counter(one.bytes for one in kind.calls if verb in one.op and one.peer == kind.stage + step)


def _call(calls: Sequence[tuple[str, str, int]], at: int) -> str:
    return f"{calls[at][0]} of {size(calls[at][2])}" if at < len(calls) else "missing"


def compare(
    plan: Mapping[str, Any],
    kinds: Sequence[RankRehearsal],
    sent: Sequence[tuple[str, float, float]] = (),
    timed: Mapping[str, Mapping[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Plan's figures for the fullest device beside the rehearsal's, in bytes and FLOPs per step.

    Also what each level of the network carries (rows of `compare_bytes`), and seconds where the step was replayed.
    """
    fullest = max(kinds, key=lambda kind: kind.peak_bytes)
    items = plan["memory_items_bytes"]
    rows: list[tuple[str, float, float]] = [(item, items[item], fullest.at_peak[item]) for item in _STATES]
    passing = ("gathered_blocks", "activations", "logits")
    rehearsed = sum(fullest.at_peak[item] for item in _PASSING)
    rows.append(("everything that comes and goes", sum(items[item] for item in passing), rehearsed))
    rows.append(("tensors at the peak", sum(items[item] for item in (*_STATES, *passing)), fullest.peak_bytes))
    if (planned := _flops(plan)) is not None:
        rows.append(("FLOPs of all ranks", planned, sum(sum(kind.flops.values()) * kind.ranks for kind in kinds)))
    rows += sent
    if timed and "step_items_s" in plan:
        rows += _seconds(plan["step_items_s"], max(timed.values(), key=lambda one: -one["bubble_s"]))
    return [
        {"item": item, "plan": planned, "rehearsed": found, "difference": found / planned - 1 if planned else None}
        for item, planned, found in rows
    ]


def _seconds(items: Mapping[str, float], busiest: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """Plan's items of a step beside the replayed one of the busiest kind; stragglers are no part of either."""
    sums = {"exposed_s": 0.0, "bubble_s": items["pipeline_bubble"], "compute_s": 0.0, "step_s": 0.0}
    for item, seconds in items.items():
        if item not in ("pipeline_bubble", "stragglers"):
            sums["exposed_s" if item in _EXCHANGES else "compute_s"] += seconds
    sums["step_s"] = sum(sums.values())
    return [(f"seconds {name}", sums[key], busiest[key]) for key, name in _SECONDS.items()]


def _flops(plan: Mapping[str, Any]) -> float | None:
    """Plan's FLOPs of a step with what is recomputed: the model's, times the ratio of its two utilisations."""
    if "hfu" not in plan:
        return None
    return float(plan["flops_per_token"] * plan["tokens_per_step"] * plan["hfu"]["value"] / plan["mfu"]["value"])


def teller(item: str) -> Callable[[float], str]:
    """How to say the figures of a row of `compare`."""
    return count if item.startswith("FLOPs") else duration if item.startswith("seconds") else size


def check_plan(rows: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Where the rehearsal differs from plan by more than the tolerance."""
    found = []
    for row in rows:
        if row["difference"] is not None and abs(row["difference"]) > TOLERANCE:
            say = teller(row["item"])
            problem = f"{row['item']}: plan says {say(row['plan'])}, the rehearsal {say(row['rehearsed'])}"
            found.append(Finding("differs", f"{problem} ({row['difference']:+.0%})"))
    return found
