"""What a run says of itself: the bar, metrics.jsonl, the ledgers, and where else its figures go. Only rank 0 writes."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch.distributed as dist

from wingspan.progress import Progress
from wingspan.project import Telemetry as Settings
from wingspan.train import torch_compat
from wingspan.train.data.ledger import FILE, Entry, JsonLines, entries
from wingspan.train.telemetry.goodput import Goodput
from wingspan.train.telemetry.machines import Machines
from wingspan.train.telemetry.sinks import EventFiles, MetricsPage, Values
from wingspan.workspace import rank

if TYPE_CHECKING:
    from wingspan.train.loop import Recipe

METRICS, EVALUATIONS = "metrics.jsonl", "evaluations.jsonl"
_SMOOTHED = 20  # steps of which the speed shown is the mean


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


class Telemetry:
    """What the loops of a stage share: the ledger of its time, its machines, how it is watched and scored.

    Open it where the stage begins: what passes until the loop begins is the time of the start.
    """

    def __init__(self, folder: Path, machines: Machines | None = None, settings: Settings | None = None) -> None:
        self.machines, self.settings = machines or Machines(), settings or Settings()
        self.goodput = None if rank() else Goodput(folder, self.machines)
        self.sinks: list[MetricsPage | EventFiles] = []
        self.evaluation: Callable[[], dict[str, Any]] | None = None  # every rank calls it
        self._folder, self._open = folder, ExitStack()

    def __enter__(self) -> Self:
        if self.goodput:
            self._open.callback(self.goodput.close)
            if self.settings.metrics_port:
                self.sinks.append(MetricsPage(self.settings.metrics_port))
            if self.settings.tensorboard:
                self.sinks.append(EventFiles(self._folder / "tensorboard"))
            for sink in self.sinks:
                self._open.callback(sink.close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def spent(self, kind: str) -> AbstractContextManager[None]:
        """The time of the block is of this kind; see `goodput.KINDS`."""
        return self.goodput.spent(kind) if self.goodput else nullcontext()

    def write(self, step: int, values: Values) -> None:
        """Pass figures on."""
        for sink in self.sinks:
            sink.write(step, values)


class Record:
    """Takes down each step; open it around the loop."""

    def __init__(self, folder: Path, recipe: Recipe, progress: Progress, telemetry: Telemetry | None = None) -> None:
        self._folder, self._recipe, self._progress = folder, recipe, progress
        self._given, self._telemetry = telemetry, telemetry or Telemetry(folder)
        self._goodput = self._telemetry.goodput
        self._open = ExitStack()
        self._began, self._thread = time.perf_counter(), get_ident()
        self._first_step_s = 0.0
        self._timed_tokens = 0
        self._latest: deque[tuple[int, float]] = deque(maxlen=_SMOOTHED)  # tokens, seconds

    def __enter__(self) -> Self:
        if not self._given:
            self._open.enter_context(self._telemetry)
        if self._goodput:
            self._ledger = JsonLines(self._folder / "ledger" / FILE)
            self._metrics = JsonLines(self._folder / METRICS)
            self._open.callback(self._ledger.close)
            self._open.callback(self._metrics.close)
            self._open.enter_context(torch_compat.around_waits(self._waiting))
            self._open.callback(self._goodput.turn_to, "checkpoint")  # what follows is publishing and export
        self._bar = self._open.enter_context(self._progress.task(self._recipe.name, self._recipe.steps, "steps"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def spent(self, kind: str) -> AbstractContextManager[None]:
        """The time of the block is of this kind; see `goodput.KINDS`."""
        return self._telemetry.spent(kind)

    def start(self, step: int) -> None:
        """The loop begins at this step: those before were done by an earlier process."""
        self._bar.advance(step)
        if self._goodput:
            self._goodput.begin(self._recipe.name, step)
        self._last = time.perf_counter()

    def step(self, entry: Entry, loss: float, gradient_norm: float, learning_rate: float) -> None:
        """Take down one step."""
        now = time.perf_counter()
        if self._first_step_s:
            self._timed_tokens += entry.tokens
        else:
            self._first_step_s, self._timed_from = now - self._began, now
        self._latest.append((entry.tokens, now - self._last))
        rate = entry.tokens / (now - self._last)
        self._last = now
        if not self._goodput:
            self._bar.advance(1)
            return
        self._goodput.step(entry.step, entry.tokens, left_out=entry.skipped)
        self._ledger.append(asdict(entry))
        values = self._values(entry, loss, gradient_norm, learning_rate)
        self._bar.advance(1, self._note(entry, values))
        if entry.step % self._recipe.log_every == 0 or entry.step + 1 == self._recipe.steps:
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
            self._telemetry.write(entry.step + 1, values)

    def evaluate(self, step: int) -> None:
        """Score held-out text when so many steps are done, if it is time to; every rank calls this."""
        every, score = self._telemetry.settings.evaluate_every, self._telemetry.evaluation
        if not every or step % every or score is None:
            return
        began = time.perf_counter()
        with self.spent("evaluation"):
            found = score()
        took = time.perf_counter() - began
        self._last, self._timed_from = self._last + took, self._timed_from + took  # no part of the training's speed
        if self._goodput:
            lines = JsonLines(self._folder / EVALUATIONS)
            lines.append({"step": step, **found})
            lines.close()
            values: Values = {
                ("bits_per_byte", one["source"], one["language"]): one["bits_per_byte"] for one in found["by"]
            }
            self._telemetry.write(step, values)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Around a wait for other ranks. A thread beside publishes checkpoints: its waits hold nobody up."""
        assert self._goodput
        in_step = get_ident() == self._thread and self._goodput.kind == "compute"
        with self.spent("communication") if in_step else nullcontext():
            yield

    def _values(self, entry: Entry, loss: float, norm: float, learning_rate: float) -> dict[tuple[str, ...], float]:
        assert self._goodput
        rate = sum(tokens for tokens, _ in self._latest) / sum(seconds for _, seconds in self._latest)
        mfu = self._telemetry.machines.mfu(rate)
        return {
            ("step",): entry.step + 1,
            ("steps",): self._recipe.steps,
            ("loss",): loss,
            ("gradient_norm",): norm,
            ("learning_rate",): learning_rate,
            ("tokens_per_s",): rate,
            **({("mfu",): mfu} if mfu else {}),
            **self._goodput.values(),
        }

    def _note(self, entry: Entry, values: Values) -> str:
        ahead = self._recipe.checkpoint_every - (entry.step + 1) % self._recipe.checkpoint_every
        said = [f"loss {values['loss',]:.3f}", f"{values['tokens_per_s',]:,.0f} tokens/s"]
        said += [f"MFU {values['mfu',]:.0%}"] if ("mfu",) in values else []
        said += [f"goodput {values['goodput',]:.0%}"]
        said += [f"checkpoint in {ahead}"] if entry.step + 1 + ahead < self._recipe.steps else []
        return ", ".join(said + ["left out"] * entry.skipped)

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
