"""The launch files: right for the shells and schedulers that read them."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from wingspan.errors import InputError, WorkError
from wingspan.launch import files
from wingspan.launch.files import FILES, launch_file, launch_text, submit, write_launch_files
from wingspan.project import Layout, Project
from wingspan.workspace import Run

LAYOUT = Layout(dp_shard=8, tp=2)


def project(device: str = "H100 SXM") -> Project:
    return Project.model_validate(
        {
            "project": {"name": "birds.v1"},
            "model": {"depth": 4},
            "fleet": {"device": device, "devices": 16, "devices_per_node": 8},
        }
    )


@pytest.mark.parametrize("kind", ["local", "slurm"])
def test_shell_reads_the_scripts(kind: files.Kind, tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text(launch_text(kind, project(), LAYOUT))
    subprocess.run(["bash", "-n", str(path)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--severity=warning", str(path)], check=True)


def test_sbatch_starts_one_torchrun_per_node() -> None:
    text = launch_text("slurm", project(), LAYOUT)
    for line in ("#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=1", "#SBATCH --gpus-per-node=8", "#SBATCH --requeue"):
        assert line in text.splitlines()
    assert "--nproc-per-node=8" in text
    assert '-m wingspan train "$project"' in text
    assert 'project="${1:-runs/birds.v1}"' in text


def test_slurm_script_requeues_and_gives_up(tmp_path: Path) -> None:
    """Run for real with stand-ins for srun and scontrol: training fails, the job goes back to the queue."""
    tools = tmp_path / "bin"
    tools.mkdir()
    calls = tmp_path / "calls"
    stand_in(tools / "scontrol", f'[ "$1" = show ] && echo node7 || echo "$@" >> {calls}')
    stand_in(tools / "srun", f'case "$2" in bash) exit 0;; *) echo "$@" >> {calls}; exit 1;; esac')
    script = tmp_path / "train.sbatch"
    script.write_text(launch_text("slurm", project(), LAYOUT))
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_NUM_NODES": "2"}

    job = environment | {"SLURM_JOB_ID": "41"}
    first = subprocess.run(["bash", str(script)], env=job, capture_output=True, text=True)
    assert first.returncode == 0
    said = calls.read_text()
    assert "--rdzv-endpoint=node7:29500" in said
    assert "--rdzv-id=41-0" in said
    assert "requeue 41" in said

    worn = job | {"SLURM_RESTART_COUNT": "100"}
    last = subprocess.run(["bash", str(script)], env=worn, capture_output=True, text=True)
    assert last.returncode == 1
    assert "given up" in last.stdout


def stand_in(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("device", "resource"), [("H100 SXM", "nvidia.com/gpu"), ("MI300X", "amd.com/gpu"), ("TPU v5p", "google.com/tpu")]
)
def test_jobset_has_a_pod_per_node(device: str, resource: str) -> None:
    manifest = yaml.safe_load(launch_text("kubernetes", project(device), LAYOUT))
    assert manifest["kind"] == "JobSet"
    name = manifest["metadata"]["name"]
    job = manifest["spec"]["replicatedJobs"][0]
    work = job["template"]["spec"]
    assert work["parallelism"] == work["completions"] == 2
    container = work["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {resource: 8}
    assert f"--rdzv-endpoint={name}-{job['name']}-0-0.{name}:29500" in container["command"]
    assert container["command"][-4:] == ["-m", "wingspan", "train", "runs/birds.v1"]
    assert "." not in name


def test_one_device_needs_no_torchrun() -> None:
    one = project().model_copy(update={"fleet": project().fleet.model_copy(update={"devices": 1})})
    assert 'exec wingspan train "${1:-runs/birds.v1}"' in launch_text("local", one, Layout())
    assert "torchrun --standalone --nproc-per-node 8" in launch_text("local", project(), Layout(dp_shard=8))


def test_files_of_every_kind_are_written(tmp_path: Path) -> None:
    paths = write_launch_files(project(), LAYOUT, tmp_path / "launch")
    assert sorted(path.name for path in paths) == sorted(FILES.values())


def test_launching_before_planning_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no plan yet"):
        launch_file(Run(tmp_path, project(), tmp_path), "slurm")


def test_submitting_without_the_scheduler_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="'kubectl' is not installed here"):
        submit("kubernetes", tmp_path / "train.yaml")


def test_a_refused_job_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "train.sh"
    path.write_text("exit 3\n")
    with pytest.raises(WorkError, match="ended with code 3"):
        submit("local", path)
