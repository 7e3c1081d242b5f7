"""The process group of a launch: nothing on one process, gloo or NCCL under torchrun."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist

from wingspan.errors import LOST, WorkError
from wingspan.train import torch_compat
from wingspan.train.faults.before import check_timeouts
from wingspan.train.faults.sniff import sniff_all

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


class LostRank(WorkError):
    """This rank is well, and another one is gone: what supervises the ranks starts all of them again."""

    exit_code = LOST


@contextmanager
def processes(hang_timeout_s: float) -> Iterator[torch.device]:
    """Join the launch's process group, if it has several ranks; yields the device of this rank.

    A collective gives up after twice `hang_timeout_s`, so that the watch, which knows whom it waits for, speaks first.
    Raises LostRank when another rank ended, WrongDevice when one computes wrongly.
    """
    ranks, local_rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if ranks == 1:
        yield device
        return
    _die_with_the_launcher()
    check_timeouts(hang_timeout_s)
    torch_compat.record_collectives()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=2 * timedelta(seconds=hang_timeout_s)
    )
    try:
        bf16 = device.type == "cuda" or torch_compat.cpu_multiplies_bf16()
        sniff_all(device, torch.bfloat16 if bf16 else torch.float32, _say)
        yield device
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "/gloo/" in str(error):
            raise LostRank(
                "another rank is gone", remedy="The same command goes on from the last checkpoint"
            ) from error
        raise
    finally:
        dist.destroy_process_group()


def _say(line: str) -> None:
    print(f"wingspan sniff: {line}", file=sys.stderr, flush=True)


def ranks() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first_rank() -> bool:
    """Whether this process is the one that writes what all ranks share."""
    return not dist.is_initialized() or dist.get_rank() == 0


def _die_with_the_launcher() -> None:
    """Ranks whose launcher was killed would hold their devices for ever; only Linux can be asked to end them."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
