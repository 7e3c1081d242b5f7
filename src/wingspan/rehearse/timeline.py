"""When each device of a fleet would do what: the recorded step replayed through the planner's cost model.

A device computes on one stream and communicates on others, one for each process group. Parameters are gathered and
gradients reduced beside the computation, which waits where it reads what was gathered; other exchanges stop it for
the share of their time that the planner takes to be exposed. Ranks of a pipeline wait for each other's messages.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from wingspan.plan.devices.chips import Chip
from wingspan.plan.step.calibration import Calibration, groups_of, shipped
from wingspan.plan.step.grid import WINGSPAN, Grid
from wingspan.plan.step.kernels import all_to_all_time, gather_time, group_of, matmul_time, rates_of, send_time
from wingspan.plan.step.sizes import hardware_of
from wingspan.project import Layout
from wingspan.rehearse.rank import RankRehearsal
from wingspan.rehearse.trackers import SENDS, Collective, Work, passes_of

_BESIDE = ("_allgather_base_", "_reduce_scatter_base_", "allreduce_")  # FSDP's, on streams of their own
_PASSES = {"F": "forward", "B": "backward"}
_ACTION = re.compile(r"(\d+)([FBIW])(\d+)")
_TREE = 2**16  # bytes up to which a collective goes through a tree rather than round a ring
_WIDE_HEAD = 128  # from which attention runs at full rate
_COMPUTE = "compute"


class Prices:
    """Seconds of every piece of work on one chip in one layout, by the formulas and constants of plan."""

    def __init__(
        self, chip: Chip, devices_per_node: int, layout: Layout, head_dim: int, calibration: Calibration | None = None
    ) -> None:
        self.constants = (calibration or shipped()).constants(groups_of(chip, WINGSPAN))
        self._hardware = hardware_of(chip, devices_per_node)
        self._rates = rates_of(self._hardware, Grid.of(layout), self.constants)
        self._narrow = 1.0 if head_dim >= _WIDE_HEAD else float(self.constants.small_head)
        self._known: dict[Any, float] = {}

    def compute(self, work: Work) -> float:
        """Seconds of a product, of attention, of elementwise work."""
        key = work.what, work.size
        if key not in self._known:
            self._known[key] = float(np.squeeze(self._compute(work)))
        return self._known[key]

    def _compute(self, work: Work) -> Any:
        c, rates = self.constants, self._rates
        if work.what == "multiply":
            m, k, n, groups = work.size
            return matmul_time(rates, c, np.float64(m), n, k, groups)
        if work.what == "move":
            bytes_, operations = work.size
            return bytes_ / rates.memory + c.gap * operations
        slower = c.backward if work.what == "attention backward" else 1.0
        return work.size[0] / (rates.attention * c.attention) * self._narrow * slower + c.gap

    def exchange(self, call: Collective) -> float:
        """Seconds of a collective or a message."""
        key = call.op, call.bytes, call.ranks, call.stride
        if key not in self._known:
            group = group_of(self._hardware, self.constants, np.asarray(float(call.ranks)), float(call.stride))
            if call.op in SENDS:
                seconds = send_time(group, call.bytes)
            elif "alltoall" in call.op or "all_to_all" in call.op:
                seconds = all_to_all_time(group, call.bytes)
            else:
                hops = self.constants.network_hop * np.log2(call.ranks)
                ring, tree = gather_time(group, call.bytes), call.bytes / group.bandwidth + hops + group.start
                seconds = passes_of(call.op) * (ring if call.bytes > _TREE else np.minimum(ring, tree))
            self._known[key] = float(np.squeeze(seconds))
        return self._known[key]

    def exposed(self, axes: str) -> float:
        """The share of an exchange along these axes of the mesh that computation does not hide."""
        c = self.constants
        shares = {"tp": c.exposed_tp, "cp": c.exposed_cp, "ep": c.exposed_ep, "pp": c.exposed_pp}
        return float(np.squeeze(shares.get(axes, 1.0)))


@dataclass(frozen=True)
class Span:
    """Something that a stream of a device does, from `start` seconds after its phase began."""

    stream: str
    name: str
    start: float
    seconds: float


@dataclass
class Phase:
    """A forward or backward pass of one micro-batch on one device, or what comes before or after them."""

    name: str
    compute_s: float = 0.0
    exposed_s: float = 0.0
    spans: list[Span] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long it takes if nobody has to be waited for."""
        return self.compute_s + self.exposed_s


