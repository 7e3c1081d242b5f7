"""A run folder: stage folders that are complete or absent, fingerprints, manifests, one lock, resume.

A stage works in `runs/NAME/.STAGE.partial/` and is published by one rename, so a reader sees a whole
stage folder or none, whatever instant the process is killed at. A stage is skipped while its
fingerprint holds: a hash over its settings, the artefacts it reads and the files outside the run.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import wingspan
from wingspan import assets
from wingspan.errors import DamagedArtefact, InputError, WorkError
from wingspan.meter import Meter
from wingspan.progress import Progress
from wingspan.project import Project, Section
from wingspan.project_file import PROJECT_FILE, load_project, project_file

MANIFEST = "manifest.json"
_ORIGIN = ".origin.json"  # marks a run folder and remembers the project file it came from
_LOCK = ".lock"
LAUNCH = "WINGSPAN_LAUNCH"  # in the environment: names one start of all ranks
SUPERVISED = "WINGSPAN_SUPERVISED"  # in the environment: whoever started these ranks holds the run's lock
FINGERPRINT = ".fingerprint"
_AMENDMENT = ".amendment"  # new versions of published files, complete: the next holder of the lock puts them in place
_LIBRARIES = ("torch", "transformers", "tokenizers", "polars", "lm-eval", "openvino-genai")
_FOLLOWER_PATIENCE_S = 600  # rank 0 may have to hash terabytes first
_CONTENT_HASH_LIMIT = 1 << 30  # bytes; larger outside files are identified by size and time


@dataclass(frozen=True)
class StageSpec:
    """What a stage is: which settings and artefacts decide its result, and the code that does it.

    `settings` are sections of the project file; `reads` are artefacts (files or folders) of earlier
    stages, as `stage/path`, with a question mark where one may be absent, and `#key.key` where of a JSON file
    only that value decides; `outside` lists files beyond the run folder (paths or `asset:` names).
    `work` is `module:function`, imported when the stage runs. A `resumable` stage finds its unfinished
    folder again after a kill; the others start afresh. `version` rises when the result would change.
    """

    name: str
    question: str
    settings: tuple[str, ...]
    reads: tuple[str, ...]
    work: str
    resumable: bool = False
    version: int = 1
    outside: Callable[[Project], Sequence[str]] = lambda project: ()


@dataclass(frozen=True)
class Run:
    """One run of one project: its folder, its settings, and the folder that its paths are relative to."""

    folder: Path
    project: Project
    base: Path

    def stage(self, name: str) -> Path:
        """The folder of a published stage."""
        return self.folder / name

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """The manifest of a published stage, None when the stage is absent."""
        path = self.stage(stage) / MANIFEST
        if not path.is_file():
            return None
        try:
            manifest: dict[str, Any] = json.loads(path.read_text())
            return manifest
        except ValueError as error:
            raise WorkError(
                "the manifest is damaged", where=path, remedy=f"Delete {path.parent} and run the stage again"
            ) from error

    def outside(self, spec: str) -> Path:
        """A path of the project file as a real path; fetches assets."""
        path = assets.resolve(spec, self.base)
        if not path.exists():
            raise InputError("there is no such file or folder", where=path, remedy="Mend the path in the project file")
        return path


@dataclass(frozen=True)
class StageContext:
    """What a stage's code gets: settings, verified inputs, the folder to write, where to report."""

    run: Run
    output: Path
    progress: Progress

    @property
    def project(self) -> Project:
        """The settings of this run."""
        return self.run.project

    def read(self, artefact: str) -> Path:
        """The path of an artefact of an earlier stage, `stage/path`."""
        return self.run.folder / artefact


