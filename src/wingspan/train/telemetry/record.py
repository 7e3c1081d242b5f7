"""What a run says of itself: the bar, metrics.jsonl and the ledger. Only rank 0 writes."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch.distributed as dist

from wingspan.progress import Progress
from wingspan.train.data.ledger import FILE, Entry, JsonLines, entries

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Fitted:
    """A finished run. Rates are of this process's share of it; the rest is of the whole run."""

    steps: int
    tokens: int  # predicted
    skipped: int  # steps left out because their loss or gradient was not finite
    first_loss: float
    last_loss: float
    tokens_per_s: float  # 0 when this process did fewer than two steps
    first_step_s: float  # from the start of the loop, restoring included, to the end of this process's first step


class Record:
    """Takes down each step; open it around the loop."""

    def __init__(self, folder: Path, name: str, steps: int, log_every: int, progress: Progress) -> None:
        self._folder, self._name, self._steps = folder, name, steps
        self._log_every, self._progress = log_every, progress
        self._writes = not dist.is_initialized() or dist.get_rank() == 0
        self._open = ExitStack()
        self._began = time.perf_counter()
        self._first_step_s = 0.0
        self._timed_tokens = 0

    def __enter__(self) -> Self:
        if self._writes:
            self._ledger = JsonLines(self._folder / "ledger" / FILE)
            self._metrics = JsonLines(self._folder / METRICS)
            self._open.callback(self._ledger.close)
            self._open.callback(self._metrics.close)
        self._bar = self._open.enter_context(self._progress.task(self._name, self._steps, "steps"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def start(self, step: int) -> None:
        """The loop begins at this step: those before were done by an earlier process."""
        self._bar.advance(step)
        self._last = time.perf_counter()

    def step(self, entry: Entry, loss: float, gradient_norm: float, learning_rate: float) -> None:
        """Take down one step."""
        now = time.perf_counter()
        if self._first_step_s:
            self._timed_tokens += entry.tokens
        else:
            self._first_step_s, self._timed_from = now - self._began, now
        rate = entry.tokens / (now - self._last)
        self._last = now
        skipped = ", skipped: not finite" if entry.skipped else ""
        self._bar.advance(1, f"loss {loss:.3f}, {rate:,.0f} tokens/s{skipped}")
        if not self._writes:
            return
        self._ledger.append(asdict(entry))
        if entry.step % self._log_every == 0 or entry.step + 1 == self._steps:
            line = {
                "step": entry.step,
                "loss": None if entry.skipped else loss,
                "gradient_norm": None if entry.skipped else gradient_norm,
                "learning_rate": learning_rate,
                "tokens": entry.tokens,
                "tokens_per_s": round(rate, 1),
                "time": round(time.time(), 3),
            }
            self._metrics.append(line)

    def fitted(self) -> Fitted:
        """The whole run, from its ledger and metrics; every rank calls this after the loop."""
        if dist.is_initialized():
            dist.barrier()  # rank 0 has closed the files
        used = {entry.step: entry for entry in entries(self._folder / "ledger")}
        lines = [json.loads(line) for line in (self._folder / METRICS).read_text().splitlines()]
        losses = {line["step"]: line["loss"] for line in lines if line["loss"] is not None}
        elapsed = self._last - self._timed_from if self._timed_tokens else 0.0
        return Fitted(
            steps=len(used),
            tokens=sum(entry.tokens for entry in used.values()),
            skipped=sum(entry.skipped for entry in used.values()),
            first_loss=losses[min(losses)] if losses else float("nan"),
            last_loss=losses[max(losses)] if losses else float("nan"),
            tokens_per_s=self._timed_tokens / elapsed if elapsed else 0.0,
            first_step_s=self._first_step_s,
        )
