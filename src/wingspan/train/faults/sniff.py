"""A sniff at every device before the work: does it compute rightly, and as fast as the others?

Three tests, each with a result that is known: a matrix product in the precision of training, a copy through memory,
and a sum over all ranks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from wingspan.errors import LOST, WorkError
from wingspan.launch.blame import Blame, blame, node_name

_SLOW = 0.7  # of the others' median
_REPEATS = 5
_SIDE = {"cuda": 4096, "cpu": 256}  # of the matrices
_BYTES = {"cuda": 1 << 28, "cpu": 1 << 23}


@dataclass(frozen=True)
class Sniff:
    """What a device showed: `wrong` names the test that it failed; FLOP/s, and bytes/s read and written."""

    node: str
    wrong: str | None
    flops: float
    bandwidth: float


class WrongDevice(WorkError):
    """A device computes wrongly; the ranks whose devices are well end as those that lost a rank."""

    def __init__(self, problem: str, exit_code: int) -> None:
        super().__init__(problem, remedy="Leave its node out until the device was repaired")
        self.exit_code = exit_code


def sniff(device: torch.device, compute: torch.dtype) -> Sniff:
    """Test this device alone; well under half a second.

    Entries are -1, 0 and 1 in a pattern of period 3 over 3 x 3 places, so products and their sums are small whole
    numbers: exact in every precision, and equal along the pattern.
    """
    side, bits = _SIDE[device.type], _BYTES[device.type]
    place = torch.arange(side, device=device)
    left = ((place[:, None] + 2 * place[None, :]) % 3 - 1).to(compute)
    product, multiply_s = _best(lambda: left @ left, device)
    small = left[:3].double().cpu() @ left[:, :3].double().cpu()
    expected = small.to(device)[place % 3][:, place % 3]
    right = torch.equal(product.double(), expected.to(compute).double())

    pattern = torch.arange(bits // 4, dtype=torch.int32, device=device)
    copied, copy_s = _best(pattern.clone, device)
    wrong = None if right else "a matrix product"
    if not torch.equal(copied, pattern):
        wrong = "a copy through memory"
    return Sniff(node_name(), wrong, 2 * side**3 / multiply_s, 2 * bits / copy_s)


def sniff_all(device: torch.device, compute: torch.dtype, say: Callable[[str], None]) -> None:
    """Test the devices of all ranks, and a sum over them; every rank calls this.

    Says which are slow; raises WrongDevice, on all ranks, when one computes wrongly.
    """
    mine = sniff(device, compute)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    places = torch.arange(4096, dtype=torch.int64, device=device)
    total = places + rank
    dist.all_reduce(total)
    if not torch.equal(total, ranks * places + ranks * (ranks - 1) // 2):
        mine = Sniff(mine.node, "a sum over all ranks", mine.flops, mine.bandwidth)
    found: list[Sniff] = [mine] * ranks
    dist.all_gather_object(found, mine)
    for one in slow(found):
        if rank == 0:
            say(one)
    wrong = [(number, one) for number, one in enumerate(found) if one.wrong]
    if mine.wrong:
        blame(Blame(rank, mine.node, f"fails {mine.wrong}", 3))
    if wrong:
        named = "; ".join(f"the device of rank {number} on {one.node} fails {one.wrong}" for number, one in wrong[:8])
        raise WrongDevice(named, 1 if mine.wrong else LOST)


def check_node(devices: int) -> list[Sniff]:
    """Test this node's devices one after another; `devices`: how many accelerators must be there, 0 where it has none.

    Raises WrongDevice, and blames the node, when one is missing or computes wrongly.
    """
    there = torch.cuda.device_count()
    found = [sniff(torch.device("cuda", number), torch.bfloat16) for number in range(there)]
    found = found or [sniff(torch.device("cpu"), torch.float32)]
    wrong = [f"device {number} fails {one.wrong}" for number, one in enumerate(found) if one.wrong]
    if there < devices:
        wrong.append(f"shows {there} devices of {devices}")
    if wrong:
        blame(Blame(None, node_name(), ", ".join(wrong), 3))
        raise WrongDevice(f"{node_name()} {', '.join(wrong)}", 1)
    return found


def slow(found: Sequence[Sniff]) -> list[str]:
    """A line for each device that is slower than most."""
    lines = []
    for name, unit, values in (
        ("multiplies", "GFLOP/s", [one.flops for one in found]),
        ("copies", "GB/s", [one.bandwidth for one in found]),
    ):
        usual = statistics.median(values)
        lines += [
            f"the device of rank {rank} on {found[rank].node} {name} at {value / 1e9:.3g} {unit}, "
            f"the others at {usual / 1e9:.3g}"
            for rank, value in enumerate(values)
            if value < _SLOW * usual
        ]
    return lines


def _best(work: Callable[[], torch.Tensor], device: torch.device) -> tuple[torch.Tensor, float]:
    """The last result, and the seconds of the fastest of a few repetitions after a first one."""
    result, fastest = work(), float("inf")
    for _ in range(_REPEATS):
        _finish(device)
        began = time.perf_counter()
        result = work()
        _finish(device)
        fastest = min(fastest, time.perf_counter() - began)
    return result, fastest


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
