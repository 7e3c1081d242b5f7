"""The data funnel: what was read, what was refused and why, what was replaced, what was kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from markupsafe import Markup

from wingspan.report.charts import Bar, bar_chart
from wingspan.report.record import Document, Fact, Told
from wingspan.units import count

_MOST_BARS = 6  # the rest is added up
_MOST_LANGUAGES, _MOST_REASONS = 12, 3


@dataclass(frozen=True)
class Removed:
    """A text that a rule refused or tagged, and the post that it repeats."""

    text: str
    repeats: str


def facts(report: Document) -> list[Fact]:
    """What was read, refused, kept, held out and tokenised."""
    numbers = {
        "Posts read": report["read"],
        "Refused": _refused(report),
        "Kept": report["kept"],
        "Held out, never trained on": report["split"].get("held_out", 0),
        "Tokens to train on": report["tokens"]["train"],
    }
    return [Fact(label, Told(f"{number:,}", "measured")) for label, number in numbers.items()]


def charts(report: Document) -> list[Markup]:
    """The funnel, then what the kept posts are, then what was made of them."""
    conversations = {
        f"{kind}, {split.replace('_', ' ')}": number
        for split, kinds in report["conversations"].items()
        for kind, number in kinds.items()
    }
    found = [
        _funnel_chart(report),
        _counts_chart("Languages of the posts kept (und: undetermined)", report["languages"], 0),
        _counts_chart("Tagged, and kept: what the policy lets through", report.get("tags", {}), 1),
        _lengths_chart(report),
        _counts_chart("Personal data replaced, by kind", report["personal_data"], 3),
        _counts_chart("Conversations made, by kind", conversations, 2),
        _compression_chart(report),
    ]
    return [chart for chart in found if chart]


def _funnel_chart(report: Document) -> Markup:
    bars = [Bar("read", report["read"], f"{report['read']:,}")]
    bars += [Bar(f"refused: {reason}", number, f"{number:,}", 1) for reason, number in report["refused"].items()]
    if report["damaged"]:
        bars.append(Bar("damaged", report["damaged"], f"{report['damaged']:,}", 5))
    bars.append(Bar("kept", report["kept"], f"{report['kept']:,}", 2))
    return bar_chart("What became of the posts", _spoken(bars), bars)


def _counts_chart(title: str, counts: dict[str, int], colour: int) -> Markup | None:
    """Counts by name, largest first, the long tail added up; None where there are none."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown, rest = ordered[:_MOST_BARS], ordered[_MOST_BARS:]
    if rest:
        shown = [*shown, (f"{len(rest)} others", sum(number for _, number in rest))]
    bars = [Bar(name.replace("_", " "), number, f"{number:,}", colour) for name, number in shown]
    return bar_chart(title, _spoken(bars), bars) if bars else None


def _lengths_chart(report: Document) -> Markup | None:
    bars = [Bar(f"up to {one['up_to']:,}", one["posts"], f"{one['posts']:,}", 4) for one in report.get("lengths", [])]
    return bar_chart("Lengths of the posts kept, in characters", _spoken(bars), bars) if bars else None


def _compression_chart(report: Document) -> Markup | None:
    """What a larger vocabulary is worth on these posts; a single size compares nothing."""
    curve = report.get("compression", [])
    bars = [Bar(f"{one['vocab']:,} tokens", 1 / one["tokens_per_byte"], "", 0) for one in curve]
    bars = [replace(bar, text=f"{bar.value:.2f}") for bar in bars]
    return bar_chart("Bytes per token, by size of the vocabulary", _spoken(bars), bars) if len(bars) > 1 else None


def sources(report: Document) -> list[list[str]]:
    """A row for each source: its licence and what became of its records."""
    return [
        [
            one["name"],
            one["licence"],
            *(f"{number:,}" for number in (one["read"], _refused(one), one["damaged"], one["kept"])),
        ]
        for one in report.get("sources", [])
    ]


def by_language(report: Document) -> list[list[str]]:
    """A row for each of the largest languages: posts that reached the rules, the share kept, what took the others."""
    languages = sorted(report.get("by_language", {}).items(), key=lambda item: (-sum(item[1].values()), item[0]))
    rows = []
    for language, outcomes in languages[:_MOST_LANGUAGES]:
        whole = sum(outcomes.values())
        dropped = sorted(((n, reason) for reason, n in outcomes.items() if reason != "kept"), reverse=True)
        reasons = ", ".join(f"{reason} {n / whole:.1%}" for n, reason in dropped[:_MOST_REASONS])
        rows.append([language, f"{whole:,}", f"{outcomes.get('kept', 0) / whole:.1%}", reasons or "none"])
    return rows


def mixture(report: Document) -> list[list[str]]:
    """How often the posts of each source are trained on, by language where that differs; empty without a mixture."""
    groups: dict[tuple[str, float], list[str]] = {}
    for name, epochs in report.get("mixture", {}).items():
        source, _, language = name.rpartition("/")
        groups.setdefault((source, epochs), []).append(language)
    sources = Counter(source for source, _ in groups)
    return [
        [source, "all" if sources[source] == 1 else ", ".join(sorted(languages)), f"{epochs:.3g}"]
        for (source, epochs), languages in sorted(groups.items(), key=lambda item: (item[0][0], -item[0][1]))
    ]


def evaluation_items(report: Document) -> list[str]:
    """Posts and dialogues that share words with an evaluation set, with the item."""
    return [
        f"{one.get('post_id') or one['conversation_id']}: {one['item']}" for one in report.get("evaluation_sets", [])
    ]


def _refused(counts: Document) -> int:
    return sum(counts["refused"].values())


def _spoken(bars: list[Bar]) -> str:
    return "; ".join(f"{bar.label} {bar.text}" for bar in bars)


def tombstones(report: Document) -> str:
    """What was searched to prove that nothing deleted or opted out is left."""
    proof = report["tombstones"]
    if not proof["reasons"]:
        return "No post is marked as deleted, no author has left or said no, and nobody is on the list of opt-outs."
    known = ", ".join(f"{number:,} {reason}" for reason, number in proof["reasons"].items())
    searched = f"{proof['ids_searched']:,} ids in the {proof['files_searched']:,} tables that prepare wrote"
    total = sum(proof["reasons"].values())
    return f"Must not be used: {known}. Of these {total:,}, {proof['found']:,} were found among the {searched}."


def samples(report: Document) -> list[tuple[str, dict[str, list[Removed]], dict[str, int]]]:
    """What each rule refused, and what it only tagged: a heading, samples by rule, and how many there are by rule.

    Deleted and opted-out posts are never among them.
    """
    shown = (
        ("A few texts that each rule refused", "samples", report["refused"]),
        ("A few texts that were tagged and kept", "tagged_samples", report.get("tags", {})),
    )
    return [
        (heading, {rule: [_sample(one) for one in texts] for rule, texts in report[key].items()}, counts)
        for heading, key, counts in shown
        if report.get(key)
    ]


def _sample(one: Document) -> Removed:
    return Removed(one["text"], one.get("kept") or "")


def lengths(report: Document) -> str:
    """How long the kept posts are."""
    found = report["characters"]
    return (
        f"A kept post has {found['median']:,.0f} characters in the median, at most {found['longest']:,.0f}; "
        f"all together {count(found['total'])}."
    )
