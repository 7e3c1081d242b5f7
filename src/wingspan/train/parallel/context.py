"""Context parallel: the ranks of cp share the tokens of each sequence, and gather its keys and values."""

from __future__ import annotations

from torch.distributed.device_mesh import DeviceMesh

from wingspan.model.context import Context
from wingspan.model.network import Block, Decoder
from wingspan.project import Layout


def split_sequences(model: Decoder, layout: Layout, mesh: DeviceMesh) -> None:
    """Let the network take whole sequences and work on this rank's tokens of them."""
    if layout.cp == 1:
        return
    model.context = Context(mesh["cp"])
    for block in model.model.layers.values():
        assert isinstance(block, Block)
        block.self_attn.context = model.context
