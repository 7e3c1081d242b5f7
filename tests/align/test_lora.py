"""Adapters change nothing at first, learn alone, and leave a plain network."""

from __future__ import annotations

from pathlib import Path

import torch

from tiny import write_model
from wingspan.model.checkpoint import load, open_folder
from wingspan.model.lora import DOWN, UP
from wingspan.project import Layout
from wingspan.train.checkpoint.export import export, whole_parameters
from wingspan.train.start import start_part


def test_adapters_start_at_nothing_learn_alone_and_are_merged(tmp_path: Path) -> None:
    folder = open_folder(write_model(tmp_path / "start", seed=3))
    part = start_part(
        folder.shape,
        Layout(precision="fp32"),
        folder,
        sequence=16,
        global_batch=2,
        device=torch.device("cpu"),
        lora_rank=4,
    )
    tokens = torch.arange(32).view(2, 16) + 5
    positions = torch.arange(16).expand(2, 16)
    plain = load(tmp_path / "start")
    torch.testing.assert_close(part.model(tokens, positions), plain(tokens, positions))
    learning = {name for name, parameter in part.model.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, _ in part.model.named_parameters() if name.endswith((DOWN, UP))}
    assert len(learning) == 2 * 7 * folder.shape.layers
    part.model(tokens, positions, None, tokens).backward()
    with torch.no_grad():
        for name, parameter in part.model.named_parameters():
            assert (parameter.grad is not None) == (name in learning)
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad
    said = part.model(tokens, positions)
    assert not torch.allclose(said, plain(tokens, positions), atol=1e-3)
    assert [name for name, _ in whole_parameters(part)] == [name for name, _ in plain.named_parameters()]
    export(part, tmp_path / "merged", tmp_path / "start", 0)
    torch.testing.assert_close(load(tmp_path / "merged")(tokens, positions), said, atol=0.05, rtol=0.05)
