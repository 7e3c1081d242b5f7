"""`wingspan forget`: a post or an author out of a run, in one atomic change, and an honest account of what stays."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import polars as pl

from wingspan.errors import InputError, WingspanError
from wingspan.forget.models import Learned, models_that_learned
from wingspan.forget.rewrite import rewrite
from wingspan.knowledge.index import PostIndex
from wingspan.prepare.privacy.tombstones import (
    FORGOTTEN_LIST,
    KEY_CHECK,
    Tombstones,
    prove,
    read_list,
    requests_of,
    unindex,
)
from wingspan.stages import STAGES
from wingspan.workspace import (
    FINGERPRINT,
    MANIFEST,
    Run,
    StageSpec,
    amendment,
    artefact_hash,
    file_record,
    fingerprint_of,
)

_REWRITTEN = ("prepare", "align", "evaluate")  # the stages that keep posts
_DERIVED = ("report.html", ".prepare.partial", ".prepare.old", ".evaluate.partial", ".evaluate.old")


@dataclass(frozen=True)
class Answer:
    """What a request came to: what was removed, the proof, and the models that learned from it and keep it."""

    requests: tuple[str, ...]  # lines as of an opt-out list
    at: str  # UTC
    removed: dict[str, int]  # rows of posts, conversations, labels, ..., links to them, tokens, entries of samples
    models: tuple[Learned, ...]
    proof: dict[str, int]  # files and ids searched afterwards, and forgotten ids found


def forget(run: Run, lines: Iterable[str], pseudonym: Callable[[str], str], *, dry_run: bool = False) -> Answer:
    """Remove posts and authors (lines as of an opt-out list) from a run; the caller holds its lock.

    Stages that were done stay done: they hold what they would make now. Killed at any instant, the same request ends
    the same. Raises InputError for a line that names neither and for another pseudonym key than that of the posts.
    """
    requests = tuple(line.strip() for line in lines if line.strip())
    unclear = [line for line in requests if not read_list([line])[0]]
    if unclear or not requests:
        raise InputError(
            f"'{(*unclear, '')[0]}' names no post and no author", remedy="Patterns go into the file of prepare.opt_outs"
        )
    _check_key(run, pseudonym)
    stones = Tombstones.build([], requests, (), pseudonym)
    posts = _posts(run)
    stones = stones.with_posts_of_authors(posts)
    models = tuple(models_that_learned(run, stones))
    if dry_run:
        with tempfile.TemporaryDirectory(dir=run.folder, prefix=".forget-") as draft:
            return _draft(run, Path(draft), Answer(requests, "", {}, models, {}), stones)
    _clear(run, stones)
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with amendment(run) as draft:
        answer = _draft(run, draft, Answer(requests, at, {}, models, {}), stones)
    proof = prove(run.folder / "prepare", stones)
    return replace(answer, proof={name: proof[name] for name in ("files_searched", "ids_searched", "found")})


def _check_key(run: Run, pseudonym: Callable[[str], str]) -> None:
    path = run.folder / "prepare/report.json"
    mark = json.loads(path.read_text()).get("pseudonym_key") if path.is_file() else None
    if mark and mark != pseudonym(KEY_CHECK):
        raise InputError(
            "the pseudonym key is not the one that these posts were prepared with, so no author can be found",
            where=path,
            remedy="Set WINGSPAN_PSEUDONYM_KEY, or put pseudonym.key back",
        )


def _posts(run: Run) -> pl.DataFrame:
    """Ids and authors of all posts that the run holds, samples of dropped ones too."""
    columns = ["post_id", "author_id"]
    files = sorted((run.folder / "prepare").rglob("*.parquet"))
    frames = [pl.read_parquet(file, columns=columns) for file in files if {*columns} <= {*pl.read_parquet_schema(file)}]
    return pl.concat([pl.DataFrame(schema=dict.fromkeys(columns, pl.String)), *frames])


def _clear(run: Run, stones: Tombstones) -> None:
    """Take posts out of the search index, at once for a server that runs; delete what is made anew."""
    for file in (run.folder / "serve").glob("posts-*.sqlite"):
        with closing(PostIndex(file)) as index:
            unindex(index, stones)
    for name in _DERIVED:
        path = run.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _draft(run: Run, draft: Path, answer: Answer, stones: Tombstones) -> Answer:
    """Write to `draft` all that changes; returns the answer with what goes."""
    removed: Counter[str] = Counter()
    for stage in _REWRITTEN:
        removed += rewrite(run.stage(stage), draft / stage, stones)
    _renew_manifests(run, draft)
    answers = requests_of(run.folder)
    earlier = [one for one in answers if one["requests"] == list(answer.requests)]
    if earlier and not removed:  # it was answered before, perhaps by a process that did not live to say so
        models = tuple(Learned(**one) for one in earlier[-1]["models"])
        return replace(answer, at=earlier[-1]["at"], removed=earlier[-1]["removed"], models=models)
    answer = replace(answer, removed=dict(sorted(removed.items())))
    path = draft / FORGOTTEN_LIST
    path.touch(mode=0o600)
    path.write_text("".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in [*answers, asdict(answer)]), "utf-8")
    return answer


def _renew_manifests(run: Run, draft: Path) -> None:
    """Manifests that know the new files; where a fingerprint held, of a finished stage or not, the new one holds.

    An unfinished alignment begins anew: its conversations are packed otherwise without those that are gone.
    """
    after = replace(run, folder=draft)
    if (layout := run.folder / "plan/layout.json").is_file():  # a value of it decides, so it is read there too
        (draft / "plan").mkdir()
        shutil.copyfile(layout, draft / "plan/layout.json")
    for spec in STAGES:
        before = _fingerprint(run, spec)
        if (manifest := run.manifest(spec.name)) is not None:
            changed = [one for one in (draft / spec.name).rglob("*") if one.is_file()]
            manifest["outputs"] |= {one.relative_to(draft / spec.name).as_posix(): file_record(one) for one in changed}
            for artefact, known in manifest["inputs"].items():
                if run.manifest(artefact.partition("/")[0]) and known == artefact_hash(run, artefact):
                    manifest["inputs"][artefact] = artefact_hash(after, artefact)
            if before and manifest["fingerprint"] == before:
                manifest["fingerprint"] = fingerprint_of(after, spec)
            (draft / spec.name).mkdir(exist_ok=True)
            (draft / spec.name / MANIFEST).write_text(json.dumps(manifest, indent=1))
        mark = Path(f".{spec.name}.partial") / FINGERPRINT
        unfinished = spec.name == "train" and (run.folder / mark).is_file()
        if unfinished and before and (run.folder / mark).read_text() == before:
            (draft / mark).parent.mkdir()
            (draft / mark).write_text(fingerprint_of(after, spec))


def _fingerprint(run: Run, spec: StageSpec) -> str | None:
    """The fingerprint of a stage that reads what forgetting changes; None for others, and where an input is missing."""
    if not any(artefact.partition("/")[0] in _REWRITTEN for artefact in spec.reads):
        return None
    try:
        return fingerprint_of(run, spec)
    except WingspanError:
        return None