class _Streams:
    """The streams of one device as its work is replayed, in seconds since the step began."""

    def __init__(self, prices: Prices) -> None:
        self.prices, self.now, self.began = prices, 0.0, 0.0
        self.free: dict[str, float] = defaultdict(float)
        self.gathered: dict[int, tuple[float, float]] = {}  # call -> when it ends, how long it takes
        self.gate = 0.0  # when a gather may begin: as what was gathered before is read
        self.hidden = float(np.squeeze(prices.constants.exposed_dp))  # of an exchange, that slows what hides it

    def compute(self, phase: Phase, work: Work) -> None:
        seconds = self.prices.compute(work)
        phase.spans.append(Span(_COMPUTE, work.what, self.now - self.began, seconds))
        phase.compute_s += seconds
        self.now += seconds

    def call(self, phase: Phase, number: int, call: Collective) -> None:
        seconds = self.prices.exchange(call)
        beside = call.op in _BESIDE and not {"tp", "pp"} & set(call.group.split("+"))
        start = max(self.free[call.group], self.gate if call.op == _BESIDE[0] else self.now, self.began)
        name = f"{call.op.strip('_').replace('_', ' ')} over {call.group}"
        phase.spans.append(Span(call.group, name, start - self.began, seconds))
        if beside:
            self.free[call.group] = start + seconds
            self.gathered[number] = start + seconds, seconds
            if call.op != _BESIDE[0]:
                self._wait(phase, self.hidden * seconds)
        else:
            self._wait(phase, seconds * self.prices.exposed(call.group))

    def wait_for(self, phase: Phase, number: int) -> None:
        end, seconds = self.gathered.get(number, (self.now, 0.0))
        late = min(max(0.0, end - self.now), seconds)
        self._wait(phase, late + self.hidden * (seconds - late))
        self.gate = self.now

    def wait_for_all(self, phase: Phase) -> None:
        self._wait(phase, max(0.0, max(self.free.values(), default=0.0) - self.now))

    def _wait(self, phase: Phase, seconds: float) -> None:
        phase.exposed_s += seconds
        self.now += seconds


def replay(kind: RankRehearsal, prices: Prices) -> list[Phase]:
    """The phases of a rank's step as they would last on a device that nobody keeps waiting."""
    phases, streams, current = [Phase(name) for name in kind.phases], _Streams(prices), -1
    for work in kind.work:
        phase = phases[work.phase]
        if work.phase != current:
            current, streams.began = work.phase, streams.now
            if phase.name == "after":  # the update needs all gradients
                streams.wait_for_all(phase)
        if work.what == "wait":
            streams.wait_for(phase, work.size[0])
        elif work.what != "call":
            streams.compute(phase, work)
        elif (call := kind.calls[work.size[0]]).op not in SENDS:
            streams.call(phase, work.size[0], call)
    return phases


@dataclass(frozen=True)
class Action:
    """One entry of a device's schedule and when it begins: F forward, B backward, I and W its two halves."""

    what: str
    stage: int
    batch: int
    phase: Phase
    start: float = 0.0

    @property
    def end(self) -> float:
        """When it is done, in seconds since the step began."""
        return self.start + self.phase.seconds


def schedule(kinds: Sequence[RankRehearsal], prices: Prices) -> dict[int, list[Action]]:
    """What each pipeline rank does when: its own order, and each pass once the neighbour's message is there."""
    waiting = {rank: _actions(kind, rank, prices) for kind in kinds for rank in kind.pipeline_ranks}
    last = max(one.stage for actions in waiting.values() for one in actions)
    message_s = max((prices.exchange(one) for kind in kinds for one in kind.calls if one.op in SENDS), default=0.0)
    message_s *= prices.exposed("pp")
    done: dict[tuple[str, int, int], float] = {}
    placed: dict[int, list[Action]] = {rank: [] for rank in waiting}
    while moving := [
        rank for rank, actions in waiting.items() if actions and _awaited(actions[0], last, done) is not None
    ]:
        for rank in moving:
            action = waiting[rank].pop(0)
            ready = (_awaited(action, last, done) or 0.0) + message_s
            free = placed[rank][-1].end if placed[rank] else 0.0
            action = replace(action, start=max(free, ready if action.what in "FBI" else free))
            placed[rank].append(action)
            done["F" if action.what == "F" else "B", action.stage, action.batch] = action.end
    return placed


