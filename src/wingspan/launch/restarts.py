"""Starting a run again by itself: after a lost or hung rank, from the last checkpoint, as long as it gets on."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from wingspan.errors import LEFT, InputError, WorkError
from wingspan.launch.blame import BLAMES, Blame, take_blames
from wingspan.workspace import LAUNCH, SUPERVISED, Run

_TRIES = 4  # starts in a row without a new checkpoint, after which starting again does not help
_BLAMES_TO_EXCLUDE = 2
_NAMED = 4
_FINAL = (0, InputError.exit_code, LEFT)  # done; starting again would not help; asked to leave


@dataclass(frozen=True)
class Stop:
    """How a start ended: the newest checkpoint it left (its step), and whose fault it was."""

    checkpoint: int
    blames: list[Blame]


class Restarts:
    """The stops of one stage of a run, kept in the run folder so that a job that was queued again knows them."""

    def __init__(self, run: Run, stage: str, *, goes_on: bool = False) -> None:
        self._folder, self._stage = run.folder, stage
        self._history = run.folder / f".{stage}.stops.jsonl"
        self.blames = run.folder.absolute() / f".{stage}.blames"
        if not goes_on:
            self._history.unlink(missing_ok=True)
        self.blames.unlink(missing_ok=True)
        os.environ |= {BLAMES: str(self.blames), SUPERVISED: "1"}

    def supervise(self, start: Callable[[], int], asked: list[int]) -> int:
        """Call `start` until it ends for good; returns its exit code. `asked`: fills when the run is to leave.

        Raises WorkError when starts in a row made no new checkpoint.
        """
        while True:
            os.environ[LAUNCH] = f"{time.time_ns()}"
            code = start()
            if code in _FINAL or asked:
                return code
            self.note(take_blames(self.blames))
            if in_vain := self._in_vain():
                time.sleep(4.0 ** (in_vain - 1))

    def note(self, blames: list[Blame]) -> None:
        """Write a stop down, and say it; raises WorkError when the run does not get on."""
        stop = Stop(self._newest_checkpoint(), blames)
        with self._history.open("a") as stream:
            stream.write(json.dumps(asdict(stop)) + "\n")
        why = "; ".join(map(str, blames[:_NAMED])) or "no rank is to blame"
        if self._in_vain() >= _TRIES:
            raise WorkError(
                f"{self._stage} stopped {_TRIES} times without a new checkpoint; the last time: {why}",
                where=self._folder,
                remedy="Look for the first error above and mend it; the same command goes on from the last checkpoint",
            )
        print(f"wingspan launch: {why}; on from step {stop.checkpoint}", file=sys.stderr, flush=True)

    def excluded(self) -> list[str]:
        """Nodes that were blamed twice, or once for a wrong device."""
        blames = [one for stop in self._stops() for one in stop.blames]
        counted = Counter(one.node for one in blames)
        wrong = {one.node for one in blames if one.weight > 2}
        return [node for node, times in counted.items() if times >= _BLAMES_TO_EXCLUDE or node in wrong]

    def _in_vain(self) -> int:
        """How many of the last stops left no newer checkpoint than the one before."""
        steps = [stop.checkpoint for stop in self._stops()]
        return next((back - 1 for back, step in enumerate(reversed(steps)) if step != steps[-1]), len(steps))

    def _stops(self) -> list[Stop]:
        if not self._history.is_file():
            return []
        read = [json.loads(line) for line in self._history.read_text().splitlines()]
        return [Stop(one["checkpoint"], [Blame(**each) for each in one["blames"]]) for one in read]

    def _newest_checkpoint(self) -> int:
        checkpoints: Path = self._folder / f".{self._stage}.partial" / "checkpoints"
        return max((int(path.name[5:]) for path in checkpoints.glob("step-" + 8 * "[0-9]")), default=0)
