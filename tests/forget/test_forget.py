"""Forgetting on a small run whose posts, tokens and base model are real."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from generate import write_project
from wingspan.errors import InputError
from wingspan.forget.request import Answer, forget
from wingspan.knowledge.grounding import SourcePost
from wingspan.knowledge.index import PostIndex
from wingspan.model.chat import load_tokenizer
from wingspan.prepare.privacy.pseudonyms import pseudonymiser
from wingspan.prepare.tokens.megatron import export_megatron
from wingspan.progress import SilentProgress
from wingspan.report.status import describe
from wingspan.stages import perform, stage_spec, state
from wingspan.workspace import Run, StageContext, lock, open_run, run_stage

KEY = "the key of a test"
PSEUDONYM = pseudonymiser(hashlib.sha256(KEY.encode()).digest())
LINKS = ("parent_id", "root_id", "quote_of")
PREPARED = ("plan", "prepare", "evaluate")


def plan(context: StageContext) -> dict[str, Any]:
    layout = {"precision": "fp32", "micro_batch": 2}
    (context.output / "layout.json").write_text(json.dumps({"layout": layout, "source": "given"}))
    return {}


def align(context: StageContext) -> dict[str, Any]:
    (context.output / "assistant").mkdir()
    (context.output / "assistant/model.safetensors").write_bytes(b"weights")
    posts = pl.read_parquet(context.read("prepare/posts/train-*.parquet"))
    (context.output / "dpo").mkdir()
    posts.select(chosen="text", post_ids=pl.concat_list("post_id")).write_parquet(
        context.output / "dpo/preferences.parquet"
    )
    return {}


def evaluate(context: StageContext) -> dict[str, Any]:
    """Scores with a sample for each held-out post, and the task file of held-out posts, as evaluate keeps them."""
    posts = pl.read_parquet(context.read("prepare/posts/held_out-*.parquet"))
    samples = [
        {"question": "What?", "posts": [{"post_id": post_id, "text": text}], "answers": {"base": f"It says {text}"}}
        for post_id, text in posts.select("post_id", "text").iter_rows()
    ]
    (context.output / "scores.json").write_text(json.dumps({"models": ["base"], "tasks": [], "samples": samples}))
    (context.output / "tasks").mkdir()
    docs = [{"post_ids": [post_id], "text": text} for post_id, text in posts.select("post_id", "text").iter_rows()]
    lines = "".join(json.dumps(doc, ensure_ascii=False) + "\n" for doc in docs)
    (context.output / "tasks/posts.jsonl").write_text(lines)
    return {}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run of all stages; tests work on copies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WINGSPAN_PSEUDONYM_KEY", KEY)
        patch.setenv("WINGSPAN_WORKERS", "1")
        folder = tmp_path_factory.mktemp("platform")
        run = open_run(write_project(folder / "project"), runs=folder / "runs")
        run_stage(run, stage_spec("plan"), plan, SilentProgress())
        for name in ("prepare", "train"):
            perform(run, name, SilentProgress())
        run_stage(run, stage_spec("align"), align, SilentProgress())
        run_stage(run, stage_spec("evaluate"), evaluate, SilentProgress())
        (run.folder / "report.html").write_text("quotes posts")
        index_posts(run)
        yield run


def index_posts(run: Run) -> None:
    posts = pl.read_parquet(run.folder / "prepare/posts/*.parquet")
    (run.folder / "serve").mkdir()
    index = PostIndex(run.folder / "serve/posts-0123456789abcdef.sqlite")
    index.add(SourcePost(*row) for row in posts.select("post_id", "text").iter_rows())
    index.close()


@pytest.fixture
def run(made: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("WINGSPAN_PSEUDONYM_KEY", KEY)
    monkeypatch.setenv("WINGSPAN_WORKERS", "1")
    return copied(made, tmp_path / "run")


def copied(run: Run, folder: Path, stages: tuple[str, ...] = ()) -> Run:
    left_out = [name for name in ("train", "align", "rehearse") if stages and name not in stages]
    shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns(*left_out))
    return Run(folder, run.project, run.base)


def ask(run: Run, request: str, **options: Any) -> Answer:
    with lock(run, "test"):
        return forget(run, request.splitlines(), PSEUDONYM, **options)


def posts_of(run: Run) -> pl.DataFrame:
    return pl.read_parquet(run.folder / "prepare/posts/*.parquet")


def prolific(run: Run) -> str:
    """The author of most posts to train on."""
    posts = pl.read_parquet(run.folder / "prepare/posts/train-*.parquet")
    pseudonym = posts["author_id"].value_counts(sort=True)["author_id"][0]
    return next(name for name in (f"u{number}" for number in range(60)) if PSEUDONYM(name) == pseudonym)


def decoded(run: Run) -> str:
    """Everything that the token shards say."""
    tokens = run.folder / "prepare/tokens"
    index = json.loads((tokens / "index.json").read_text())
    tokenizer = load_tokenizer(run.folder / "prepare/tokenizer")
    shards = [one["file"] for shards in index["splits"].values() for one in shards]
    return "\n".join(tokenizer.decode(np.fromfile(tokens / name, dtype=index["dtype"]).tolist()) for name in shards)


def everything(folder: Path) -> dict[str, str]:
    """Hashes of all files, moments taken out."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != ".lock" and file.suffix != ".sqlite":
            content = file.read_bytes()
            if file.name == "forgotten.jsonl":
                content = b"".join(json.dumps(json.loads(line) | {"at": ""}).encode() for line in content.splitlines())
            found[file.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def test_an_author_is_nowhere_afterwards_and_every_stage_still_holds(run: Run) -> None:
    before, author = posts_of(run), prolific(run)
    gone = before.filter(pl.col("author_id") == PSEUDONYM(author))
    others = before.filter(pl.col("author_id") != PSEUDONYM(author))
    texts = [text for text in gone["text"] if not any(text in other for other in others["text"])]
    assert len(texts) >= 3
    assert all(text in decoded(run) for text in texts)

    (index,) = (run.folder / "serve").glob("posts-*.sqlite")
    served = PostIndex(index)  # by a server that runs
    assert served.get(gone["post_id"][0]) is not None

    answer = ask(run, f"author:{author}")

    assert served.get(gone["post_id"][0]) is None
    after = posts_of(run)
    assert after.drop(LINKS).equals(others.drop(LINKS))
    assert not set(gone["post_id"]) & {one for link in LINKS for one in after[link].drop_nulls()}
    assert not any(text in decoded(run) for text in texts)
    for file in (run.folder / "prepare").rglob("*.parquet"):
        named = {one for column in pq.read_table(file).to_pydict().values() for one in column if isinstance(one, str)}
        assert not named & {*gone["post_id"], PSEUDONYM(author)}
    for rests in ("prepare/conversations/*.parquet", "align/dpo/preferences.parquet"):
        assert not set(pl.read_parquet(run.folder / rests)["post_ids"].explode()) & set(gone["post_id"])
    said = [(file, file.read_text()) for file in run.folder.rglob("*.json*") if "ledger" not in file.parts]
    assert not [
        file for file, content in said for text in texts if json.dumps(text, ensure_ascii=False)[1:-1] in content
    ]
    assert not (run.folder / "report.html").exists()
    (index,) = (run.folder / "serve").glob("posts-*.sqlite")
    assert len(PostIndex(index)) == len(others)
    assert not any(text.encode() in index.read_bytes() for text in texts)

    assert answer.proof["found"] == 0
    assert answer.removed["posts"] == len(gone)
    assert answer.removed["labels"] == len(gone)
    assert {record["state"] for record in describe(run, verify=True)} == {"done", "absent"}
    for name in ("train", "align"):
        assert perform(run, name, SilentProgress()).skipped
    assert [one.model for one in answer.models] == ["train/base", "align/assistant"]
    assert answer.models[1].through == "train/base"
    assert run_stage(run, stage_spec("evaluate"), evaluate, SilentProgress()).skipped


def test_the_ledger_names_exactly_the_steps_that_learned_from_it(run: Run) -> None:
    from wingspan.train.data.batches import open_split
    from wingspan.train.data.ledger import entries
    from wingspan.train.data.order import sample_indices

    training = pl.read_parquet(run.folder / "prepare/tokens/train-*.documents.parquet")
    posts, seed = open_split(run.folder / "prepare/tokens", "train"), run.project.project.seed
    batches = posts.packed(run.project.train.sequence)
    for row in (0, 7, training.height - 1):
        begin, length = int(posts.offset[row]), int(posts.length[row])
        words = posts.tokens[posts.shard[row]][begin : begin + length].tolist()
        steps = []
        for entry in entries(run.folder / "train/ledger"):
            samples = sample_indices(entry.first, entry.samples, len(batches), seed)
            rows = batches.batch(samples).targets.tolist()
            if any(words == targets[at : at + length] for targets in rows for at in range(len(targets))):
                steps.append(entry.step)
        (base, *_) = ask(run, f"post:{training['post_id'][row]}", dry_run=True).models
        assert (base.model, base.learned, base.steps, base.certain) == ("train/base", 1, len(steps), True)
        assert (base.first_step, base.last_step) == (steps[0], steps[-1])


def test_many_are_forgotten_in_one_change(run: Run) -> None:
    posts = posts_of(run)["post_id"].sample(20, seed=1).to_list()
    answer = ask(run, "\n".join(f"post:{one}" for one in posts))
    assert answer.removed["posts"] == 20
    assert not set(posts) & set(posts_of(run)["post_id"])
    assert len((run.folder / "forgotten.jsonl").read_text().splitlines()) == 1


def test_held_out_posts_were_learned_by_no_model(run: Run) -> None:
    held_out = pl.read_parquet(run.folder / "prepare/posts/held_out-*.parquet")
    answer = ask(run, held_out["post_id"][0])
    assert answer.models == ()
    assert answer.removed["samples"] >= 1
    assert {record["state"] for record in describe(run, verify=True)} == {"done", "absent"}


def test_what_is_forgotten_is_not_predicted_and_moves_no_other_sample(run: Run) -> None:
    from wingspan.train.data.batches import open_split

    before = open_split(run.folder / "prepare/tokens", "train").packed(64)
    gone = posts_of(run).filter(pl.col("author_id") == PSEUDONYM(prolific(run)))
    ask(run, prolific(run))
    posts = open_split(run.folder / "prepare/tokens", "train")
    after = posts.packed(64)
    holes = int((posts.bytes == 0).sum())
    assert 0 < holes <= len(gone)
    exported = export_megatron(run.folder / "prepare/tokens", run.folder / "exported")
    assert exported["train"] == len(posts.bytes) - holes
    assert len(before) == len(after)
    every = np.arange(len(before))
    one, other = before.batch(every), after.batch(every)
    changed = one.targets != other.targets
    assert (other.targets[changed] == -100).all()
    assert int(changed.sum()) == int(posts.length[posts.bytes == 0].sum())
    assert other.positions.equal(one.positions)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, nothing is tidied up."""


class Stopped(SilentProgress):
    """Ends a training after 20 steps, as a kill does."""

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Any]:
        self.left = 20 if name == "train" else 10**9
        yield self

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


def test_an_unfinished_training_goes_on_without_it(run: Run) -> None:
    shutil.rmtree(run.folder / "train")
    with pytest.raises(Killed):
        perform(run, "train", Stopped())
    with (run.folder / ".train.partial/ledger/steps.jsonl").open("a") as ledger:
        ledger.write('{"step": 20, "fir')  # as a kill leaves it
    answer = ask(run, prolific(run))
    assert answer.models[0].model == ".train.partial"
    perform(run, "train", SilentProgress())
    lines = [json.loads(line)["step"] for line in (run.folder / "train/ledger/steps.jsonl").read_text().splitlines()]
    assert lines.count(0) == 1  # it did not begin anew
    assert len(lines) > len(set(lines))  # it went on from its checkpoint
    assert state(run, stage_spec("train")) == "done"


def test_a_later_preparation_leaves_it_out(run: Run) -> None:
    author = prolific(run)
    ask(run, f"author:{author}")
    kept = posts_of(run)
    perform(run, "prepare", SilentProgress(), force=True)
    report = json.loads((run.folder / "prepare/report.json").read_text())
    assert PSEUDONYM(author) not in posts_of(run)["author_id"].to_list()
    assert report["refused"]["forgotten"] >= 3
    assert report["tombstones"]["found"] == 0
    assert set(kept["post_id"]) <= set(posts_of(run)["post_id"])  # near-duplicates of it may stand in now
    (base, *_) = ask(run, kept["post_id"][0]).models
    assert (base.model, base.certain) == ("train/base", False)  # what it was trained on is no more


def test_asked_again_the_answer_is_the_same(run: Run) -> None:
    first = ask(run, prolific(run))
    files = everything(run.folder)
    again = ask(run, *first.requests)
    assert asdict(again) | {"proof": ""} == asdict(first) | {"proof": ""}
    assert everything(run.folder) == files


def test_a_dry_run_changes_nothing(run: Run) -> None:
    files = everything(run.folder)
    answer = ask(run, prolific(run), dry_run=True)
    assert everything(run.folder) == files
    assert answer.removed == ask(run, *answer.requests).removed


@pytest.mark.parametrize("request_", ["", "# nobody", "domain:example.org", "https://example.org/*"])
def test_nothing_but_a_post_or_an_author_can_be_forgotten(run: Run, request_: str) -> None:
    with pytest.raises(InputError, match="names no post"):
        ask(run, request_)


def test_with_another_key_no_author_is_looked_for_in_vain(run: Run) -> None:
    with lock(run, "test"), pytest.raises(InputError, match="pseudonym key"):
        forget(run, ["u1"], pseudonymiser(b"another key" * 3))


def kill_at(patch: pytest.MonkeyPatch, instant: int) -> list[str]:
    """Die at the n-th change of a file system; returns the changes made."""
    made: list[str] = []

    def dying(change: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            made.append(name)
            if len(made) == instant:
                raise Killed
            return change(*arguments, **options)

        return counted

    for owner, name in (
        (Path, "rename"), (Path, "replace"), (Path, "write_text"), (Path, "unlink"), (Path, "mkdir"),
        (shutil, "rmtree"), (pq.ParquetWriter, "write_table"), (PostIndex, "remove"),
    ):  # fmt: skip
        patch.setattr(owner, name, dying(getattr(owner, name), name))
    return made


def test_killed_at_any_instant_the_same_request_ends_the_same(made: Run, tmp_path: Path) -> None:
    author = prolific(made)
    undisturbed = copied(made, tmp_path / "undisturbed", PREPARED)
    with pytest.MonkeyPatch.context() as patch:
        changes = kill_at(patch, 0)
        answer = ask(undisturbed, author)
    expected = everything(undisturbed.folder)
    assert len(changes) > 20
    for instant in range(1, len(changes) + 1, 5):
        run = copied(made, tmp_path / "killed", PREPARED)
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, instant)
            with pytest.raises(Killed):
                ask(run, author)
        assert ask(run, author).removed == answer.removed
        assert everything(run.folder) == expected, f"killed at {changes[instant - 1]}, change {instant}"
        shutil.rmtree(run.folder)


@pytest.mark.slow
def test_sigkill_in_the_middle_is_made_good_by_the_same_command(made: Run, tmp_path: Path) -> None:
    author = prolific(made)
    undisturbed = copied(made, tmp_path / "undisturbed")
    ask(undisturbed, author)
    run = copied(made, tmp_path / "killed")
    command = [sys.executable, "-m", "wingspan", "forget", author, str(run.folder), "--json"]
    die = "import os, pathlib, runpy, sys; r = pathlib.Path.replace; n = iter(range(9)); sys.argv = sys.argv[1:]\n"
    die += "def replace(self, target):\n if next(n) == 4: os.kill(os.getpid(), 9)\n return r(self, target)\n"
    die += "pathlib.Path.replace = replace; runpy.run_module('wingspan', run_name='__main__')"
    killed = subprocess.run([sys.executable, "-c", die, *command[2:]], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (run.folder / ".amendment").is_dir()
    told = subprocess.run(command, capture_output=True, check=True, text=True)
    assert json.loads(told.stdout)["proof"]["found"] == 0
    left_out = {"forgotten.jsonl"}
    assert {name: one for name, one in everything(run.folder).items() if name not in left_out} == {
        name: one for name, one in everything(undisturbed.folder).items() if name not in left_out
    }
