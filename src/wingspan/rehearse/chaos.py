"""`wingspan rehearse chaos`: a small real training is broken in every way that a large one breaks, and must not mind.

Ranks are processes of the trainer's own loop, under gloo. One training lives through all faults, one after another, and
each of its losses must be that of an undisturbed one.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from torch._C._distributed_c10d import TCPStore

from wingspan.errors import InputError, WorkError, did_you_mean
from wingspan.model.shape import ModelShape
from wingspan.progress import Progress
from wingspan.project import Layout, Project
from wingspan.rehearse.chaos_rank import CHECKPOINT_EVERY, FLIP, Drill, train
from wingspan.train.data.ledger import Entry, entries

_HANG_S, _PACE_S, _PATIENCE_S = 3.0, 0.02, 90.0
_BEFORE = 18  # steps before the first fault: what is odd is known by the sixteen before it
_BETWEEN = 8
_SAME = 1e-4  # of a loss: float32 on other numbers of ranks
_VICTIM = 1
_GUILTY = (
    r"rank (\d+) does not answer",
    r"rank (\d+) is slow",
    r"rank (\d+) computed wrongly",
    r"rank (\d+) could not write",
    r"\(__(\d+)_\d+\.distcp has changed\)",
)


@dataclass(frozen=True)
class Survived:
    """What a fault did. `guilty` is the rank that was named, None where no rank is to blame or none was named."""

    fault: str
    detected_s: float
    recovered_s: float  # from its detection until the step it struck in was done again
    lost_steps: int  # done again
    guilty: int | None
    said: str  # by what it was noticed
    difference: float = 0.0  # of the losses from those of the undisturbed run, at most, until the next fault


class Trial:
    """A training under attack."""

    def __init__(self, drill: Drill, layout: Layout) -> None:
        self.drill, self.layout = drill, layout
        self.processes: list[BaseProcess] = []
        self._launch = 0
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([train.__module__])  # torch is loaded once, not by every rank
        drill.folder.mkdir(parents=True)

    def start(self, layout: Layout | None = None) -> None:
        """Start all ranks; the store by which they meet is the launcher's, as torchrun has it."""
        chosen = layout or self.layout
        self._launch += 1
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.processes = []
        for rank in range(chosen.world_size):
            environment = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(chosen.world_size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(self._store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                "TORCHELASTIC_RESTART_COUNT": str(self._launch),
            }
            arguments = (self.drill, chosen, environment, self._log(rank))
            process = self._context.Process(target=train, args=arguments, daemon=True)
            process.start()
            self.processes.append(process)

    def said(self) -> str:
        """All that the ranks of this launch said."""
        files = [self._log(rank) for rank in range(len(self.processes))]
        return "".join(file.read_text() for file in files if file.is_file())

    def ledger(self) -> list[Entry]:
        """The steps done, repeated ones each time."""
        with suppress(FileNotFoundError):
            return list(entries(self.drill.folder / "ledger"))
        return []

    def reached(self) -> int:
        """The last step done; -1 before the first."""
        return self.ledger()[-1].step if self.ledger() else -1

    def checkpoints(self) -> list[Path]:
        """Oldest first."""
        return sorted((self.drill.folder / "checkpoints").glob("step-*"))

    def ended(self) -> list[int]:
        """Wait until all ranks have ended; their exit codes."""
        self.wait(lambda: all(not one.is_alive() for one in self.processes), "to end")
        return [one.exitcode or 0 for one in self.processes]

    def wait(self, true: Callable[[], object], what: str) -> None:
        """Wait; raises WorkError with the end of what was said when it does not come."""
        deadline = time.monotonic() + _PATIENCE_S
        while not true():
            if time.monotonic() > deadline:
                self.end()
                said = self.said()[-2000:]
                raise WorkError(f"the training was waited for {what} in vain", remedy=f"Its last words: {said}")
            time.sleep(0.005)

    def signal(self, number: signal.Signals, ranks: Collection[int] = ()) -> None:
        """Send a signal to ranks, to all by default."""
        for rank, process in enumerate(self.processes):
            if process.pid is not None and process.is_alive() and (not ranks or rank in ranks):
                with suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    def end(self) -> None:
        """Kill what still runs."""
        self.signal(signal.SIGKILL)
        for process in self.processes:
            process.join()

    def _log(self, rank: int) -> Path:
        return self.drill.folder / f"rank-{rank}.{self._launch}.log"


Fault = Callable[[Trial], None]  # strikes, and returns when it has been noticed


def _kill(trial: Trial) -> None:
    trial.signal(signal.SIGKILL, [_VICTIM])
    trial.ended()


def _stop(trial: Trial) -> None:
    trial.signal(signal.SIGSTOP, [_VICTIM])
    trial.ended()


def _slow(trial: Trial) -> None:
    done = threading.Event()

    def hamper() -> None:
        while not done.wait(_PACE_S):
            trial.signal(signal.SIGSTOP, [_VICTIM])
            time.sleep(4 * _PACE_S)
            trial.signal(signal.SIGCONT, [_VICTIM])

    thread = threading.Thread(target=hamper)
    thread.start()
    try:
        trial.wait(lambda: "is slow" in trial.said(), "to name the slow rank")
    finally:
        done.set()
        thread.join()


def _corrupt(trial: Trial) -> None:
    trial.signal(signal.SIGKILL)
    trial.ended()
    shard = sorted(trial.checkpoints()[-1].glob(f"__{_VICTIM}_*"))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    trial.start()
    trial.wait(lambda: "is damaged" in trial.said(), "to notice the damage")


def _disk(trial: Trial) -> None:
    process = trial.processes[_VICTIM].pid
    assert process is not None
    _, most = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (4096, most))  # the kernel refuses to write, as a full disk does
    trial.ended()


