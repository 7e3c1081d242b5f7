"""The batch script before a real Slurm controller, whose nodes exist on paper."""

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wingspan.launch.files import launch_text, submit
from wingspan.project import Layout, Project

MISSING = [name for name in ("munged", "slurmctld", "sbatch") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason="needs Slurm; enable with: sudo apt-get install slurmctld slurm-client munge"
    ),
]

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}
SlurmUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/socket
CredType=cred/munge
SlurmctldPort={port}
StateSaveLocation={folder}
SlurmctldPidFile={folder}/slurmctld.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
GresTypes=gpu
NodeName=node[1-2] NodeAddr=127.0.0.1 CPUs=16 RealMemory=1000 Gres=gpu:8 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
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
    """A controller of its own, without compute nodes; a short path, as sockets need."""
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
        configuration = folder / "slurm.conf"
        configuration.write_text(
            CONFIGURATION.format(host=socket.gethostname(), user=getpass.getuser(), folder=folder, port=free_port())
        )
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
