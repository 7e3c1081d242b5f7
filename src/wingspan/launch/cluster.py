"""How a project's ranks lie on machines: what Slurm, Kubernetes and a laptop start alike."""

from __future__ import annotations

from dataclasses import dataclass

from wingspan.project import Layout, Project


@dataclass(frozen=True)
class Ranks:
    """`nodes` machines of `per_node` ranks each; `project` is the run folder, relative to where the job starts."""

    name: str
    project: str
    device: str
    nodes: int
    per_node: int


def ranks_of(project: Project, layout: Layout) -> Ranks:
    """The machines that a layout needs."""
    per_node = min(project.fleet.devices_per_node, layout.world_size)
    name = project.project.name
    return Ranks(name, f"runs/{name}", project.fleet.device, -(-layout.world_size // per_node), per_node)


def dns_name(name: str) -> str:
    """A project's name as DNS and Kubernetes allow it: lower case, digits and hyphens."""
    return "wingspan-" + name.replace(".", "-").replace("_", "-").strip("-")
