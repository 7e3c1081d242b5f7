from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wingspan.errors import InputError
from wingspan.knowledge.citations import check_citations
from wingspan.knowledge.grounding import NO_SUPPORT, SourcePost
from wingspan.knowledge.index import PostIndex
from wingspan.knowledge.labels import LABEL_CLASSES, label_class, label_question
from wingspan.prepare.conversations.conversation import Conversation, exchange
from wingspan.prepare.conversations.dialogues import in_served_form, read_dialogues, split_dialogues
from wingspan.prepare.conversations.forest import conversations_of, reply_chains, thread_conversations
from wingspan.prepare.conversations.grounded import grounded_conversations, quote, source_posts, topic_words
from wingspan.prepare.conversations.labels import label_conversations
from wingspan.project import DialogueSource

from .flows import dataset, flow_in, rows

POSTS = [
    f"{opening} the {subject} in {town}{closing}"
    for town in ("Oslo", "Lyon", "Porto", "Ghent")
    for subject in ("coffee", "weather", "garden", "library", "orchestra")
    for opening, closing in (
        ("I really enjoyed", " this morning!"),
        ("@ann Nobody understands", ", does it get worse?"),
    )
]


def frame(texts: list[str], **columns: Any) -> pl.DataFrame:
    return pl.DataFrame({"post_id": [f"p{number}" for number in range(len(texts))], "text": texts, **columns})


def grounded(count: int, seed: int = 1) -> list[Conversation]:
    return ask_about(POSTS, count, seed)


def ask_about(texts: list[str], count: int, seed: int) -> list[Conversation]:
    posts = frame(texts)
    index = PostIndex()
    index.add(source_posts(posts))
    return grounded_conversations(posts, index, "train", count, "Cite.", 4, np.random.default_rng(seed))


def sources(conversation: Conversation) -> list[SourcePost]:
    lines = next(one["content"] for one in conversation.messages if one["role"] == "posts").splitlines()
    return [SourcePost(str(n), line.partition("] ")[2]) for n, line in enumerate(lines) if line.startswith("[")]


def test_every_citation_of_every_grounded_answer_holds() -> None:
    conversations = grounded(40)
    assert len(conversations) == 40
    for one in conversations:
        answer = one.messages[-1]["content"]
        citations = check_citations(answer, sources(one))
        assert all(citation.supported for citation in citations)
        assert bool(citations) == (answer != NO_SUPPORT)
        assert [message["role"] for message in one.messages] == ["system", "posts", "user", "assistant"]
        assert len(one.post_ids) == len(sources(one))


def test_quotes_are_the_posts_own_words() -> None:
    for one in grounded(40):
        shown = " ".join(post.text for post in sources(one))
        for part in one.messages[-1]["content"].replace("« ", "“").replace(" »", "”").split("“")[1:]:
            assert part.partition("”")[0].rstrip("…") in shown


def test_some_questions_have_no_answer_and_then_no_shown_post_is_about_them() -> None:
    unanswered = [one for one in grounded(60) if one.messages[-1]["content"] == NO_SUPPORT]
    assert unanswered
    for one in unanswered:
        question = one.messages[-2]["content"].lower()
        asked = [topic for topic in topic_words(POSTS) if topic in question]
        assert not any(topic in post.text.lower() for topic in asked for post in sources(one))


def test_grounded_conversations_depend_on_the_seed_alone() -> None:
    assert grounded(10) == grounded(10)
    assert grounded(10) != grounded(10, seed=2)


def test_posts_without_a_topic_make_no_questions() -> None:
    assert ask_about(["ok", "yes"], 5, seed=1) == []


def test_topics_are_nouns_that_a_few_posts_share() -> None:
    assert topic_words(POSTS)["coffee"] == "the coffee"
    assert topic_words(["I like Paris", "I am in Paris", "we met at Paris"]) == {"paris": "Paris"}
    assert "really" not in topic_words(POSTS)


