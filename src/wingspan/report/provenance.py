"""What the run rests on: rights, licences of every source, fingerprints of every stage, versions."""

from __future__ import annotations

from dataclasses import dataclass

from wingspan.assets import OPEN_MODELS, asset_name
from wingspan.report.record import NOT_RECORDED, Record
from wingspan.units import size

_HASH_SHOWN = 16  # characters; the manifest has all


@dataclass(frozen=True)
class Origin:
    """Something that was read: what for, where from, on what licence."""

    name: str
    use: str
    path: str
    licence: str


@dataclass(frozen=True)
class StageProof:
    """What identifies a stage's result."""

    name: str
    fingerprint: str
    files: str
    finished_at: str


def origins(record: Record) -> list[Origin]:
    """Every source of the project file and the model it starts from."""
    prepare = record.run.project.prepare
    sources = [
        *((source, "posts") for source in prepare.posts),
        *((source, "dialogues") for source in prepare.dialogues),
        *((source, "labels of posts") for source in prepare.labels),
    ]
    found = [Origin(source.name, use, source.path, source.licence) for source, use in sources]
    start = record.run.project.model.start
    if start == "scratch":
        return found
    name = asset_name(start)
    licence = OPEN_MODELS[name].licence if name in OPEN_MODELS else f"{NOT_RECORDED}: see the folder's own licence"
    return [Origin(name or start, "weights to start from", start, licence), *found]


def proofs(record: Record) -> list[StageProof]:
    """Fingerprint and files of each stage that has been run."""
    return [
        StageProof(
            name=name,
            fingerprint=manifest["fingerprint"][:_HASH_SHOWN],
            files=_files(manifest["outputs"]),
            finished_at=manifest.get("finished_at", NOT_RECORDED).replace("T", " ").replace("Z", " UTC"),
        )
        for name, manifest in record.manifests.items()
    ]


def versions(record: Record) -> list[tuple[str, str]]:
    """What the stages were made with, and which of them; one row where all ran on the same software."""
    stages: dict[str, list[str]] = {}
    for name, manifest in record.manifests.items():
        software = ", ".join(f"{key} {value}" for key, value in manifest.get("versions", {}).items())
        stages.setdefault(software or NOT_RECORDED, []).append(name)
    return [(", ".join(names), software) for software, names in stages.items()]


def artefacts(record: Record) -> list[tuple[str, str, str]]:
    """Path, size and sha256 of every file that the stages published."""
    return [
        (f"{stage}/{path}", size(one["bytes"]), one["sha256"])
        for stage, manifest in record.manifests.items()
        for path, one in sorted(manifest["outputs"].items())
    ]


def _files(outputs: dict[str, dict[str, int]]) -> str:
    noun = "file" if len(outputs) == 1 else "files"
    return f"{len(outputs):,} {noun}, {size(sum(one['bytes'] for one in outputs.values()))}"