StageWork = Callable[[StageContext], Mapping[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """How running a stage ended."""

    stage: str
    skipped: bool
    manifest: dict[str, Any]


def open_run(where: Path, overrides: Sequence[str] = (), runs: Path = Path("runs")) -> Run:
    """The run of a project folder (or of a run folder); makes the folder, writes the project as it ran."""
    run = find_run(where, overrides, runs)
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        origin = {"project_file": str(project_file(where).resolve()), "base": str(run.base), "set": list(overrides)}
        if not (run.folder / _ORIGIN).is_file():
            write_atomically(run.folder / _ORIGIN, json.dumps(origin, indent=1))
        if where.resolve() != run.folder.resolve():
            write_atomically(run.folder / PROJECT_FILE, _as_it_ran(project_file(where).read_text(), overrides))
    except FileExistsError as error:
        raise InputError("a file stands where the run folder should be", where=run.folder, remedy="Move it") from error
    return run


def find_run(where: Path, overrides: Sequence[str] = (), runs: Path = Path("runs")) -> Run:
    """Like open_run, but touches nothing: for commands that only look."""
    origin = where / _ORIGIN
    if origin.is_file():
        recorded = json.loads(origin.read_text())
        project = load_project(where, [*recorded["set"], *overrides])
        return Run(where, project, Path(recorded["base"]))
    project = load_project(where, overrides)
    return Run(runs / project.project.name, project, project_file(where).resolve().parent)


def _as_it_ran(text: str, overrides: Sequence[str]) -> str:
    if not overrides:
        return text
    return text + "\n# Overridden on the command line:\n" + "".join(f"#   --set {one}\n" for one in overrides)


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that readers see the old text or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


@contextmanager
def lock(run: Run, command: str) -> Iterator[None]:
    """Hold the run folder; a second holder is refused with the first one's process and command."""
    path = run.folder / _LOCK
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            holder = stream.read().strip() or "another process"
            raise WorkError(
                f"the run folder is in use by {holder}", where=run.folder, remedy="Wait for it, or stop it first"
            ) from error
        stream.truncate(0)
        stream.write(f"process {os.getpid()} ({command})")
        stream.flush()
        try:
            _finish_amendment(run)
            yield
        finally:
            stream.truncate(0)


@contextmanager
def amendment(run: Run) -> Iterator[Path]:
    """A folder for new versions of published files, at their paths in the run; they replace the old ones together.

    The caller holds the lock. After a kill inside the block nothing has changed; after a later one, the next holder
    of the lock finishes.
    """
    draft = run.folder / f"{_AMENDMENT}.partial"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    yield draft
    draft.rename(run.folder / _AMENDMENT)
    _sync_folder(run.folder)
    _finish_amendment(run)


def _finish_amendment(run: Run) -> None:
    ready = run.folder / _AMENDMENT
    for file in sorted(ready.rglob("*")):
        target = run.folder / file.relative_to(ready)
        if file.is_file() and target.parent.is_dir():  # else the stage was deleted since
            file.replace(target)
    shutil.rmtree(ready, ignore_errors=True)


def is_locked(run: Run) -> bool:
    """Whether some process works on the run folder now."""
    try:
        with (run.folder / _LOCK).open() as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def run_stage(run: Run, spec: StageSpec, work: StageWork, progress: Progress, *, force: bool = False) -> Outcome:
    """Run one stage unless its fingerprint holds; the caller holds the lock.

    Under torchrun every rank calls this; rank 0 alone prepares and publishes the folder.
    Raises InputError when an earlier stage is missing, DamagedArtefact when an input changed on disk.
    """
    if rank() > 0:
        return _run_follower(run, spec, work, progress)
    fingerprint = fingerprint_of(run, spec)
    _finish_publishing(run, spec.name)
    manifest = run.manifest(spec.name)
    if manifest and manifest["fingerprint"] == fingerprint and not force:
        verify(run, spec.name)
        _tell_followers(run, spec, "skip")
        return Outcome(spec.name, True, manifest)
    for artefact in spec.reads:
        verify(run, artefact)
    output = _partial_folder(run, spec, fingerprint, fresh=force)
    _tell_followers(run, spec, "work")
    with Meter() as meter:
        summary = dict(work(StageContext(run, output, progress)))
    manifest = {
        "stage": spec.name,
        "version": spec.version,
        "fingerprint": fingerprint,
        "settings": {name: run.project.model_dump(mode="json")[name] for name in spec.settings},
        "seed": run.project.project.seed,
        "inputs": {artefact: artefact_hash(run, artefact) for artefact in spec.reads},
        "outside": _outside_identities(run, spec),
        "outputs": _hash_tree(output),
        "summary": summary,
        "wall_s": round(meter.wall_s, 3),
        "cpu_s": round(meter.cpu_s, 3),
        "peak_memory_bytes": meter.peak_memory_bytes,
        "energy": meter.energy().as_json(),
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": _versions(),
    }
    write_atomically(output / MANIFEST, json.dumps(manifest, indent=1))
    _finish_publishing(run, spec.name)
    return Outcome(spec.name, False, manifest)


def _versions() -> dict[str, str]:
    """Of what decides results: wingspan, Python and the libraries that are installed."""
    found = {"wingspan": wingspan.__version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def rank() -> int:
    """This process's number among those that torchrun or Slurm started together; 0 when alone."""
    return int(os.environ.get("RANK", "0"))


def _launch_id() -> str:
    """What all ranks of one launch share and no other launch has."""
    keys = (LAUNCH, "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_ID")
    return " ".join(os.environ.get(key, "") for key in keys)


def _launch_file(run: Run, spec: StageSpec) -> Path:
    """Where rank 0 of a launch says to the other ranks whether the stage needs work."""
    return run.folder / f".{spec.name}.launch"


def _tell_followers(run: Run, spec: StageSpec, verdict: str) -> None:
    if os.environ.get("WORLD_SIZE", "1") != "1":
        write_atomically(_launch_file(run, spec), f"{verdict} {_launch_id()}")


def _run_follower(run: Run, spec: StageSpec, work: StageWork, progress: Progress) -> Outcome:
    """A rank above 0: wait for rank 0's verdict, then work in the folder that it opened."""
    verdicts = {f"{verdict} {_launch_id()}": verdict for verdict in ("work", "skip")}
    file = _launch_file(run, spec)
    deadline = time.monotonic() + _FOLLOWER_PATIENCE_S
    while (said := file.read_text() if file.is_file() else "") not in verdicts:
        if time.monotonic() > deadline:
            problem = f"rank 0 did not open the stage within {_FOLLOWER_PATIENCE_S} s"
            raise WorkError(problem, where=run.folder, remedy="Look at its log")
        time.sleep(0.05)
    if verdicts[said] == "skip":
        return Outcome(spec.name, True, run.manifest(spec.name) or {})
    summary = work(StageContext(run, run.folder / f".{spec.name}.partial", progress))
    return Outcome(spec.name, False, {"summary": dict(summary)})


def _partial_folder(run: Run, spec: StageSpec, fingerprint: str, *, fresh: bool) -> Path:
    """The folder to work in: the unfinished one of a resumable stage, else an empty one."""
    partial = run.folder / f".{spec.name}.partial"
    mark = partial / FINGERPRINT
    same = mark.is_file() and mark.read_text() == fingerprint
    if partial.exists() and (fresh or not same or not spec.resumable):
        shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    write_atomically(mark, fingerprint)
    return partial


def _finish_publishing(run: Run, stage: str) -> None:
    """Move a finished partial folder (one that holds a manifest) to its place; safe to repeat."""
    partial, final, old = run.folder / f".{stage}.partial", run.stage(stage), run.folder / f".{stage}.old"
    if (partial / MANIFEST).is_file():
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)
        partial.rename(final)
        _sync_folder(run.folder)
    shutil.rmtree(old, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fingerprint_of(run: Run, spec: StageSpec) -> str:
    """Hash of everything that decides the stage's result; raises InputError when an input is missing."""
    facts = {
        "stage": spec.name,
        "version": spec.version,
        "settings": {name: _deciding(run.project, spec, name) for name in spec.settings},
        "seed": run.project.project.seed,
        "inputs": {artefact: artefact_hash(run, artefact) for artefact in spec.reads},
        "outside": _outside_identities(run, spec),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _deciding(project: Project, spec: StageSpec, section: str) -> Any:
    """A section of the project file; of a stage that goes on, without what changes how it works alone."""
    values = getattr(project, section)
    if spec.resumable and isinstance(values, Section):
        return values.model_dump(mode="json", exclude=set(values.operational))
    return project.model_dump(mode="json")[section]


def _outside_identities(run: Run, spec: StageSpec) -> dict[str, str]:
    return {one: assets.identity(one) or _identity(run.outside(one)) for one in spec.outside(run.project)}


def _identity(path: Path) -> str:
    """Content of small files and folders, size and time of large ones."""
    if path.is_dir():
        lines = [
            f"{child.relative_to(path)} {_identity(child)}" for child in sorted(path.rglob("*")) if child.is_file()
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    status = path.stat()
    if status.st_size > _CONTENT_HASH_LIMIT:
        return f"{status.st_size} bytes, modified {status.st_mtime_ns}"
    return file_hash(path)


def file_hash(path: Path) -> str:
    """sha256 of a file, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_record(path: Path) -> dict[str, Any]:
    """What a manifest says of a file."""
    return {"bytes": path.stat().st_size, "sha256": file_hash(path)}


def _hash_tree(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of every file below a folder; bookkeeping files (dot files) are left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {
        str(path.relative_to(folder)): file_record(path)
        for path in files
        if path.name != MANIFEST or path.parent != folder
    }


def artefact_hash(run: Run, artefact: str) -> str:
    """Hash of an artefact (`stage/path`, file or folder) as its stage's manifest records it.

    Of a JSON file of which only one value decides (`stage/path#key.key`), the hash of that value.
    """
    path, _, keys = artefact.partition("#")
    if keys:
        verify(run, path)
        value = json.loads((run.folder / path).read_text())
        for key in keys.split("."):
            value = value.get(key)
        return hashlib.sha256(json.dumps(value).encode()).hexdigest()
    records = _records(run, artefact)
    lines = [f"{name} {record['sha256']}" for name, record in sorted(records.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _records(run: Run, artefact: str) -> dict[str, dict[str, Any]]:
    """The files of an artefact in its stage's manifest; none only for one that may be absent (`stage/path?`)."""
    stage, _, path = artefact.partition("#")[0].removesuffix("?").partition("/")
    manifest = run.manifest(stage)
    if manifest is None:
        raise InputError(
            f"stage '{stage}' has not been run",
            where=run.folder,
            remedy=f"Run it first: wingspan {stage}, or wingspan run",
        )
    outputs: dict[str, dict[str, Any]] = manifest["outputs"]
    records = {name: one for name, one in outputs.items() if not path or name == path or name.startswith(path + "/")}
    if not records and not artefact.endswith("?"):
        raise WorkError(f"stage '{stage}' holds no '{path}'", where=run.stage(stage), remedy="Run that stage again")
    return records


def verify(run: Run, artefact: str) -> None:
    """Check every file of an artefact against its manifest; raises DamagedArtefact naming the file."""
    stage = artefact.partition("/")[0]
    remedy = f"Delete {run.stage(stage)} and give the same command again: the stage is made anew"
    for name, record in _records(run, artefact).items():
        file = run.stage(stage) / name
        if not file.is_file():
            raise WorkError("a file of the stage is missing", where=file, remedy=remedy)
        if (found := file_hash(file)) != record["sha256"]:
            raise DamagedArtefact(file, record["sha256"], found, remedy)
