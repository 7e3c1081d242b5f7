"""A run that is watched ends as one that is not; what it shows is what it did."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from train import prepared
from wingspan import workspace
from wingspan.errors import InputError
from wingspan.progress import SilentProgress, Task
from wingspan.stages import stage_spec
from wingspan.train.stage import work
from wingspan.train.telemetry.goodput import read_lines, total
from wingspan.train.telemetry.sinks import METRICS, PREFIX

DASHBOARD = Path(__file__).parents[2] / "docs/grafana-train.json"
TOKENS = 20 * 256


class Scraping(SilentProgress):
    """Reads the page for Prometheus after each step."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"
        self.page, self.notes = "", [""]

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        scraping = self

        class Step:
            def advance(self, amount: float = 1, note: str = "") -> None:
                if name == "train":
                    scraping.notes.append(note)
                    scraping.page = urllib.request.urlopen(scraping._url).read().decode()

        yield Step()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def watched(port: int = 0) -> str:
    return f"\n[telemetry]\nmetrics_port = {port}\ntensorboard = true\nevaluate_every = 8\n"


def train(folder: Path, progress: SilentProgress) -> Path:
    run = workspace.open_run(folder, runs=folder / "runs")
    workspace.run_stage(run, stage_spec("train"), work, progress)
    return run.stage("train")


def evaluations(stage: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stage / "evaluations.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scraping]:
    folder, port = tmp_path_factory.mktemp("watched"), free_port()
    prepared.prepared_run(folder, tokens=TOKENS, more=watched(port))
    progress = Scraping(port)
    return train(folder, progress), progress


def test_watching_and_scoring_change_no_weight(seen: tuple[Path, Scraping], tmp_path: Path) -> None:
    prepared.prepared_run(tmp_path, tokens=TOKENS)
    alone = train(tmp_path, SilentProgress())
    one, other = (folder / "base/model.safetensors" for folder in (alone, seen[0]))
    assert one.read_bytes() == other.read_bytes()
    assert not (alone / "evaluations.jsonl").exists()
    assert not (alone / "tensorboard").exists()


def test_held_out_posts_are_scored_by_source_and_language(seen: tuple[Path, Scraping]) -> None:
    found = evaluations(seen[0])
    assert [one["step"] for one in found] == [8, 16]
    assert [(one["source"], one["language"]) for one in found[0]["by"]] == [("gull", "en"), ("tern", "en")]
    for one in found:
        assert one["bytes"] == sum(part["bytes"] for part in one["by"])
        bits = sum(part["bits_per_byte"] * part["bytes"] for part in one["by"])
        assert one["bits_per_byte"] == pytest.approx(bits / one["bytes"])
    assert found[1]["bits_per_byte"] < found[0]["bits_per_byte"]


def test_every_metric_of_the_dashboard_is_on_the_page(seen: tuple[Path, Scraping]) -> None:
    progress = seen[1]
    shown = dict(re.findall(rf"^({PREFIX}\S+) (\S+)$", progress.page, re.MULTILINE))
    named = set(re.findall(rf"{PREFIX}\w+", DASHBOARD.read_text()))
    assert {PREFIX + name for name in METRICS} == named
    assert named - {PREFIX + "mfu"} <= {name.partition("{")[0] for name in shown}  # no plan says what it could do
    assert float(shown["wingspan_train_step"]) == 20 - 1  # the page is written after the bar
    assert 'wingspan_train_bits_per_byte{language="en",source="tern"}' in shown
    assert re.fullmatch(r"loss \d\.\d{3}, [\d,]+ tokens/s, goodput \d+%, checkpoint in 3", progress.notes[4])


def test_tensorboard_reads_the_same_losses(seen: tuple[Path, Scraping]) -> None:
    stage = seen[0]
    events = EventAccumulator(str(stage / "tensorboard"))
    events.Reload()
    losses = [json.loads(line)["loss"] for line in (stage / "metrics.jsonl").read_text().splitlines()]
    assert [one.value for one in events.Scalars("loss")] == pytest.approx(losses)
    assert len(events.Scalars("bits_per_byte/gull/en")) == 2


def test_a_port_that_is_taken_says_which_setting_to_change(tmp_path: Path) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        prepared.prepared_run(tmp_path, more=watched(one.getsockname()[1]))
        with pytest.raises(InputError) as caught:
            train(tmp_path, SilentProgress())
    assert caught.value.where == "telemetry.metrics_port"


@pytest.mark.slow
def test_ranks_score_alike_and_waiting_for_each_other_is_communication(
    seen: tuple[Path, Scraping], tmp_path: Path
) -> None:
    prepared.prepared_run(tmp_path, {"tp": 2}, tokens=TOKENS, more=watched())
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", prepared.__file__]
    done = subprocess.run([*launch, str(tmp_path)], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    stage = tmp_path / "runs/tiny/train"
    for one, other in zip(evaluations(seen[0]), evaluations(stage), strict=True):
        assert [part["bits_per_byte"] for part in one["by"]] == pytest.approx(
            [part["bits_per_byte"] for part in other["by"]], abs=2e-4
        )
    shares = total(read_lines(stage)).shares
    assert shares["communication"].ns > 0.2 * shares["compute"].ns
    assert total(read_lines(seen[0])).shares["communication"].ns == 0
