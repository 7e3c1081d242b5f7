"""How the weights moved: the loss of train and align step by step, and what it did to held-out posts."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from wingspan.figures import measured
from wingspan.report.charts import Line, line_chart
from wingspan.report.record import NOT_RECORDED, Document, Fact, Record, Told, signed, tell

_TAUGHT_BY = {"grpo": "checks"}
_POINTS = 1000  # of a curve at most
_SMOOTHED_OVER = 0.1  # share of the steps in the running mean


@dataclass(frozen=True)
class Course:
    """One stage of training: its curve and its figures."""

    title: str
    chart: Markup | None
    facts: list[Fact]


def courses(record: Record) -> list[Course]:
    """Train and align, as far as they have been run."""
    found = []
    if "train" in record.manifests:
        found.append(_course("Continued on posts (train)", record.training, _train_facts(record.summary("train"))))
    if "align" in record.manifests:
        summary, lines = record.summary("align"), record.aligning
        if "conversations" in summary:
            found.append(_course("Taught by dialogues (align)", lines.get("sft", []), _align_facts(summary)))
        for name, step in summary.get("further", {}).items():
            found.append(
                _course(
                    f"Taught by {_TAUGHT_BY.get(name, 'preferences')} ({name})", lines.get(name, []), _step_facts(step)
                )
            )
    return found


def curves(record: Record) -> list[Markup]:
    """The losses so far of train and of each step of align."""
    found = [_course("train", record.training, [])]
    found += [_course(f"align: {name}", lines, []) for name, lines in record.aligning.items()]
    return [one.chart for one in found if one.chart]


def _course(title: str, metrics: list[Document], facts: list[Fact]) -> Course:
    losses = {float(one["step"]): float(one["loss"]) for one in metrics if one.get("loss") is not None}
    points = sorted(losses.items())  # a step done again counts as it was done last
    points = points[:: -(-len(points) // _POINTS) or 1]
    return Course(title, _loss_chart(title, points) if len(points) > 1 else None, facts)


def _loss_chart(title: str, points: list[tuple[float, float]]) -> Markup:
    span = max(1, round(_SMOOTHED_OVER * len(points)))
    mean = running_mean(points, span)
    lines = [Line("each step", points, 0, faint=True), Line(f"mean of {span} steps", mean, 0)]
    spoken = f"From {points[0][1]:.3f} at step {points[0][0]:.0f} to {points[-1][1]:.3f} at step {points[-1][0]:.0f}"
    return line_chart(f"{title}: loss", spoken, lines if span > 1 else lines[1:], "step", "nats per token")


def running_mean(points: list[tuple[float, float]], span: int) -> list[tuple[float, float]]:
    """Mean of the last `span` values at each point, of all so far at the start."""
    values = [y for _, y in points]
    return [(x, fmean(values[max(0, index + 1 - span) : index + 1])) for index, (x, _) in enumerate(points)]


def _train_facts(summary: Document) -> list[Fact]:
    return [
        *_before_and_after("Held-out bits per byte", summary.get("held_out_bits_per_byte", {})),
        Fact("Tokens", _count(summary.get("tokens"))),
        *_loop_facts(summary),
        Fact("Parameters", _count(summary.get("parameters"))),
        Fact("Speed", _amount(summary.get("tokens_per_s"), "tokens/s")),
    ]


def _align_facts(summary: Document) -> list[Fact]:
    return [
        *_before_and_after("Held-out loss", summary.get("held_out_loss", {})),
        Fact("Tokens with loss", _count(summary.get("supervised_tokens"))),
        *_loop_facts(summary),
        Fact("Conversations", _count(summary.get("conversations"))),
        Fact("Policy", Told(summary.get("policy", NOT_RECORDED))),
        Fact("Speed", _amount(summary.get("supervised_tokens_per_s"), "tokens/s")),
    ]


def _step_facts(summary: Document) -> list[Fact]:
    found = {
        "Held-out pairs ranked rightly": summary.get("held_out_right"),
        "Reward": {"before": summary["reward"]["first"], "after": summary["reward"]["last"]}
        if "reward" in summary
        else None,
    }
    facts = [fact for label, values in found.items() if values for fact in _before_and_after(label, values)]
    return [*facts, *_loop_facts(summary), Fact("Preferences", _count(summary.get("preferences")))]


def _loop_facts(summary: Document) -> list[Fact]:
    return [
        Fact("Steps", _count(summary.get("steps"))),
        Fact("Steps skipped", _count(summary.get("skipped_steps"))),
        Fact("First step after", _amount(summary.get("first_step_s"), "s")),
    ]


def _before_and_after(label: str, found: Document) -> list[Fact]:
    return [
        Fact(f"{label}, before", _number(found.get("before"), "")),
        Fact(f"{label}, after", _number(found.get("after"), _change(found))),
    ]


def _change(found: Document) -> str:
    if not found.get("before") or found.get("after") is None:
        return ""
    return signed(f"{100 * (found['after'] / found['before'] - 1):+.1f}%")


def _number(value: float | None, note: str) -> Told:
    return Told(NOT_RECORDED) if value is None else Told(f"{value:.3f}", "measured", note)


def _count(value: int | None) -> Told:
    return Told(NOT_RECORDED) if value is None else Told(f"{value:,}", "measured")


def _amount(value: float | None, unit: str) -> Told:
    return tell(None if value is None else measured(value, unit))
