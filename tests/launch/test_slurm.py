"""A job in a real Slurm of one controller and three node daemons on this machine; one node is lost in the middle."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from train import prepared
from train.test_stage import losses, weights
from wingspan.launch.files import launch_text, submit
from wingspan.project import Layout, Project
from wingspan.project_file import load_project
from wingspan.workspace import open_run

MISSING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("launch"),
    pytest.mark.skipif(
        bool(MISSING), reason="needs Slurm; enable with: sudo apt-get install slurmctld slurmd slurm-client munge"
    ),
]
NODES = (1, 2, 3)

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}
SlurmUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=6
SlurmctldTimeout=30
MessageTimeout=5
KillWait=2
SchedulerParameters=sched_min_interval=500000
"""


@contextmanager
def process(command: list[str], log: Path) -> Iterator[None]:
    with log.open("w") as stream:
        running = subprocess.Popen(command, stdout=stream, stderr=stream)
        try:
            yield
        finally:
            running.terminate()
            running.wait(timeout=20)


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A controller of its own, of planned nodes that are not there; a short path, as sockets need."""
    nodes = "NodeName=gpu[1-2] NodeAddr=127.0.0.1 CPUs=16 RealMemory=1000 Gres=gpu:8 State=UNKNOWN"
    with cluster(nodes, monkeypatch) as folder:
        yield folder


@contextmanager
def cluster(nodes: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A controller, its authentication and its state."""
    with tempfile.TemporaryDirectory(prefix="slurm") as name:
        folder = Path(name)
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o600)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        munged = [
            "munged",
            "--foreground",
            "--force",
            *(f"--{option}={folder / file}" for option, file in files.items()),
        ]
        (folder / "state").mkdir()
        configuration = folder / "slurm.conf"
        settings = CONFIGURATION.format(
            host=socket.gethostname(), user=getpass.getuser(), folder=folder, port=free_port()
        )
        configuration.write_text(f"{settings}{nodes}\nPartitionName=all Nodes=ALL Default=YES State=UP\n")
        monkeypatch.setenv("SLURM_CONF", str(configuration))
        controller = ["slurmctld", "-D", "-f", str(configuration)]
        with process(munged, folder / "munged.log"), process(controller, folder / "slurmctld.log"):
            await_controller(folder)
            yield folder


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def await_controller(folder: Path) -> None:
    for _ in range(100):
        if subprocess.run(["sinfo"], capture_output=True).returncode == 0:
            return
        time.sleep(0.2)
    raise AssertionError((folder / "slurmctld.log").read_text())


def test_slurm_takes_the_job_as_planned(slurm: Path) -> None:
    project = Project.model_validate(
        {
            "project": {"name": "birds.v1"},
            "model": {"depth": 4},
            "fleet": {"device": "H100 SXM", "devices": 16, "devices_per_node": 8},
        }
    )
    script = slurm / "train.sbatch"
    script.write_text(launch_text("slurm", project, Layout(dp_shard=8, tp=2)))

    assert "Submitted batch job" in submit("slurm", script)
    job = subprocess.run(["scontrol", "show", "job"], capture_output=True, text=True).stdout
    for fact in (
        "JobName=wingspan-birds-v1",
        "Requeue=1",
        "NumNodes=2-2",
        "TresPerNode=gres:gpu:8",
        "OverSubscribe=NO",
    ):
        assert fact in job


@contextmanager
def nodes_of(folder: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """The daemons of three nodes; what they started ends with them."""
    with ExitStack() as stack:
        daemons = {}
        for number in NODES:
            log = stack.enter_context((folder / f"node{number}.log").open("w"))
            command = ["slurmd", "-D", "-N", f"node{number}"]
            daemons[f"node{number}"] = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(lambda: said("sinfo", "--noheader", "--format=%D", "--states=idle").strip() == "3")
            yield daemons
        finally:
            for name, daemon in daemons.items():
                lose(name, daemon)


def lose(name: str, daemon: subprocess.Popen[bytes]) -> None:
    """A node goes at once, with all that runs on it."""
    daemon.kill()
    daemon.wait()
    tasks = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if runs_on(pid, name)]
    parents = [parent_of(pid) for pid in tasks]
    for pid in [*tasks, *(pid for pid in parents if name_of(pid) == "slurmstepd")]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def runs_on(pid: int, node: str) -> bool:
    """Whether a process is a task of this test's node of that name."""
    with suppress(OSError):
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={os.environ['SLURM_CONF']}".encode()} <= {*environment}
    return False


def parent_of(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def name_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def wait_for(true: Callable[[], bool], seconds: float = 60, log: Path | None = None) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, said("scontrol", "show", "job") + (log.read_text() if log else "")
        time.sleep(0.05)


def test_a_job_outlives_its_time_limit_and_a_lost_node(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared.prepared_run(tmp_path, {"dp_shard": 2}, tokens=40 * 256)
    project = tmp_path / "wingspan.toml"
    project.write_text(project.read_text() + "\n[fleet]\ndevices = 2\ndevices_per_node = 1\n")
    open_run(tmp_path, runs=tmp_path / "runs")
    script = tmp_path / "train.sbatch"
    text = launch_text("slurm", load_project(tmp_path), Layout(dp_shard=2))
    script.write_text(text.replace("runs/tiny", str(run.folder)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    nodes = "".join(
        f"NodeName=node{number} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={free_port()} "
        "CPUs=2 RealMemory=1000 State=UNKNOWN\n"
        for number in NODES
    )

    def fact(name: str) -> str:
        return said("scontrol", "show", "job", job).partition(f" {name}=")[2].split()[0]

    def step() -> int:
        return max((int(path.name[5:]) for path in run.folder.glob(".train.partial/checkpoints/step-*")), default=0)

    with cluster(nodes, monkeypatch) as folder, nodes_of(folder) as daemons:
        job = submit("slurm", script).split()[-1]
        log = tmp_path / f"wingspan-tiny-{job}.log"
        wait_for(lambda: step() >= 3, log=log)
        subprocess.run(["scancel", "--signal=USR1", "--batch", job], check=True)  # as before the time limit
        wait_for(lambda: fact("Restarts") == "1", log=log)
        saved = step()
        wait_for(lambda: step() >= saved + 3, log=log)
        lost = said("scontrol", "show", "hostnames", fact("NodeList")).split()[-1]
        subprocess.run(["scontrol", "update", f"NodeName={lost}", "State=DRAIN", "Reason=test"], check=True)
        lose(lost, daemons[lost])
        wait_for(lambda: fact("JobState") == "COMPLETED", 100, log)
        assert fact("Restarts") == "2"
        assert lost not in said("scontrol", "show", "hostnames", fact("NodeList")).split()
    assert losses(tmp_path) == losses(undisturbed)
    assert weights(tmp_path) == weights(undisturbed)
