"""What a run of two ranks makes that nothing disturbs."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.starting import prepared_project, wingspan_train


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two ranks, started as a person does."""
    folder = tmp_path_factory.mktemp("undisturbed")
    prepared_project(folder, 60)
    said, errors = wingspan_train(folder).communicate(timeout=100)
    assert "steps: 40" in said, errors
    assert not (folder / "runs/tiny/.train.stops.jsonl").exists()
    return folder
