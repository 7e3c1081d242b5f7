"""How the weights moved: the loss of train and align step by step, and what it did to held-out posts."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from wingspan.figures import measured
from wingspan.report.charts import Line, line_chart
from wingspan.report.record import NOT_RECORDED, Document, Fact, Record, Told, tell

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
        found.append(_course("Taught by dialogues (align)", record.aligning, _align_facts(record.summary("align"))))
    return found


def _course(title: str, metrics: list[Document], facts: list[Fact]) -> Course:
    points = [(float(one["step"]), float(one["loss"])) for one in metrics if one.get("loss") is not None]
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
    held_out = summary.get("held_out_bits_per_byte", {})
    return [
        Fact("Held-out bits per byte, before", _number(held_out.get("before"), "")),
        Fact("Held-out bits per byte, after", _number(held_out.get("after"), _change(held_out))),
        Fact("Tokens", _count(summary.get("tokens"))),
        Fact("Steps", _count(summary.get("steps"))),
        Fact("Steps skipped", _count(summary.get("skipped_steps"))),
        Fact("Parameters", _count(summary.get("parameters"))),
        Fact("Speed", _amount(summary.get("tokens_per_s"), "tokens/s")),
        Fact("First step after", _amount(summary.get("first_step_s"), "s")),
    ]


def _align_facts(summary: Document) -> list[Fact]:
    loss = summary.get("loss", {})
    return [
        Fact("Conversations", _count(summary.get("conversations"))),
        Fact("Tokens with loss", _count(summary.get("supervised_tokens"))),
        Fact("Steps", _count(summary.get("steps"))),
        Fact("Loss, first step", _number(loss.get("first"), "nats per token")),
        Fact("Loss, last step", _number(loss.get("last"), "nats per token")),
    ]


def _change(held_out: Document) -> str:
    if not held_out.get("before") or held_out.get("after") is None:
        return ""
    return f"{100 * (held_out['after'] / held_out['before'] - 1):+.1f}%".replace("-", "−")


def _number(value: float | None, note: str) -> Told:
    return Told(NOT_RECORDED) if value is None else Told(f"{value:.3f}", "measured", note)


def _count(value: int | None) -> Told:
    return Told(NOT_RECORDED) if value is None else Told(f"{value:,}", "measured")


def _amount(value: float | None, unit: str) -> Told:
    return tell(None if value is None else measured(value, unit))
