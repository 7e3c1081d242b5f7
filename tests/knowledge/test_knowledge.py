"""The posts index, how posts come before the assistant, and what counts as a supported citation."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingspan.errors import WorkError
from wingspan.knowledge.citations import CitationMender, check_citations
from wingspan.knowledge.grounding import SourcePost, grounded_messages, posts_message
from wingspan.knowledge.index import PostIndex
from wingspan.knowledge.words import content_words

POSTS = [
    SourcePost("a", "I love coffee in the morning", "alice", 1_700_000_000_000),
    SourcePost("b", "Tea is better than coffee"),
    SourcePost("c", "Le café du matin, quel bonheur"),
    SourcePost("d", "Rain again. Where is my umbrella?"),
]


@pytest.fixture
def index() -> PostIndex:
    index = PostIndex()
    index.add(POSTS)
    return index


def test_search_finds_inflected_words_and_ignores_function_words(index: PostIndex) -> None:
    assert [post.post_id for post in index.search("What do people say about umbrellas?", 3)] == ["d"]
    assert {post.post_id for post in index.search("coffee", 3)} == {"a", "b"}
    assert [post.post_id for post in index.search("Que dit-on du cafe ?", 3)] == ["c"]
    assert index.search("what do you say about it", 3) == []
    assert index.search('" OR text MATCH * NEAR(', 3) == []


def test_a_post_keeps_its_author_and_time(index: PostIndex) -> None:
    assert index.get("a") == POSTS[0]
    assert index.get("nobody") is None


def test_a_removed_post_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "posts.sqlite"
    index = PostIndex(path)
    index.add([SourcePost(str(n), f"ordinary post {n}") for n in range(50)])
    index.add([SourcePost("secret", "xylophone confession")])
    assert index.remove(["secret", "unknown"]) == 1
    assert index.search("xylophone", 3) == []
    assert len(index) == 50
    index.close()
    assert b"xylophone" not in path.read_bytes()


def test_adding_a_post_again_replaces_it(index: PostIndex) -> None:
    index.add([SourcePost("a", "I prefer water now")])
    assert len(index) == len(POSTS)
    assert [post.post_id for post in index.search("coffee", 3)] == ["b"]


def test_a_damaged_index_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "posts.sqlite"
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(WorkError, match="made anew"):
        PostIndex(path)


@given(st.text(max_size=200))
def test_any_text_can_be_indexed_and_searched(text: str) -> None:
    index = PostIndex()
    index.add([SourcePost("x", text)])
    index.search(text, 1)


def test_posts_are_numbered_one_per_line() -> None:
    message = posts_message([SourcePost("a", "two\nlines"), SourcePost("b", "one")])
    assert message == {"role": "posts", "content": "[1] two lines\n[2] one"}
    roles = [message["role"] for message in grounded_messages("Be kind.", "Why?", POSTS)]
    assert roles == ["system", "posts", "user"]


def test_a_citation_is_supported_when_the_post_says_it() -> None:
    found = check_citations("One person writes: “I love coffee in the morning” [1]. Tea is better [2] [1].", POSTS)
    assert [(one.number, one.post_id, one.supported) for one in found] == [
        (1, "a", True),
        (2, "b", True),
        (1, "a", False),
    ]


def test_a_citation_of_a_post_that_was_not_retrieved_is_not_supported() -> None:
    (citation,) = check_citations("I love coffee [9].", POSTS)
    assert citation.post_id is None
    assert not citation.supported


def test_a_citation_without_a_claim_supports_nothing() -> None:
    assert [one.supported for one in check_citations("[1] [2]", POSTS)] == [False, False]
    assert check_citations("No citation at all.", POSTS) == []


def test_a_french_quotation_is_one_claim_up_to_its_closing_mark() -> None:
    (one,) = check_citations("Quelqu'un écrit : « Il pleut encore ! » [1].", [SourcePost("a", "Il pleut encore !")])
    assert one.supported
    assert one.claim.endswith("encore ! »")


@given(st.lists(st.integers(1, 60), max_size=6))
def test_a_wrong_number_is_mended_however_the_answer_is_cut_into_pieces(cuts: list[int]) -> None:
    answer = "One person writes: “I love coffee in the morning” [3]. Tea is better [2]. Snow falls [1] [x"
    mender = CitationMender(POSTS)
    bounds = [0, *sorted(cuts), len(answer)]
    shown = "".join(mender.take(answer[begin:end]) for begin, end in pairwise(bounds)) + mender.rest()
    assert shown == "One person writes: “I love coffee in the morning” [1]. Tea is better [2]. Snow falls [1] [x"


def test_content_words_leave_function_words_out_in_english_and_french() -> None:
    assert content_words("What do people say about the New Year’s rain?") == ["new", "year's", "rain"]
    assert content_words("Que pensent les gens de la pluie ?") == ["pluie"]
