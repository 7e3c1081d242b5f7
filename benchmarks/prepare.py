"""How fast posts become tokens, step by step on one core, beside datatrove on the same posts; and how memory grows.

python benchmarks/prepare.py [--quick] [--json] [--posts FILE.jsonl] [--count N]

Posts are made up (benchmarks/posts.py) unless --posts names JSON lines with post_id, author_id, created_at, text. All
times are processor time of one process with one thread. The peer needs `make bench-peers`, and is left out without.
"""

from __future__ import annotations

import os

ONE_THREAD = {
    "POLARS_MAX_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "0",
}
os.environ.update(ONE_THREAD)
os.environ.setdefault("WINGSPAN_PSEUDONYM_KEY", "of the benchmark")

import argparse  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from itertools import islice  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import polars as pl  # noqa: E402

from posts import write_posts  # noqa: E402
from targets import Figures, Targets, finish, parser, say  # noqa: E402
from wingspan.prepare.flow.engines import Processes  # noqa: E402
from wingspan.prepare.flow.flow import BATCH, Flow  # noqa: E402
from wingspan.prepare.privacy.personal import remove_personal_data  # noqa: E402
from wingspan.prepare.privacy.pseudonyms import pseudonymiser  # noqa: E402
from wingspan.prepare.repeats.duplicates import bands_for, normalise  # noqa: E402
from wingspan.prepare.repeats.hashing import band_keys  # noqa: E402
from wingspan.prepare.stage import prepare  # noqa: E402
from wingspan.prepare.text.cleaning import clean  # noqa: E402
from wingspan.prepare.text.language import detect  # noqa: E402
from wingspan.prepare.tokens.shards import encoder  # noqa: E402
from wingspan.prepare.tokens.tokenizer import make_tokenizer  # noqa: E402
from wingspan.progress import SilentProgress, Task  # noqa: E402
from wingspan.project import ModelSection, Project  # noqa: E402
from wingspan.workspace import Run, StageContext  # noqa: E402

HERE = Path(__file__).parent
PEER = HERE / ".venvs/datatrove/bin/python"
VOCABULARY = 8192


