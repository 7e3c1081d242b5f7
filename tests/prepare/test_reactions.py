"""What readers did with posts goes where the posts go, and under the readers' pseudonyms."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from wingspan.errors import InputError
from wingspan.prepare.privacy.tombstones import Tombstones
from wingspan.prepare.reactions import publish_reactions
from wingspan.progress import SilentProgress
from wingspan.project import Project
from wingspan.workspace import Run, StageContext


def context(folder: Path, path: str) -> StageContext:
    source = {"name": "likes", "path": path, "licence": "own"}
    project = Project.model_validate(
        {"project": {"name": "x"}, "model": {"depth": 2}, "prepare": {"reactions": [source]}}
    )
    for split, ids in (("train", ["1", "2"]), ("held_out", ["3"])):
        (folder / "posts").mkdir(exist_ok=True)
        pl.DataFrame({"post_id": ids}).write_parquet(folder / f"posts/{split}-00000.parquet")
    return StageContext(Run(folder, project, folder), folder, SilentProgress())


def stones() -> Tombstones:
    return Tombstones.build([], ["author:gone"], (), "user_{}".format)


def test_reactions_follow_posts_and_readers(tmp_path: Path) -> None:
    rows = [
        "post_id,signal,count,reader_id",
        "1,impression,90,",
        "1,report,1,gone",
        "2,favorite,1,ann",
        "9,favorite,1,ann",
    ]
    (tmp_path / "r.csv").write_text("\n".join([*rows, "3,mute,0,bob", "3,favorite,2,bob"]))
    [counted] = publish_reactions(context(tmp_path, "r.csv"), "user_{}".format, stones())
    assert counted == {"name": "likes", "licence": "own", "read": 5, "kept": 3}
    found = pl.read_parquet(tmp_path / "reactions/likes.parquet")
    assert found.rows() == [
        ("1", None, "impression", 90.0),
        ("2", "user_ann", "favorite", 1.0),
        ("3", "user_bob", "favorite", 2.0),
    ]


def test_a_file_without_the_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("post_id,signal\n1,favorite\n")
    with pytest.raises(InputError, match="no column count"):
        publish_reactions(context(tmp_path, "r.csv"), str, stones())
    (tmp_path / "r.xml").write_text("<a/>")
    with pytest.raises(InputError, match="no format of reactions"):
        publish_reactions(context(tmp_path, "r.xml"), str, stones())
