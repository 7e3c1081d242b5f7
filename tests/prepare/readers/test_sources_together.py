from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from generate_archives import CANARY, json_lines, pack, stream_grab, v1_tweet, x_archive

PROJECT: dict[str, Any] = {
    "project": {"name": "archives", "seed": 4},
    "rights": {"basis": "public-domain", "statement": "All of it was made up for a test."},
    "model": {"start": "scratch", "depth": 2, "vocab": 300},
    "prepare": {"held_out": 0.2, "near_duplicate_similarity": 1.0, "grounded_dialogues": 0, "label_dialogues": 0},
}


def test_archives_go_through_the_stage_and_a_notice_in_one_removes_from_another(
    platform: Path, prepare: Callable[..., tuple[Path, dict[str, Any]]]
) -> None:
    files, of_archive = x_archive()
    gone = "1700000000000000004"
    pack(files, platform / "twitter.zip")
    grab, of_grab = stream_grab()
    grab["2014/04/07/10/09.json"] = json_lines(
        [{"delete": {"status": {"id_str": gone}}}, v1_tweet(900, "the last one")]
    )
    pack(grab, platform / "day.tar")
    sources = [
        {"name": "archive", "path": "twitter.zip", "licence": "made up", "reader": "x-archive"},
        {"name": "grab", "path": "day.tar", "licence": "made up", "reader": "twitter-v1"},
    ]
    output, report = prepare(project=PROJECT, posts=sources)
    assert report["read"] == of_archive.read + of_grab.read + 2
    assert report["read"] == report["kept"] + report["damaged"] + sum(report["refused"].values())
    posts = pl.concat([pl.read_parquet(path) for path in sorted((output / "posts").glob("*.parquet"))])
    assert "400000000000000900" in posts["post_id"]
    assert not set(posts["post_id"]) & ({gone} | of_archive.tombstones | of_grab.tombstones)
    assert gone in of_archive.kept
    for path in output.rglob("*"):
        assert path.is_dir() or CANARY.encode() not in path.read_bytes()
    assert CANARY not in "".join(posts["text"])
