from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from wingspan.errors import InputError
from wingspan.post import CONVERSATION_SCHEMA, POST_SCHEMA
from wingspan.prepare.stage import work
from wingspan.progress import SilentProgress
from wingspan.project import Project
from wingspan.workspace import Run, StageContext

from .conftest import OPINIONS, PROJECT, SUBJECTS, TOWNS, Prepare, platform_posts, write_lines


def parquet(folder: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(file) for file in sorted(folder.glob("*.parquet"))])


def funnel_adds_up(report: dict[str, Any]) -> bool:
    parts = [report, *report["sources"]]
    return all(one["read"] == one["kept"] + sum(one["refused"].values()) + one["damaged"] for one in parts)


def test_a_platform_is_prepared_to_the_contracts(prepare: Prepare) -> None:
    output, report = prepare()
    posts = parquet(output / "posts")
    assert funnel_adds_up(report)
    assert report["kept"] == posts.height > 250
    table = pq.read_table(output / "posts/train-00000.parquet")
    assert table.schema.names == [*POST_SCHEMA.names, "lang", "tags"]
    assert pq.read_table(output / "conversations/train-00000.parquet").schema.equals(CONVERSATION_SCHEMA)
    assert parquet(output / "labels").columns == ["post_id", "value", "split"]
    assert report["conversations"]["train"]["grounded"] == 30
    assert report["conversations"]["train"]["label"] == 30
    assert report["conversations"]["train"]["dialogue"] > 40
    index = json.loads((output / "tokens/index.json").read_text())
    assert sum(shard["documents"] for shard in index["splits"]["train"]) == report["split"]["train"]


def test_held_out_and_train_share_no_author_no_post_and_no_conversation(prepare: Prepare) -> None:
    output, _ = prepare()
    train, held_out = (pl.read_parquet(output / f"posts/{split}-00000.parquet") for split in ("train", "held_out"))
    assert not set(train["author_id"]) & set(held_out["author_id"])
    for split, posts in (("train", train), ("held_out", held_out)):
        rests_on = pl.read_parquet(output / f"conversations/{split}-00000.parquet")["post_ids"].explode().drop_nulls()
        assert set(rests_on) <= set(posts["post_id"])
        shard = pl.read_parquet(output / f"tokens/{split}-00000.documents.parquet")
        assert shard["post_id"].to_list() == posts["post_id"].to_list()


def test_two_runs_are_identical_to_the_byte(prepare: Prepare) -> None:
    one, _ = prepare("one")
    other, _ = prepare("other")
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert len(files) >= 12
    for file in files:
        assert (one / file).read_bytes() == (other / file).read_bytes(), file


def test_nothing_is_read_without_rights(tmp_path: Path) -> None:
    settings = {name: section for name, section in PROJECT.items() if name != "rights"}
    run = Run(tmp_path, Project.model_validate(settings), tmp_path / "a folder that does not exist")
    with pytest.raises(InputError, match="on what grounds"):
        work(StageContext(run, tmp_path, SilentProgress()))


def test_deleted_posts_and_opt_outs_are_nowhere(platform: Path, prepare: Prepare) -> None:
    posts = platform_posts()
    posts[5]["deleted_at"] = "2024-01-01T00:00:00Z"
    posts[5]["text"] = "Zanzibar was deleted by its author"
    posts[60]["text"] += " Timbuktu"
    write_lines(platform / "posts.jsonl", posts)
    repeated = {"post_id": posts[5]["post_id"], "text": "Zanzibar again, from an older archive", "author_id": "a5"}
    write_lines(platform / "older.jsonl", [repeated])
    (platform / "out.txt").write_text(f"# people who asked\n{posts[60]['post_id']}\na7\n\n")
    source = {"name": "older", "path": "older.jsonl", "licence": "made up", "reader": "jsonl"}
    output, report = prepare(posts=[source, *PROJECT["prepare"]["posts"]], opt_outs="out.txt")
    assert report["tombstones"]["found"] == 0
    assert report["tombstones"]["reasons"] == {"deleted": 1, "opted out": 2}
    assert report["refused"]["deleted"] == 2
    by_a7 = sum(post["author_id"] == "a7" for post in posts)
    assert report["refused"]["opted out"] == by_a7 + 1
    assert funnel_adds_up(report)
    kept = parquet(output / "posts")
    gone = {posts[5]["post_id"], posts[60]["post_id"]}
    assert not gone & set(kept["post_id"])
    assert not gone & set(kept["parent_id"].drop_nulls())
    content = b"".join(path.read_bytes() for path in output.rglob("*.json*"))
    words = [*kept["text"], *(turn["content"] for row in parquet(output / "conversations")["messages"] for turn in row)]
    assert not any("Zanzibar" in text or "Timbuktu" in text for text in words)
    assert b"Zanzibar" not in content
    assert b"Timbuktu" not in content


