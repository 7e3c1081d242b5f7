"""A small project of two ranks, started as a person starts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from train import prepared

TOKENS = 40 * 256


def prepared_project(folder: Path, hang_timeout_s: float = 2) -> None:
    prepared.prepared_run(folder, {"dp_shard": 2}, tokens=TOKENS)
    project = folder / "wingspan.toml"
    project.write_text(project.read_text().replace("[train]", f"[train]\nhang_timeout_s = {hang_timeout_s}"))


def wingspan_train(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "wingspan", "train", str(folder), "--runs", str(folder / "runs")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