def _flip(trial: Trial) -> None:
    (trial.drill.folder / f"{FLIP}-{_VICTIM}").touch()
    trial.wait(lambda: "computed wrongly" in trial.said(), "to notice the wrong gradient")


def _term(trial: Trial) -> None:
    trial.signal(signal.SIGTERM)
    trial.ended()


def _ranks(trial: Trial) -> None:
    _term(trial)
    trial.start(Layout(precision="fp32"))
    before = trial.reached()
    trial.wait(lambda: trial.reached() > before + 2, "to go on alone")
    _term(trial)


FAULTS: dict[str, tuple[str, Fault]] = {
    "kill": ("SIGKILL of a rank", _kill),
    "stop": ("SIGSTOP of a rank", _stop),
    "slow": ("a rank stopped four fifths of the time", _slow),
    "flip": ("a bit of a gradient flipped", _flip),
    "corrupt": ("a byte of a checkpoint flipped, all ranks killed", _corrupt),
    "disk": ("the disk of a rank takes no more", _disk),
    "term": ("SIGTERM to all ranks", _term),
    "ranks": ("one rank instead of all, and back", _ranks),
}


def rehearse_chaos(project: Project, shape: ModelShape, faults: Sequence[str], progress: Progress) -> dict[str, object]:
    """Live through faults (names of FAULTS; none: all). Raises InputError for a name that is none."""
    for name in faults:
        if name not in FAULTS:
            raise InputError(f"there is no fault '{name}'", remedy=did_you_mean(name, FAULTS, "Faults"))
    chosen = list(faults or FAULTS)
    layout, tiny = small(project.layout or Layout(), shape)
    steps = _BEFORE + (len(chosen) + 1) * (_BETWEEN + 2 * CHECKPOINT_EVERY) + 40 * ("slow" in chosen)
    with tempfile.TemporaryDirectory(prefix="wingspan-chaos-") as folder:
        drill = Drill(Path(folder) / "broken", tiny, project.train.optimizer, steps, project.project.seed, _HANG_S)
        with progress.task("chaos", len(chosen) + 1, "faults") as task:
            whole = _losses(_run(replace(drill, folder=Path(folder) / "whole"), layout, {}, lambda *_: None))
            task.advance(1, "the undisturbed run")
            started = time.monotonic()
            survived: list[tuple[int, Survived]] = []

            def note(first: int, one: Survived) -> None:
                survived.append((first, one))
                task.advance(1, one.fault)

            trial = _run(
                replace(drill, pace_s=_PACE_S),
                layout,
                {name: FAULTS[name][1] for name in chosen},
                note,
            )
        losses = _losses(trial)
        ends = [step for step, _ in survived[1:]] + [steps]
        judged = [
            asdict(replace(one, difference=max(abs(losses[step] - whole[step]) for step in range(first, end))))
            for (first, one), end in zip(survived, ends, strict=True)
        ]
    return {
        "ranks": layout.world_size,
        "layout": layout.model_dump(),
        "steps": steps,
        "faults": judged,
        "loss": {"undisturbed": whole[steps - 1], "broken": losses[steps - 1]},
        "same": len(losses) == steps and max(abs(losses[step] - whole[step]) for step in whole) < _SAME,
        "wall_s": round(time.monotonic() - started, 1),
    }