def test_damaged_and_private_lines_are_counted_and_leave_no_trace(platform: Path, prepare: Prepare) -> None:
    with (platform / "posts.jsonl").open("ab") as stream:
        stream.write(b'{"post_id": "x1", "text": "Atlantis", "visibility": "direct"}\n{broken\n\xff\xfe\0\n[1]\n')
        stream.write(b'{"post_id": "1000", "text": "the id of another post"}\n{"post_id": "x2", "text": "&nbsp;"}\n')
    output, report = prepare()
    assert funnel_adds_up(report)
    assert (report["read"], report["damaged"]) == (326, 3)
    assert {name: report["refused"][name] for name in ("not public", "repeated id", "too short")} == {
        "not public": 1,
        "repeated id": 1,
        "too short": 1,
    }
    assert not any(b"Atlantis" in path.read_bytes() for path in output.rglob("*.json"))


def test_people_become_pseudonyms_in_every_artefact(platform: Path, prepare: Prepare) -> None:
    posts = platform_posts()
    posts[0] |= {"text": "ask @Wilhelmina or mail wil@helmina.example about the garden", "mentions": ["Wilhelmina"]}
    posts[0]["urls"] = ["https://platform.example/Wilhelmina"]
    posts[1] |= {"text": posts[0]["text"] + "!"}
    write_lines(platform / "posts.jsonl", posts)
    output, report = prepare()
    row = parquet(output / "posts").filter(pl.col("post_id") == "1000").row(0, named=True)
    assert row["text"].startswith(f"ask @{row['mentions'][0]} or mail [email]")
    assert report["personal_data"] == {"email": 2, "handle": 2}
    assert report["samples"]["duplicate"][0]["repeats"] == "1000"
    everything = b"".join(path.read_bytes().lower() for path in output.rglob("*") if path.is_file())
    assert b"helmina" not in everything
    assert not set(parquet(output / "posts")["author_id"]) & {f"a{number}" for number in range(60)}