def test_a_quote_is_short_and_has_no_handle_link_or_bracket() -> None:
    assert quote("RT @ann: What a garden. Love the garden walls!", "garden") == "Love the garden walls!"
    assert quote("the garden [1] is here", "garden") is None
    assert quote("Mr. J. Smith visits the U.S. garden today.", "garden") == "J. Smith visits the U.S. garden today."
    assert quote("what a shitty garden it is", "garden") is None
    long = quote("the garden " + "grows wonderfully " * 20, "garden")
    assert long is not None
    assert len(long) <= 101
    assert long.endswith(("grows…", "wonderfully…"))


def threads(rows: list[tuple[str, str | None, str]]) -> pl.DataFrame:
    """Rows of (post, parent, author)."""
    columns = zip(*rows, strict=True)
    posts, parents, authors = (list(column) for column in columns)
    return pl.DataFrame(
        {
            "post_id": posts,
            "parent_id": parents,
            "quote_of": [None] * len(posts),
            "author_id": authors,
            "text": [f"text of {post}" for post in posts],
            "likes": [0] * len(posts),
            "lang": ["en"] * len(posts),
            "source": ["s"] * len(posts),
        },
        schema_overrides={"parent_id": pl.String, "quote_of": pl.String},
    )


def test_replies_become_turns_and_an_author_in_a_row_one_turn() -> None:
    posts = threads([("1", None, "ann"), ("2", "1", "ann"), ("3", "2", "bob"), ("4", "3", "ann"), ("5", "gone", "cid")])
    (one,) = conversations_of(posts, "train")
    assert [message["content"] for message in one.messages] == ["text of 3", "text of 4"]
    assert [message["role"] for message in one.messages] == ["user", "assistant"]
    assert one.post_ids == ("3", "4")
    (whole,) = conversations_of(posts.filter(pl.col("post_id") != "4"), "train")
    assert whole.messages[0]["content"] == "text of 1\ntext of 2"


def test_a_quote_answers_what_it_quotes_unless_it_replies_to_another_post() -> None:
    posts = threads([("1", None, "ann"), ("2", None, "bob"), ("3", "gone", "cid")])
    quoting = posts.with_columns(quote_of=pl.Series([None, "1", "1"], dtype=pl.String))
    (one,) = conversations_of(quoting, "train")
    assert one.post_ids == ("1", "2")


parents = st.lists(st.integers(0, 40) | st.none(), min_size=1, max_size=40)


@given(parents)
def test_chains_use_a_post_at_most_once_and_follow_replies(parents: list[int | None]) -> None:
    posts = threads([(str(n), None if at is None else str(at), str(n % 3)) for n, at in enumerate(parents)])
    chains = reply_chains(posts)
    used = [row for chain in chains for row in chain]
    assert len(used) == len(set(used))
    for chain in chains:
        for above, below in pairwise(chain):
            assert posts["parent_id"][below] == posts["post_id"][above]


@pytest.mark.parametrize("most", [1 << 20, 8])
@given(parents, st.integers(0, 40))
@settings(max_examples=10, deadline=None)
def test_trees_that_lie_over_many_parts_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, most: int, parents: list[int | None], cut: int
) -> None:
    posts = threads([(str(n), None if at is None else str(at), str(n % 3)) for n, at in enumerate(parents)])
    flow = flow_in(tmp_path_factory.mktemp("flow"), most)
    parts = dataset(flow, "posts", posts[:cut].to_arrow(), posts[cut:].to_arrow())
    found = rows(thread_conversations(flow, "train", parts))
    ids = {row["conversation_id"] for row in found}
    assert len(ids) == len(found)
    assert ids == {one.conversation_id for one in conversations_of(posts, "train")}


def dialogues(path: Path, reader: str, **fields: Any) -> Any:
    return read_dialogues(DialogueSource(name="d", path="x", licence="made up", reader=reader, **fields), path)


CORPUS = """
conversations:
- - Who are you?
  - 1963
  - never read
- - Yes
  - No
- - only a question
- - {Question: misread}
  - answer
- just text
- - long
  - LONG
- - Who are you?
  - "1963"
"""


