"""The ranks as one mesh, and the meshes over which its parts are sharded."""

from __future__ import annotations

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from wingspan.project import Layout
from wingspan.train.torch_compat import flatten_mesh, join_meshes, unflatten_mesh

MESH_AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")


def make_mesh(layout: Layout, device_type: str) -> DeviceMesh:
    """The mesh of a layout over all ranks of the process group; its last axis lies closest together."""
    return init_device_mesh(
        device_type,
        (layout.pp, layout.dp_replicate, layout.dp_shard, layout.cp, layout.tp),
        mesh_dim_names=MESH_AXES,
    )


def shard_mesh(mesh: DeviceMesh, layout: Layout) -> DeviceMesh:
    """The ranks that share out each parameter: those of dp_shard and cp, whose gradients are summed alike."""
    return mesh["dp_shard"] if layout.cp == 1 else flatten_mesh(mesh["dp_shard", "cp"], "dp_shard_cp")


def expert_meshes(mesh: DeviceMesh, layout: Layout) -> tuple[DeviceMesh, DeviceMesh]:
    """The ranks that share out each expert, and those over which experts are spread: ep lies inside dp_shard x cp."""
    whole = shard_mesh(mesh, layout)
    both = unflatten_mesh(whole, (whole.size() // layout.ep, layout.ep), ("expert_shard", "ep"))
    return both["expert_shard"], both["ep"]


def with_replicas(shards: DeviceMesh, mesh: DeviceMesh, layout: Layout) -> DeviceMesh:
    """The mesh for HSDP: the shards, and the replicas of them where there are any."""
    return shards if layout.dp_replicate == 1 else join_meshes(mesh["dp_replicate"], shards)
