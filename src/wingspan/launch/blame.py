"""Whose fault a stop was: what ranks, watches and checks write down for whoever starts the run again."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

BLAMES = "WINGSPAN_BLAMES"  # names the file to which blames are appended
NODE = "SLURMD_NODENAME"  # what the scheduler calls this node


@dataclass(frozen=True)
class Blame:
    """A rank (None: the node itself) on a node, what it did, and how sure that is: the surest blame counts.

    `weight`: 1 it was the first to end, 2 it was killed or it hung, 3 its device is wrong.
    """

    rank: int | None
    node: str
    why: str
    weight: int

    def __str__(self) -> str:
        return f"{'the node' if self.rank is None else f'rank {self.rank}'} on {self.node} {self.why}"


def node_name() -> str:
    """This node, as the scheduler calls it."""
    return os.environ.get(NODE) or platform.node()


def blame(one: Blame) -> None:
    """Write a blame down for who asked for it, in one short append that no other writer breaks up; else say it."""
    path = os.environ.get(BLAMES)
    if path is None:
        print(f"wingspan launch: {one}", file=sys.stderr, flush=True)
        return
    with Path(path).open("a") as stream:
        stream.write(json.dumps(asdict(one)) + "\n")


def take_blames(path: Path) -> list[Blame]:
    """The surest of the blames written down, the first of each rank; they are thereby taken."""
    if not path.is_file():
        return []
    blames = [Blame(**json.loads(line)) for line in path.read_text().splitlines()]
    path.unlink()
    surest = [one for one in blames if one.weight == max(each.weight for each in blames)]
    return list({(one.node, one.rank): one for one in reversed(surest)}.values())[::-1]
