"""A run folder: complete or absent stages, fingerprints, the lock, damaged files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wingspan.errors import DamagedArtefact, InputError, WorkError
from wingspan.progress import SilentProgress
from wingspan.workspace import Run, StageContext, StageSpec, find_run, is_locked, lock, open_run, run_stage

PROJECT = '[project]\nname = "p"\n[model]\nstart = "scratch"\ndepth = 2\n[train]\ntokens = 100\n'

FIRST = StageSpec("first", "?", ("train",), (), "nowhere:work")
SECOND = StageSpec("second", "?", (), ("first/words",), "nowhere:work")


def write_words(context: StageContext) -> Mapping[str, Any]:
    (context.output / "words").mkdir()
    (context.output / "words" / "a.txt").write_text(f"{context.project.train.tokens}")
    (context.output / "clock.txt").write_text("different at every run")
    return {"words": 1}


def count_letters(context: StageContext) -> Mapping[str, Any]:
    text = (context.read("first/words") / "a.txt").read_text()
    (context.output / "n.txt").write_text(str(len(text)))
    return {"letters": len(text)}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "wingspan.toml").write_text(PROJECT)
    return open_run(tmp_path / "project", runs=tmp_path / "runs")


def perform(run: Run, spec: StageSpec, work: Any, **options: Any) -> Any:
    return run_stage(run, spec, work, SilentProgress(), **options)


def test_a_stage_runs_once_and_is_skipped_while_its_fingerprint_holds(run: Run) -> None:
    assert not perform(run, FIRST, write_words).skipped
    assert perform(run, FIRST, write_words).skipped
    assert not perform(run, FIRST, write_words, force=True).skipped
    manifest = json.loads((run.stage("first") / "manifest.json").read_text())
    assert set(manifest["outputs"]) == {"words/a.txt", "clock.txt"}
    assert manifest["summary"] == {"words": 1}
    assert manifest["wall_s"] >= 0
    assert manifest["peak_memory_bytes"] > 1e6
    assert manifest["energy"]["basis"] in ("measured", "predicted")


def test_only_settings_and_artefacts_that_matter_make_a_stage_stale(run: Run, tmp_path: Path) -> None:
    perform(run, FIRST, write_words)
    perform(run, SECOND, count_letters)
    other_seed = open_run(tmp_path / "project", ["align.epochs=3"], tmp_path / "runs")
    assert perform(other_seed, FIRST, write_words).skipped
    more = open_run(tmp_path / "project", ["train.tokens=1000"], tmp_path / "runs")
    assert not perform(more, FIRST, write_words).skipped
    assert perform(more, SECOND, count_letters).manifest["summary"] == {"letters": 4}


def test_a_changed_file_beside_the_artefact_that_is_read_changes_nothing(run: Run) -> None:
    perform(run, FIRST, write_words)
    perform(run, SECOND, count_letters)

    def another_clock(context: StageContext) -> Mapping[str, Any]:
        write_words(context)
        (context.output / "clock.txt").write_text("later")
        return {}

    perform(run, FIRST, another_clock, force=True)
    assert perform(run, SECOND, count_letters).skipped


def test_a_missing_earlier_stage_is_named(run: Run) -> None:
    with pytest.raises(InputError, match="stage 'first' has not been run"):
        perform(run, SECOND, count_letters)


def test_an_artefact_that_may_be_absent_is_followed_where_it_is_there(run: Run) -> None:
    spec = replace(SECOND, reads=("first/words", "first/extras?"))
    perform(run, FIRST, write_words)
    perform(run, spec, count_letters)
    assert perform(run, spec, count_letters).skipped

    def with_extras(context: StageContext) -> Mapping[str, Any]:
        (context.output / "extras").mkdir()
        (context.output / "extras" / "more.txt").write_text("more")
        return write_words(context)

    perform(run, FIRST, with_extras, force=True)
    assert not perform(run, spec, count_letters).skipped


def test_a_flipped_byte_is_found_and_the_file_named(run: Run) -> None:
    perform(run, FIRST, write_words)
    victim = run.stage("first") / "words" / "a.txt"
    victim.write_bytes(bytes([victim.read_bytes()[0] ^ 1]) + victim.read_bytes()[1:])
    for spec, work in ((FIRST, write_words), (SECOND, count_letters)):
        with pytest.raises(DamagedArtefact) as caught:
            perform(run, spec, work)
        assert caught.value.where == str(victim)
    victim.unlink()
    with pytest.raises(WorkError, match="missing"):
        perform(run, FIRST, write_words)


def test_a_failed_stage_leaves_no_stage_folder_and_the_next_run_starts_afresh(run: Run) -> None:
    def fail(context: StageContext) -> Mapping[str, Any]:
        (context.output / "half.txt").write_text("half")
        raise OSError(28, "No space left on device", str(context.output / "half.txt"))

    with pytest.raises(OSError, match="No space"):
        perform(run, FIRST, fail)
    assert not run.stage("first").exists()
    perform(run, FIRST, write_words)
    assert not (run.stage("first") / "half.txt").exists()


def test_a_resumable_stage_finds_its_unfinished_folder_unless_its_settings_changed(run: Run, tmp_path: Path) -> None:
    resumable = replace(FIRST, resumable=True)

    def fail_first(context: StageContext) -> Mapping[str, Any]:
        mark = context.output / "checkpoint"
        if mark.exists():
            return {"resumed": True}
        mark.touch()
        raise WorkError("killed")

    with pytest.raises(WorkError):
        perform(run, resumable, fail_first)
    other = open_run(tmp_path / "project", ["train.tokens=7"], tmp_path / "runs")
    with pytest.raises(WorkError):
        perform(other, resumable, fail_first)
    assert perform(other, resumable, fail_first).manifest["summary"] == {"resumed": True}


@pytest.mark.parametrize("instant", ["before the old folder moves", "between the two renames"])
def test_a_kill_while_publishing_is_repaired_by_the_next_run(run: Run, instant: str) -> None:
    perform(run, FIRST, write_words)
    partial = run.folder / ".first.partial"
    run.stage("first").rename(partial)
    if instant == "before the old folder moves":
        run.stage("first").mkdir()
    else:
        (run.folder / ".first.old").mkdir()
    assert perform(run, FIRST, write_words).skipped
    assert not partial.exists()
    assert not (run.folder / ".first.old").exists()


def test_a_second_process_on_the_folder_is_refused_with_the_holder_named(run: Run) -> None:
    program = textwrap.dedent(f"""
        from pathlib import Path
        from wingspan.workspace import find_run, lock
        with lock(find_run(Path({str(run.folder)!r})), "wingspan train"):
            print("held", flush=True)
            input()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_locked(run)
        with pytest.raises(WorkError, match=rf"in use by process {holder.pid} \(wingspan train\)"), lock(run, "run"):
            pass
        holder.kill()
    with lock(run, "run"):  # a dead holder holds nothing
        pass
    assert not is_locked(run)


def test_the_run_folder_alone_is_enough(run: Run, tmp_path: Path) -> None:
    perform(run, FIRST, write_words)
    again = find_run(run.folder)
    assert again.project == run.project
    assert again.base == tmp_path / "project"
    assert perform(again, FIRST, write_words).skipped


def test_looking_touches_nothing(tmp_path: Path) -> None:
    (tmp_path / "wingspan.toml").write_text(PROJECT)
    find_run(tmp_path, runs=tmp_path / "runs")
    assert os.listdir(tmp_path) == ["wingspan.toml"]