def _run(drill: Drill, layout: Layout, faults: dict[str, Fault], survived: Callable[[int, Survived], None]) -> Trial:
    """A whole training, through faults."""
    trial = Trial(drill, layout)
    try:
        trial.start()
        for number, (name, fault) in enumerate(faults.items()):
            goal = _BEFORE if not number else trial.reached() + _BETWEEN
            trial.wait(lambda goal=goal: trial.reached() >= goal, f"to reach step {goal}")  # type: ignore[misc]
            survived(*_strike(trial, name, fault))
        codes = trial.ended()
        if any(codes):
            raise WorkError(f"the training ended with {codes}", remedy=f"Its last words: {trial.said()[-2000:]}")
    finally:
        trial.end()
    return trial


def _strike(trial: Trial, name: str, fault: Fault) -> tuple[int, Survived]:
    done, before = len(trial.ledger()), trial.reached()
    struck = time.monotonic()
    fault(trial)
    detected = time.monotonic()
    said, dead = trial.said(), [one.exitcode for one in trial.processes]
    before = max(before, trial.reached())
    if None not in dead:
        trial.start()
    trial.wait(lambda: trial.reached() > before, "to recover")
    recovered = time.monotonic()
    steps = [one.step for one in trial.ledger()]
    repeated = len(steps) - len(set(steps)) - (done - len(set(steps[:done])))
    guilty, line = _verdict(said, dead)
    return before, Survived(name, round(detected - struck, 2), round(recovered - detected, 2), repeated, guilty, line)


def _verdict(said: str, codes: Sequence[int | None]) -> tuple[int | None, str]:
    """The rank that is named, and the words; a rank that was killed is named by its exit code."""
    for pattern in _GUILTY:
        if found := re.search(f".*{pattern}.*", said):
            return int(found.group(1)), found.group(0)
    killed = [rank for rank, code in enumerate(codes) if code == -signal.SIGKILL]
    if len(killed) == 1:
        return killed[0], f"rank {killed[0]} was killed"
    return None, next((line for line in said.splitlines() if "asked to end" in line), "")


def _losses(trial: Trial) -> dict[int, float]:
    lines = map(json.loads, (trial.drill.folder / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines}


def small(layout: Layout, shape: ModelShape) -> tuple[Layout, ModelShape]:
    """The project's layout on two to eight ranks, and its model as small as that allows."""
    axes = {name: min(2, getattr(layout, name)) for name in ("tp", "pp")}
    if shape.experts:
        axes["tp"] = 1
    tiny = replace(
        shape,
        layers=2,
        hidden=32,
        heads=4,
        kv_heads=2 if shape.kv_heads < shape.heads else 4,
        head_dim=8,
        ffn=64,
        vocab=101,
        tie_embeddings=shape.tie_embeddings and axes["pp"] == 1,
        experts=min(4, shape.experts),
        experts_per_token=min(2, shape.experts_per_token),
        expert_ffn=32 if shape.experts else 0,
    )
    return Layout(dp_shard=2, precision="fp32", **axes), tiny