def test_an_author_without_a_key_differs_with_another_key(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    one = parquet(prepare("one")[0] / "posts")
    monkeypatch.setenv("WINGSPAN_PSEUDONYM_KEY", "another key")
    other = parquet(prepare("other")[0] / "posts")
    assert one["post_id"].to_list() == other["post_id"].to_list()
    assert not set(one["author_id"]) & set(other["author_id"])


@pytest.mark.parametrize(
    ("prepare_settings", "problem"),
    [
        ({"posts": []}, "names no posts"),
        ({"posts": [PROJECT["prepare"]["posts"][0]] * 2}, "two sources are named 'posts'"),
        ({"labels": [PROJECT["prepare"]["labels"][0] | {"posts": "pots"}]}, "no source of posts 'pots'"),
        ({"labels": [PROJECT["prepare"]["labels"][0] | {"value": 9}]}, "no label could be read"),
        ({"opt_outs": "missing.txt"}, "no such file"),
        ({"min_characters": 100_000}, "no post is left"),
    ],
)
def test_wrong_input_is_said(prepare: Prepare, prepare_settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        prepare(**prepare_settings)


def test_tags_decide_nothing_but_what_the_policy_says(platform: Path, prepare: Prepare) -> None:
    posts = platform_posts()
    posts[0]["text"] = "URGENT! You have won a £2000 prize. To claim call 09061701461 now. Txt STOP to end. 150p/msg"
    posts[1]["text"] = "WHY IS NOBODY TALKING ABOUT THIS AT ALL"
    posts[2]["text"] = "#a #b #c #d #e #f hello"
    write_lines(platform / "posts.jsonl", posts)
    output, report = prepare()
    assert (report["refused"]["spam"], report["refused"]["hashtag flood"], report["tags"]["shouting"]) == (1, 1, 1)
    assert parquet(output / "posts").filter(pl.col("post_id") == "1001")["tags"].to_list() == [["shouting"]]
    assert sum(sum(counts.values()) for counts in report["by_language"].values()) == report["read"]
    samples = pl.read_parquet(output / "samples.parquet")
    assert samples.filter(pl.col("rule") == "spam")["post_id"].to_list() == ["1000"]
    assert samples.filter(~pl.col("dropped"))["rule"].to_list() == ["shouting"]
    assert "[phone]" in report["samples"]["spam"][0]["text"]
    _, lenient = prepare("lenient", drop=["shouting"])
    assert lenient["refused"] == {"shouting": 1}
    assert lenient["tags"] == {"spam": 1, "hashtag flood": 1}


def test_accounts_and_templates_are_judged_as_groups(platform: Path, prepare: Prepare) -> None:
    posts = platform_posts()
    for number in range(60):  # one that repeats itself, one that floods
        posts.append({"post_id": f"8{number:03}", "text": f"Now it is {number} degrees outside", "author_id": "bot"})
        text = f"{OPINIONS[number % 5].format(SUBJECTS[number % 7], TOWNS[number % 6])} said {chr(97 + number % 26)}"
        posts.append(
            {"post_id": f"9{number:03}", "text": text, "author_id": "fan", "created_at": "2024-05-01T10:00:00Z"}
        )
    for number in range(6):
        text = f"Copy this to your own page if you think that libraries should stay open {number}"
        posts.append({"post_id": f"7{number:03}", "text": text, "author_id": f"c{number}"})
    write_lines(platform / "posts.jsonl", posts)
    _, report = prepare(account_posts_per_day=50)
    refused = {name: report["refused"].get(name, 0) for name in ("repeating account", "flooding account", "copypasta")}
    assert refused == {"repeating account": 60, "flooding account": 60, "copypasta": 6}


def test_evaluation_texts_are_left_out_of_posts_and_dialogues(platform: Path, prepare: Prepare) -> None:
    posts = platform_posts()
    (platform / "exam.jsonl").write_text(
        json.dumps({"question": posts[7]["text"]}) + "\n" + json.dumps({"question": "What is 12 and 12?"}) + "\n"
    )
    output, report = prepare(evaluation_sets=["exam.jsonl"])
    found = report["evaluation_sets"]
    assert {"post_id": "1007", "item": "exam.jsonl#1"} in found
    assert [one["item"] for one in found if "conversation_id" in one] == ["exam.jsonl#2"]
    assert "1007" not in set(parquet(output / "posts")["post_id"])
    assert report["dialogues"][0]["refused"]["in an evaluation set"] == 1


def test_a_mixture_repeats_and_thins_and_keeps_threads_together(prepare: Prepare) -> None:
    _, plain = prepare("plain")
    output, report = prepare("mixed", mixture={"epochs": {"posts": 2.5}})
    assert set(report["mixture"].values()) == {2.5}
    documents = pl.concat(
        [pl.read_parquet(file) for file in sorted((output / "tokens").glob("train*.documents.parquet"))]
    )
    times = documents["post_id"].value_counts()["count"]
    assert set(times) == {2, 3}
    assert documents.height == pytest.approx(2.5 * plain["split"]["train"], rel=0.1)
    assert report["tokens"]["held_out"] == plain["tokens"]["held_out"]
    assert documents["post_id"].to_list() != sorted(documents["post_id"])
