"""A tiny model that the room's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny import write_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny"), seed=1)