def test_chatterbot_entries_are_exchanges_and_the_rest_is_counted(tmp_path: Path) -> None:
    (tmp_path / "english").mkdir()
    (tmp_path / "english" / "a.yml").write_text(CORPUS.replace("LONG", "x" * 900))
    (tmp_path / "english" / "broken.yml").write_text("conversations: [[")
    read = dialogues(tmp_path, "chatterbot")
    assert [[turn["content"] for turn in one.messages] for one in read.dialogues] == [
        ["Who are you?", "1963"],
        ["Yes", "No"],
    ]
    assert (read.read, read.damaged, dict(read.refused)) == (8, 4, {"too long": 1, "duplicate": 1})
    assert read.dialogues[0].lang == "en"


def test_messages_must_alternate_and_end_with_the_assistant(tmp_path: Path) -> None:
    ask, answer = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
    system = {"role": "system", "content": "S"}
    good: list[Any] = [[ask, answer], [system, ask, answer, ask]]
    bad: list[Any] = [[answer, ask], [ask, ask, answer], [ask], "x", [ask, system, answer]]
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(json.dumps({"messages": one}) + "\n" for one in good + bad) + "{broken\n")
    read = dialogues(path, "messages")
    assert [len(one.messages) for one in read.dialogues] == [2, 3]
    assert (read.read, read.damaged) == (8, 6)


def test_an_unknown_dialogue_reader_or_language_is_named(tmp_path: Path) -> None:
    (tmp_path / "english").mkdir()
    with pytest.raises(InputError, match="chaterbot") as caught:
        dialogues(tmp_path, "chaterbot")
    assert "chatterbot" in caught.value.remedy
    with pytest.raises(InputError, match="no language 'klingon'"):
        dialogues(tmp_path, "chatterbot", languages=["klingon"])


def test_equal_openings_fall_on_one_side_and_the_limit_takes_from_every_file(tmp_path: Path) -> None:
    (tmp_path / "english").mkdir()
    for name in "ab":
        entries = [[f"{name} question {n // 2}{'!' * (n % 2)}", f"answer {n}"] for n in range(200)]
        (tmp_path / "english" / f"{name}.yml").write_text(json.dumps({"conversations": entries}))
    source = DialogueSource(name="d", path="x", licence="made up", reader="chatterbot", limit=40)
    found = split_dialogues(read_dialogues(source, tmp_path).dialogues, source, 1, 0.4)
    sides: dict[str, set[str]] = {}
    for one in found:
        sides.setdefault(one.messages[0]["content"].rstrip("!"), set()).add(one.split)
    assert all(len(one) == 1 for one in sides.values())
    train = [one.messages[0]["content"][0] for one in found if one.split == "train"]
    assert (train.count("a"), train.count("b")) == (20, 20)


def test_half_the_training_dialogues_that_no_post_answers_have_the_server_s_form() -> None:
    turns = [exchange(f"question {number}", "answer") for number in range(400)]
    made = [Conversation(one, "dialogue", "s", split) for one in turns for split in ("train", "held_out")]
    served = [in_served_form(one, "Be kind.", lambda question: question.endswith("0")) for one in made]
    changed = [one for one in served if len(one.messages) == 4]
    assert 0.35 < len(changed) / 400 < 0.55
    assert {(one.split, one.messages[1]["content"]) for one in changed} == {("train", "(no posts found)")}
    assert not any(one.messages[2]["content"].endswith("0") for one in changed)


def test_label_classes_meet_half_a_point_from_zero() -> None:
    classes = [label_class(value) for value in (-4, -0.5, -0.49, 0.49, 0.5)]
    assert classes == ["negative", "negative", "neutral", "neutral", "positive"]


def test_label_questions_are_balanced() -> None:
    values = [-3.0] * 30 + [0.0] * 5 + [3.0] * 40
    labelled = frame([f"post {n}" for n in range(75)], value=values, split=["train"] * 75, lang=["en"] * 75)
    made = label_conversations("sentiment", labelled, "train", 32, np.random.default_rng(1))
    answers = [one.messages[-1]["content"] for one in made]
    assert [answers.count(name) for name in LABEL_CLASSES] == [10, 5, 11]
    (number,) = made[0].post_ids
    assert made[0].messages[0]["content"] == label_question("sentiment", f"post {number[1:]}")
