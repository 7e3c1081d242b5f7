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


def test_sbatch_asks_for_the_nodes_and_hands_over_to_the_supervisor() -> None:
    text = launch_text("slurm", project(), LAYOUT)
    for line in (
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:USR1@300",
    ):
        assert line in text.splitlines()
    assert text.splitlines()[-1] == 'exec wingspan launch job "${1:-runs/birds.v1}"'


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
    assert container["command"] == ["wingspan", "launch", "node", "runs/birds.v1"]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert environment["MASTER_ADDR"] == f"{name}-{job['name']}-0-0.{name}"
    assert container["ports"] == [{"containerPort": int(environment["MASTER_PORT"])}]
    assert "." not in name
    # What the documentation of Jobs demands of a podFailurePolicy, and of JobSet of a rule that looks at it.
    assert work["template"]["spec"]["restartPolicy"] == "Never"
    assert work["podFailurePolicy"]["rules"] == [
        {"action": "FailJob", "onExitCodes": {"containerName": container["name"], "operator": "In", "values": [2]}}
    ]
    assert manifest["spec"]["failurePolicy"]["rules"] == [
        {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]
    volumes = {one["name"] for one in work["template"]["spec"]["volumes"]}
    assert volumes == {one["name"] for one in container["volumeMounts"]}


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