def _awaited(action: Action, last: int, done: Mapping[tuple[str, int, int], float]) -> float | None:
    """When the neighbour whose message a pass needs is done; 0 where it needs none, None where nobody knows yet."""
    if action.what == "F" and action.stage > 0:
        return done.get(("F", action.stage - 1, action.batch))
    if action.what in "BI" and action.stage < last:
        return done.get(("B", action.stage + 1, action.batch))
    return 0.0


def _actions(kind: RankRehearsal, rank: int, prices: Prices) -> list[Action]:
    """The passes of a pipeline rank in its order, each with what the kind's representative did in it.

    Where backward is split in two, which autograd does in many pieces, each half is half of an average pass.
    """
    phases = replay(kind, prices)
    passes = {what: [one for one in phases if one.name == name] for what, name in _PASSES.items()}
    parsed = [(m[2], int(m[1]), int(m[3])) for m in map(_ACTION.match, kind.order[rank]) if m]
    of, seen, actions = Counter(what for what, *_ in parsed), Counter[str](), []
    for what, stage, batch in parsed:
        own = passes["F" if what == "F" else "B"]
        whole = what in "FB" and len(own) == of[what]
        phase = own[seen[what]] if whole else _share(what, own, 1 / of[what] / (1 if what in "FB" else 2))
        seen[what] += 1
        actions.append(Action(what, stage, batch, phase))
    ends = (Action("update", 0, 0, one) for one in phases if one.name == "after")
    return [*(Action("count", 0, 0, one) for one in phases if one.name == "before"), *actions, *ends]


def _share(name: str, phases: Sequence[Phase], share: float) -> Phase:
    return Phase(name, share * sum(one.compute_s for one in phases), share * sum(one.exposed_s for one in phases))


def times(kinds: Sequence[RankRehearsal], prices: Prices) -> dict[str, dict[str, float]]:
    """Seconds of a step of each kind: computing, exposed communication, waiting for others, and in all.

    Micro-batches that were not run add what the last one that was run added.
    """
    few = _times([kind.samples[0] if kind.samples else kind for kind in kinds], prices)
    if not kinds[0].samples:
        return few
    more = _times([kind.samples[1] for kind in kinds], prices)
    one, two = kinds[0].samples
    others = (kinds[0].micro_batches - one.micro_batches) / (two.micro_batches - one.micro_batches)
    return {
        kind: {name: value + others * (more[kind][name] - value) for name, value in one.items()}
        for kind, one in few.items()
    }


def _times(kinds: Sequence[RankRehearsal], prices: Prices) -> dict[str, dict[str, float]]:
    placed, scale = schedule(kinds, prices), float(np.squeeze(prices.constants.scale))
    step_s = max(actions[-1].end for actions in placed.values())
    found = {}
    for kind in kinds:
        own = placed[kind.pipeline_ranks[0]]
        compute_s, exposed_s = sum(one.phase.compute_s for one in own), sum(one.phase.exposed_s for one in own)
        seconds = {"compute_s": compute_s, "exposed_s": exposed_s, "bubble_s": step_s - compute_s - exposed_s}
        found[kind.kind] = {name: scale * value for name, value in (seconds | {"step_s": step_s}).items()}
    return found


def trace(kinds: Sequence[RankRehearsal], prices: Prices) -> dict[str, Any]:
    """A Chrome trace (chrome://tracing, ui.perfetto.dev): a process per kind of rank, a thread per stream."""
    placed = schedule(kinds, prices)
    events: list[dict[str, Any]] = []
    for number, kind in enumerate(kinds):
        streams: dict[str, int] = {}
        name = f"{kind.kind}: rank {kind.rank}, one of {kind.ranks:,}"
        events.append({"ph": "M", "name": "process_name", "pid": number, "args": {"name": name}})
        for action in placed[kind.pipeline_ranks[0]]:
            label = f"{action.what}{action.batch}" if len(action.what) == 1 else action.what
            whole = Span("schedule", label, 0.0, action.phase.seconds)
            for span in (whole, *action.phase.spans):
                thread = streams.setdefault(span.stream, len(streams))
                when = {"ts": 1e6 * (action.start + span.start), "dur": 1e6 * span.seconds}
                events.append({"ph": "X", "name": span.name, "pid": number, "tid": thread, **when})
        for stream, thread in streams.items():
            named = {"ph": "M", "name": "thread_name", "pid": number, "tid": thread, "args": {"name": stream}}
            events.append(named)
    return {"traceEvents": events, "displayTimeUnit": "ms"}
