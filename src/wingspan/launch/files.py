"""The launch files of a project, and handing one to the scheduler that understands it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Literal

from wingspan.errors import InputError, WorkError
from wingspan.launch.cluster import ranks_of
from wingspan.launch.kubernetes import jobset_manifest
from wingspan.launch.local import local_script
from wingspan.launch.slurm import sbatch_script
from wingspan.project import Layout, Project
from wingspan.workspace import Run

Kind = Literal["local", "slurm", "kubernetes"]

FILES: dict[Kind, str] = {"local": "train.sh", "slurm": "train.sbatch", "kubernetes": "train.yaml"}
_SUBMIT: dict[Kind, list[str]] = {
    "local": ["bash"],
    "slurm": ["sbatch"],
    "kubernetes": ["kubectl", "apply", "--filename"],
}


def launch_text(kind: Kind, project: Project, layout: Layout) -> str:
    """The launch file of one kind."""
    ranks = ranks_of(project, layout)
    writers = {"local": local_script, "slurm": sbatch_script, "kubernetes": jobset_manifest}
    return writers[kind](ranks)


def write_launch_files(project: Project, layout: Layout, folder: Path) -> list[Path]:
    """Write the launch files of every kind into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, name in FILES.items():
        path = folder / name
        path.write_text(launch_text(kind, project, layout), encoding="utf-8")
        paths.append(path)
    return paths


def launch_file(run: Run, kind: Kind) -> Path:
    """The launch file that the run's plan wrote; raises InputError where nothing was planned yet."""
    path = run.stage("plan") / "launch" / FILES[kind]
    if not path.is_file():
        raise InputError("there is no plan yet", where=run.folder, remedy="Make one first: wingspan plan")
    return path


def submit(kind: Kind, path: Path) -> str:
    """Hand a launch file to its scheduler and return what that says; `local` trains until it ends.

    Raises InputError where the scheduler's command is missing, WorkError where it refuses.
    """
    command = _SUBMIT[kind]
    if shutil.which(command[0]) is None:
        raise InputError(
            f"the command '{command[0]}' is not installed here",
            where=path,
            remedy=f"Copy the file to a machine that has it and give: {' '.join(command)} {path.name}",
        )
    done = subprocess.run([*command, str(path)], capture_output=kind != "local", text=True)
    if done.returncode:
        raise WorkError(
            f"{command[0]} ended with code {done.returncode}: {(done.stderr or '').strip()}",
            where=path,
            remedy="Read its message and mend the file or the cluster",
        )
    return (done.stdout or "").strip()
