"""A small real training under attack: its ranks started, watched and ended, behind a network link if wanted."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from torch._C._distributed_c10d import TCPStore

from wingspan.errors import WorkError
from wingspan.project import Layout
from wingspan.rehearse.chaos_rank import NAMESPACE, Drill, train
from wingspan.train.data.ledger import Entry, entries

VICTIM = 1
_PATIENCE_S = 90.0


@dataclass(frozen=True)
class Link:
    """A network link into a namespace: the interfaces at its ends and their addresses."""

    namespace: str
    ours: str
    theirs: str
    here: str
    there: str


class Trial:
    """A training under attack; with a `link`, the victim is behind it."""

    def __init__(self, drill: Drill, layout: Layout, link: Link | None = None) -> None:
        self.drill, self.layout, self.link = drill, layout, link
        self.processes: list[BaseProcess] = []
        self._launch = 0
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([train.__module__])  # torch is loaded once, not by every rank
        drill.folder.mkdir(parents=True)

    def start(self, layout: Layout | None = None) -> None:
        """Start all ranks; the store by which they meet is the launcher's, as torchrun has it."""
        chosen = layout or self.layout
        self._launch += 1
        address = self.link.here if self.link else "127.0.0.1"
        self._store = TCPStore(address, 0, is_master=True, wait_for_workers=False)
        self.processes = []
        for rank in range(chosen.world_size):
            environment = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(chosen.world_size),
                "MASTER_ADDR": address,
                "MASTER_PORT": str(self._store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                "TORCHELASTIC_RESTART_COUNT": str(self._launch),
            }
            if self.link:
                environment["GLOO_SOCKET_IFNAME"] = self.link.theirs if rank == VICTIM else self.link.ours
            if self.link and rank == VICTIM:
                environment[NAMESPACE] = self.link.namespace
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
            over = all(not one.is_alive() for one in self.processes) and not true()
            if over or time.monotonic() > deadline:
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


def network_namespaces() -> bool:
    """Whether this process may make network namespaces and links."""
    try:
        with link():
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def link() -> Iterator[Link]:
    """A network namespace behind a link, both named and numbered by this process: others on the machine have theirs."""
    process = os.getpid()
    high, low = divmod(4 * (process % (1 << 14)), 256)  # of 16,384 networks of four addresses
    name = f"wingspan{process}"
    made = Link(name, f"ws{process}a", f"ws{process}b", f"10.231.{high}.{low + 1}", f"10.231.{high}.{low + 2}")
    with ExitStack() as stack:
        ip("netns", "add", name)
        stack.callback(ip, "netns", "del", name, check=False)
        ip("link", "add", made.ours, "type", "veth", "peer", "name", made.theirs, "netns", name)
        stack.callback(ip, "link", "del", made.ours, check=False)  # at once, while a namespace goes by and by
        for inside, end, address in (((), made.ours, made.here), (("-n", name), made.theirs, made.there)):
            ip(*inside, "addr", "add", f"{address}/30", "dev", end)
            for one in (end, "lo"):
                ip(*inside, "link", "set", one, "up")
        yield made


def ip(*words: str, check: bool = True) -> None:
    """The command of that name."""
    subprocess.run(["ip", *words], check=check, capture_output=True)
