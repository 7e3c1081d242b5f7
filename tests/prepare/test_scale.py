"""The whole stage on any engine, and through kills: always the same bytes, and nothing done twice."""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from wingspan.prepare.flow.engines import Processes, RayCluster
from wingspan.prepare.flow.flow import Engine, Flow, Job
from wingspan.prepare.privacy.pseudonyms import KEY_VARIABLE
from wingspan.prepare.stage import prepare
from wingspan.progress import SilentProgress
from wingspan.project import Project
from wingspan.workspace import Run, StageContext

from .conftest import PROJECT

BATCH, BUCKET = 48, 300  # rows: many parts, of which none is full


@dataclass
class Noted:
    """An engine that notes in a file which pieces of work were missing."""

    engine: Engine
    log: Path

    def run(self, jobs: Sequence[Job]) -> Iterator[Any]:
        with self.log.open("a") as stream:
            stream.writelines(f"{job.target}\n" for job in jobs if not job.target.exists())
        yield from self.engine.run(jobs)


def prepared(platform: Path, output: Path, engine: Engine) -> dict[Path, bytes]:
    """Prepare in small parts; the content of every file."""
    settings = {**PROJECT, "prepare": {**PROJECT["prepare"], "documents_per_shard": 100}}
    output.mkdir(exist_ok=True)
    context = StageContext(Run(output.parent, Project.model_validate(settings), platform), output, SilentProgress())
    prepare(context, Flow(output / ".work", engine, SilentProgress(), BATCH, BUCKET))
    return content(output)


def content(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def undisturbed(platform: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[Path, bytes]:
    monkeypatch.setenv(KEY_VARIABLE, "a key of the tests")
    return prepared(platform, tmp_path / "undisturbed", Processes(1))


def test_many_small_parts_give_many_shards_and_an_account_that_adds_up(undisturbed: dict[Path, bytes]) -> None:
    report = json.loads(undisturbed[Path("report.json")])
    assert report["read"] == 320 == report["kept"] + sum(report["refused"].values()) + report["damaged"]
    index = json.loads(undisturbed[Path("tokens/index.json")])
    assert [shard["documents"] for shard in index["splits"]["train"]][:2] == [100, 100]
    assert not any(".work" in path.parts or path.name.startswith(".") for path in undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 8])
def test_any_number_of_workers_gives_the_same_bytes(
    platform: Path, tmp_path: Path, undisturbed: dict[Path, bytes], workers: int
) -> None:
    pool = Processes(workers, least=0)
    try:
        assert prepared(platform, tmp_path / "workers", pool) == undisturbed
    finally:
        pool.close()


@pytest.mark.slow
def test_two_machines_of_a_ray_cluster_give_the_same_bytes(
    platform: Path, tmp_path: Path, undisturbed: dict[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        engine = RayCluster(cluster.address)
        assert len(ray.nodes()) == 2
        assert prepared(platform, tmp_path / "ray", engine) == undisturbed
    finally:
        ray.shutdown()
        cluster.shutdown()


def pieces(output: Path) -> set[str]:
    """The pieces of work that are done; the folder may go while it is looked at."""
    walked = os.walk(output / ".work", onerror=lambda _: None)
    return {f"{folder}/{name}" for folder, _, names in walked for name in names if name[0] != "." and "arrow" in name}


def _prepare_alone(platform: Path, output: Path) -> None:
    prepared(platform, output, Noted(Processes(1), output.parent / "log"))


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    platform: Path, tmp_path: Path, undisturbed: dict[Path, bytes]
) -> None:
    output, log = tmp_path / "killed", tmp_path / "log"
    kills, moment = 0, random.Random(3)
    while True:
        before = pieces(output)
        log.unlink(missing_ok=True)
        process = mp.get_context("spawn").Process(target=_prepare_alone, args=(platform, output))
        process.start()
        made = len(before) + moment.randint(1, 60)
        while process.is_alive() and len(pieces(output)) < made:
            time.sleep(0.002)
        if process.is_alive() and kills < 4:
            time.sleep(moment.random() * 0.02)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        done = set(log.read_text().splitlines()) if log.exists() else set()
        assert not done & before
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert kills >= 3
    assert content(output) == undisturbed
