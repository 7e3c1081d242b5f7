"""Tags of posts, and evaluation texts found in them."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingspan.errors import InputError
from wingspan.prepare.repeats.decontamination import EvaluationIndex, write_index
from wingspan.prepare.text.quality import RULES, judge


def tags(*texts: str) -> list[list[str]]:
    return judge(pl.Series(texts, dtype=pl.String))["tags"].to_list()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ok", []),
        ("lol", []),
        ("👍👍", []),
        ("I loved the concert last night, see you there again", []),
        ("New on the blog today, how I bake bread without an oven https://blog.example/bread #baking", []),
        ("@ann @bob @carl see you all at eight, bring something to drink", []),
        ("今天天气很好，我们去公园吧", []),
        ("今天天气很好，我们去公园吧 #a #b #c #d #e", []),
        ("วันนี้อากาศดีมากเราไปสวนสาธารณะกันเถอะครับแล้วกลับมากินข้าวที่บ้านด้วยกันกับทุกคนในครอบครัวของเรา", []),
        ("noooooo that is so sad", []),
        ("a https://a.example b https://b.example c https://c.example", ["link farm"]),
        ("#look https://a.example", ["link alone"]),
        ("great #a #b #c #d #e #f", ["hashtag flood"]),
        ("@a @b @c @d @e hi", ["handle flood"]),
        ("yes 🔥🔥🔥🔥🔥🔥🔥🔥🔥🔥", ["emoji flood"]),
        ("buy buy buy buy buy buy buy buy now", ["repetition"]),
        ("hahahaaaaaaaaaaaaaaaaaaaaaaaa", ["repetition"]),
        ("WHY IS NOBODY TALKING ABOUT THIS AT ALL", ["shouting"]),
        ("URGENT! You have won a £2000 prize. To claim call 09061701461 now. Txt STOP to end. 150p/msg", ["spam"]),
        ("", []),
        ("He said that nobody in the whole town had ever seen anything like the new libr…", ["cut short"]),
        ("He said that nobody in the whole town had ever seen such a libr… https://t.example/x", ["cut short"]),
        ("well…", []),
    ],
)
def test_tags_of_a_post(text: str, expected: list[str]) -> None:
    assert tags(text) == [expected]


def test_abuse_is_tagged() -> None:
    assert tags("shut up you stupid bitch", "you are a wonderful friend") == [["toxic"], []]


@given(st.lists(st.text(max_size=40), max_size=6))
def test_a_post_is_judged_alike_in_every_batch(texts: list[str]) -> None:
    alone = [judge(pl.Series([text])).row(0) for text in texts]
    assert judge(pl.Series(texts, dtype=pl.String)).rows() == alone
    assert all(set(row[0]) <= set(RULES) for row in alone)


def test_skeletons_leave_out_what_templates_vary() -> None:
    judged = judge(pl.Series(["Hello @ann, you won 17 points!", "hello @bob you won 4 points", "hello you lost"]))
    assert judged["skeleton"].n_unique() == 2
    assert judged["skeleton"][0] == judged["skeleton"][1]


LONG = "Natalia sold clips to forty eight of her friends in April, and then she sold half as many in May"


@pytest.fixture
def index(tmp_path: Path) -> EvaluationIndex:
    (tmp_path / "questions.jsonl").write_text(json.dumps({"q": LONG, "a": ["72"]}) + "\n" + json.dumps({"q": "no"}))
    with gzip.open(tmp_path / "short.csv.gz", "wt", encoding="utf-8") as stream:
        stream.write('id,text\n1,"The man broke his toe."\n2,"今天天气很好，我们去公园吧"\n')
    write_index([tmp_path / name for name in ("questions.jsonl", "short.csv.gz")], tmp_path / "index.npz")
    return EvaluationIndex.open(tmp_path / "index.npz")


@pytest.mark.parametrize(
    ("text", "item"),
    [
        (LONG, "questions.jsonl#1"),
        ("Solve: NATALIA sold   clips to forty-eight of her friends — please! #math", "questions.jsonl#1"),
        ("she sold clips to forty eight friends in April", None),
        ("the man broke his toe", "short.csv.gz#2"),
        ("the man broke his toe yesterday", None),
        ("今天天气很好我们去公园吧", "short.csv.gz#3"),
        ("72", None),
        ("", None),
    ],
)
def test_evaluation_texts_are_found_in_posts(index: EvaluationIndex, text: str, item: str | None) -> None:
    assert index.find(pl.Series([text, "nothing of the kind is in this one at all"])).to_list() == [item, None]


@given(st.integers(0, 11), st.text(st.characters(categories=["L"]), min_size=1, max_size=9))
def test_any_eight_words_of_a_long_item_are_found(start: int, other: str) -> None:
    words = LONG.split()[start : start + 8]
    assert _index_of_long().find(pl.Series([" ".join([other, *words, other])]))[0] == "long.txt#1"


@cache
def _index_of_long() -> EvaluationIndex:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "long.txt"
        path.write_text(LONG)
        write_index([path], path.with_suffix(".npz"))
        return EvaluationIndex.open(path.with_suffix(".npz"))


def test_an_evaluation_set_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="has no text"):
        write_index([tmp_path / "empty.jsonl"], tmp_path / "index.npz")
