"""`wingspan rehearse chaos`: a small real training is broken in every way that a large one breaks, and must not mind.

Ranks are processes of the trainer's own loop, under gloo. One training lives through all faults, one after another, and
each of its losses must be that of an undisturbed one.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wingspan.errors import InputError, WorkError, did_you_mean
from wingspan.model.shape import ModelShape
from wingspan.progress import Progress
from wingspan.project import Layout, Project
from wingspan.rehearse.chaos_rank import FLIP, ROWS, Drill
from wingspan.rehearse.chaos_trial import VICTIM, Link, Trial, ip, link, network_namespaces

_HANG_S, _PACE_S = 4.0, 0.02
_BEFORE = 18  # steps before the first fault: what is odd is known by the sixteen before it
_BETWEEN, _PER_FAULT, _WHILE_SLOW = 8, 14, 40
_SAME = 1e-3  # of a loss: what rounding on another number of ranks grows to in a hundred steps
_GUILTY = (
    r"rank (\d+) does not answer",
    r"rank (\d+) computed wrongly",
    r"rank (\d+) could not write",
    r"\(__(\d+)_\d+\.distcp has changed\)",
    r"rank (\d+) is slow",  # last: other work on this machine slows ranks too
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


Fault = Callable[[Trial], None]  # strikes, and returns when it has been noticed


def _kill(trial: Trial) -> None:
    trial.signal(signal.SIGKILL, [VICTIM])
    trial.ended()


def _stop(trial: Trial) -> None:
    trial.signal(signal.SIGSTOP, [VICTIM])
    trial.ended()


def _slow(trial: Trial) -> None:
    done, words = threading.Event(), f"rank {VICTIM} is slow"
    before = trial.said().count(words)  # other work on this machine may have slowed it

    def hamper() -> None:
        while not done.wait(_PACE_S):
            trial.signal(signal.SIGSTOP, [VICTIM])
            time.sleep(4 * _PACE_S)
            trial.signal(signal.SIGCONT, [VICTIM])

    thread = threading.Thread(target=hamper)
    thread.start()
    try:
        trial.wait(lambda: trial.said().count(words) > before, "to name the slow rank")
    finally:
        done.set()
        thread.join()


def _corrupt(trial: Trial) -> None:
    trial.signal(signal.SIGKILL)
    trial.ended()
    shard = sorted(trial.checkpoints()[-1].glob(f"__{VICTIM}_*"))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    trial.start()
    trial.wait(lambda: "is damaged" in trial.said(), "to notice the damage")


def _disk(trial: Trial) -> None:
    process = trial.processes[VICTIM].pid
    assert process is not None
    _, most = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (4096, most))  # the kernel refuses to write, as a full disk does
    trial.ended()


def _flip(trial: Trial) -> None:
    (trial.drill.folder / f"{FLIP}-{VICTIM}").touch()
    trial.wait(lambda: "computed wrongly" in trial.said(), "to notice the wrong gradient")


def _term(trial: Trial) -> None:
    trial.signal(signal.SIGTERM)
    trial.ended()


def _network(trial: Trial) -> None:
    assert trial.link is not None
    ip("link", "set", trial.link.ours, "down")
    trial.wait(lambda: not trial.processes[0].is_alive(), "to miss the rank beyond the link")
    trial.end()
    ip("link", "set", trial.link.ours, "up")


def _ranks(trial: Trial) -> None:
    _term(trial)
    trial.start(Layout(micro_batch=ROWS, precision="fp32"))
    before = trial.reached()
    trial.wait(lambda: trial.reached() > before + 2, "to go on alone")
    _term(trial)


FAULTS: dict[str, tuple[str, Fault]] = {
    "kill": ("SIGKILL of a rank", _kill),
    "stop": ("SIGSTOP of a rank", _stop),
    "slow": ("a rank slowed to a fifth", _slow),
    "flip": ("a bit of a gradient flipped", _flip),
    "corrupt": ("a byte of a checkpoint changed", _corrupt),
    "disk": ("the disk of a rank takes no more", _disk),
    "network": ("the link to a rank down", _network),
    "term": ("SIGTERM to all ranks", _term),
    "ranks": ("one rank instead of all, and back", _ranks),
}


def rehearse_chaos(project: Project, shape: ModelShape, faults: Sequence[str], progress: Progress) -> dict[str, Any]:
    """Live through faults (names of FAULTS; none: all). Raises InputError for a name that is none."""
    for name in faults:
        if name not in FAULTS:
            raise InputError(f"there is no fault '{name}'", remedy=did_you_mean(name, FAULTS, "Faults"))
    chosen = [name for name in faults or FAULTS if name != "network" or network_namespaces()]
    left_out = [name for name in faults or FAULTS if name not in chosen]
    layout, tiny = small(project.layout or Layout(), shape)
    steps = _BEFORE + (len(chosen) + 1) * _PER_FAULT + _WHILE_SLOW * ("slow" in chosen)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="wingspan-chaos-"))
        beyond = stack.enter_context(link()) if "network" in chosen else None
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
                beyond,
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
        "left_out": left_out,
        "faults": [one | {"title": FAULTS[one["fault"]][0]} for one in judged],
        "loss": {"undisturbed": whole[steps - 1], "broken": losses[steps - 1]},
        "same": len(losses) == steps and max(abs(losses[step] - whole[step]) for step in whole) < _SAME,
        "wall_s": round(time.monotonic() - started, 1),
    }


def _run(
    drill: Drill,
    layout: Layout,
    faults: dict[str, Fault],
    survived: Callable[[int, Survived], None],
    link: Link | None = None,
) -> Trial:
    """A whole training, through faults."""
    trial = Trial(drill, layout, link)
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
    earlier, struck = set(trial.said().splitlines()), time.monotonic()
    fault(trial)
    detected = time.monotonic()
    said = "\n".join(line for line in trial.said().splitlines() if line not in earlier)
    dead = [one.exitcode for one in trial.processes]
    reached = max(before, trial.reached())
    if None not in dead:
        trial.start()
    trial.wait(lambda: trial.reached() > reached, "to recover")
    recovered = time.monotonic()
    steps = [one.step for one in trial.ledger()]
    repeated = len(steps) - len(set(steps)) - (done - len(set(steps[:done])))
    guilty, line = _verdict(said.replace(f"{trial.drill.folder}/", ""), dead)
    return before, Survived(name, round(detected - struck, 2), round(recovered - detected, 2), repeated, guilty, line)


def _verdict(said: str, codes: Sequence[int | None]) -> tuple[int | None, str]:
    """The rank that is named, and the words; a rank that was killed is named by its exit code."""
    for pattern in _GUILTY:
        if found := [*re.finditer(f".*{pattern}.*", said)]:
            return int(found[-1].group(1)), found[-1].group(0)
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
    return Layout(dp_shard=2, micro_batch=ROWS, precision="fp32", **axes), tiny


def render(lived: dict[str, Any]) -> RenderableType:
    """The JSON of `wingspan rehearse chaos` as a screen for rich."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("fault", "noticed", "back", "lost", "guilty", "differs"):
        table.add_column(title, justify="left" if title == "fault" else "right", no_wrap=True)
    for one in lived["faults"]:
        guilty = "" if one["guilty"] is None else f"rank {one['guilty']}"
        times = (f"{one[name]:.1f} s" for name in ("detected_s", "recovered_s"))
        table.add_row(one["title"], *times, f"{one['lost_steps']}", guilty, f"{one['difference']:.1g}")
    loss, ranks = lived["loss"], lived["ranks"]
    ending = f"ended with loss {loss['broken']:.6f}, undisturbed {loss['undisturbed']:.6f}"
    verdict = ("\u2713 the same", "green") if lived["same"] else ("\u2717 not the same", "red")
    text = Text.assemble(f"{lived['steps']} steps on {ranks} ranks {ending}: ", verdict)
    note = "\nnot tried: network, which needs network namespaces (unshare -Urnm, or root)" if lived["left_out"] else ""
    return Group(table, Text(), text + Text(note, "dim"))
