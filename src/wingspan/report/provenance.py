"""What the run rests on: licences of every source, fingerprints of every stage, versions. Rows of tables."""

from __future__ import annotations

from wingspan.assets import OPEN_MODELS, asset_name
from wingspan.report.record import NOT_RECORDED, Record
from wingspan.units import size

_HASH_SHOWN = 16  # characters of a fingerprint; the manifest has all


def sources(record: Record) -> list[tuple[str, str, str, str]]:
    """Name, use, path and licence of the model to start from and of every source of the project file."""
    prepare = record.run.project.prepare
    rows = [
        *((source.name, "posts", source.path, source.licence) for source in prepare.posts),
        *((source.name, "dialogues", source.path, source.licence) for source in prepare.dialogues),
        *((source.name, "labels of posts", source.path, source.licence) for source in prepare.labels),
    ]
    start = record.run.project.model.start
    if start == "scratch":
        return rows
    name = asset_name(start)
    licence = OPEN_MODELS[name].licence if name in OPEN_MODELS else f"{NOT_RECORDED}: see the folder itself"
    return [(name or start, "weights to start from", start, licence), *rows]


def stages(record: Record) -> list[tuple[str, str, str, str]]:
    """Name, end, size and fingerprint of each stage that has been run."""
    return [
        (name, _time(manifest["finished_at"]), _extent(manifest["outputs"]), manifest["fingerprint"][:_HASH_SHOWN])
        for name, manifest in record.manifests.items()
    ]


def versions(record: Record) -> list[tuple[str, str]]:
    """What the stages were made with, and which of them; one row where all ran on the same software."""
    made: dict[str, list[str]] = {}
    for name, manifest in record.manifests.items():
        software = ", ".join(f"{key} {value}" for key, value in manifest["versions"].items())
        made.setdefault(software, []).append(name)
    return [(", ".join(names), software) for software, names in made.items()]


def files(record: Record) -> list[tuple[str, str, str]]:
    """Path, size and sha256 of every file that the stages published."""
    return [
        (f"{stage}/{path}", size(one["bytes"]), one["sha256"])
        for stage, manifest in record.manifests.items()
        for path, one in sorted(manifest["outputs"].items())
    ]


def _time(iso: str) -> str:
    return iso.replace("T", " ").replace("Z", " UTC")


def _extent(outputs: dict[str, dict[str, int]]) -> str:
    noun = "file" if len(outputs) == 1 else "files"
    return f"{len(outputs):,} {noun}, {size(sum(one['bytes'] for one in outputs.values()))}"