def main() -> None:
    options = _options()
    if options.run:
        print(json.dumps(_whole(options.run, options.run.parent / "tokenizer")))
        return
    count = options.count or (100_000 if options.quick else 500_000)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        posts, half = folder / "posts.jsonl", folder / "half.jsonl"
        if options.posts:
            _first(count, options.posts, posts)
        else:
            write_posts(posts, count)
        _first(count // 2, posts, half)
        with posts.open(encoding="utf-8") as lines:
            texts = pl.Series("text", [json.loads(line)["text"] for line in islice(lines, 200_000)])
        make_tokenizer(ModelSection(depth=2, vocab=VOCABULARY), None, texts[:50_000], folder / "tokenizer")
        _steps(texts, folder / "tokenizer", 1 if options.quick else 5, figures)
        _peer(posts, folder / "tokenizer/tokenizer.json", 500 if options.quick else 5_000, figures)
        _end_to_end(half, posts, figures)
    targets = _targets(figures)
    finish(figures, targets, "polars", options.json)


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--posts", type=Path, help="JSON lines to measure on, instead of posts made up")
    made.add_argument("--count", type=int, help="posts")
    made.add_argument("--run", type=Path, help=argparse.SUPPRESS)  # prepare this file once, in a process of its own
    return made.parse_args()


def _first(count: int, source: Path, target: Path) -> None:
    with source.open("rb") as lines, target.open("wb") as stream:
        stream.writelines(islice(lines, count))


def _steps(texts: pl.Series, tokenizer: Path, repeats: int, figures: dict[str, float]) -> None:
    """Each kernel alone, from memory to memory."""
    pseudonym, encode = pseudonymiser(b"k" * 32), encoder(tokenizer)
    posts = texts.to_frame().with_columns(lang_hint=pl.lit("en"))
    normalised, size = normalise(texts), int(texts.str.len_bytes().sum())
    steps: dict[str, Callable[[], Any]] = {
        "clean": lambda: clean(texts),
        "personal data": lambda: remove_personal_data(texts, pseudonym),
        "language": lambda: detect(posts),
        "normalise": lambda: normalise(texts),
        "signatures": lambda: band_keys(normalised, *bands_for(0.8)),
        "encode": lambda: [encode(batch.to_list()) for batch in _batches(texts)],
    }
    say(f"{'step, alone':<28} {'us/post':>9} {'posts/s':>12} {'MB/s':>8}")
    for name, work in steps.items():
        seconds = _cpu_seconds(work, repeats)
        figures[f"{name} us"] = seconds / len(texts) * 1e6
        figures[f"{name} posts/s"], figures[f"{name} MB/s"] = len(texts) / seconds, size / seconds / 1e6
        say(
            f"{name:<28} {seconds / len(texts) * 1e6:>9.2f} {len(texts) / seconds:>12,.0f} {size / seconds / 1e6:>8.1f}"
        )


def _batches(texts: pl.Series) -> Iterator[pl.Series]:
    return (texts[at : at + BATCH] for at in range(0, len(texts), BATCH))


def _cpu_seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median of the repetitions, after one that warms up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def _peer(posts: Path, tokenizer: Path, count: int, figures: dict[str, float]) -> None:
    """datatrove's counterparts, in its own environment, on the first `count` of the same posts."""
    if not PEER.exists():
        say("datatrove is not installed: make bench-peers")
        return
    command = [str(PEER), str(HERE / "peer_datatrove.py"), str(posts), str(tokenizer), str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = json.loads(done.stdout.splitlines()[-1])
    for name, value in seconds.items():
        figures[f"datatrove {name} us"] = value / count * 1e6
        ratio = f"{value / count * 1e6 / figures[f'{name} us']:,.0f} times ours" if f"{name} us" in figures else ""
        say(f"datatrove {name:<18} {value / count * 1e6:>9.2f} {count / value:>12,.0f}  {ratio}")
    figures["datatrove us"] = sum(seconds.values()) / count * 1e6


def _end_to_end(half: Path, posts: Path, figures: dict[str, float]) -> None:
    """The whole stage on n/2 and on n posts: what a further post costs, and how memory grows."""
    small, whole = (_in_own_process(path) for path in (half, posts))
    further = whole["posts"] - small["posts"]
    say(f"{'step, of the whole stage':<28} {'us/post':>9}   of a further post")
    for step, seconds in sorted(whole["steps"].items(), key=lambda item: -item[1]):
        each = (seconds - small["steps"].get(step, 0.0)) / further * 1e6
        if each >= 0.05:
            figures[f"stage {step} us"] = each
            say(f"  {step:<26} {each:>9.2f}")
    figures["end to end us"] = (whole["cpu_s"] - small["cpu_s"]) / further * 1e6
    figures["posts/s"] = 1e6 / figures["end to end us"]
    figures["posts/s, with all that is done once"] = whole["posts"] / whole["cpu_s"]
    figures["done once s"] = whole["cpu_s"] - whole["posts"] * figures["end to end us"] / 1e6
    figures["peak MiB"], figures["memory of twice the posts"] = whole["peak_mib"], whole["peak_mib"] / small["peak_mib"]
    if "datatrove us" in figures:
        figures["times datatrove"] = figures["datatrove us"] / figures["end to end us"]


def _in_own_process(posts: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--run", str(posts)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


class _Timed(SilentProgress):
    """Notes the processor time of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        start = time.process_time()
        with super().task(name, total, unit) as task:
            yield task
        step = name.removesuffix("-train").removesuffix("-held_out")
        self.seconds[step] = self.seconds.get(step, 0.0) + time.process_time() - start


def _whole(posts: Path, tokenizer: Path) -> dict[str, Any]:
    source = {"name": "posts", "path": str(posts), "licence": "made up", "reader": "jsonl"}
    settings = {
        "project": {"name": "benchmark"},
        "rights": {"basis": "public-domain", "statement": "All of it was made up to be measured."},
        "model": {"start": str(tokenizer)},
        "prepare": {"posts": [source], "held_out": 0.01, "grounded_dialogues": 10, "grounded_held_out": 2},
    }
    progress = _Timed()
    output = posts.parent / f"out-{posts.stem}"
    output.mkdir()
    context = StageContext(Run(posts.parent, Project.model_validate(settings), posts.parent), output, progress)
    start = time.process_time()
    summary = prepare(context, Flow(output / ".work", Processes(1), progress))
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"posts": summary["read"], "cpu_s": seconds, "steps": progress.seconds, "peak_mib": peak}


def _targets(figures: Figures) -> Targets:
    return {
        "posts/s, raw JSON to token shards": (figures["posts/s"], 50_000, False),
        "signatures, posts/s": (figures["signatures posts/s"], 300_000, False),
        "personal data, posts/s": (figures["personal data posts/s"], 1_000_000, False),
        "encoding, MB/s": (figures["encode MB/s"], 100, False),
        "memory of twice the posts": (figures["memory of twice the posts"], 1.25, True),
    }


if __name__ == "__main__":
    main()
