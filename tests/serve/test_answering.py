"""The parts of an answer that are plain functions: cutting at stop strings, topics to suggest."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from wingspan.serve.answering import StopText, repeats
from wingspan.serve.topics import topics


def cut(pieces: list[str], stops: list[str]) -> str:
    stream = StopText(stops)
    return "".join([stream.take(piece) for piece in pieces]) + stream.rest()


def cut_whole(text: str, stops: list[str]) -> str:
    """What must come out: the text up to the stop string that is complete first."""
    for end in range(len(text) + 1):
        found = [text.find(stop) for stop in stops if stop and text[:end].endswith(stop)]
        if found:
            return text[: min(found)]
    return text


@given(st.lists(st.text("abc", max_size=4), max_size=8), st.lists(st.text("abc", max_size=3), max_size=3))
def test_pieces_one_letter_long_are_cut_like_the_whole_text(pieces: list[str], stops: list[str]):
    assert cut(list("".join(pieces)), stops) == cut_whole("".join(pieces), stops)


@given(st.lists(st.text("abc", max_size=4), max_size=8), st.lists(st.text("abc", max_size=3), max_size=3))
def test_what_comes_out_holds_no_stop_string_and_starts_the_text(pieces: list[str], stops: list[str]):
    shown = cut(pieces, stops)
    assert "".join(pieces).startswith(shown)
    assert not any(stop in shown for stop in stops if stop)
    if not any(stop in "".join(pieces) for stop in stops if stop):
        assert shown == "".join(pieces)


def test_text_is_held_back_only_while_it_may_become_a_stop_string():
    stream = StopText(["STOP"])
    assert [stream.take(piece) for piece in ("go S", "T", "AND S", "TO", "P on")] == ["go ", "", "STAND ", "", ""]
    assert stream.found


def test_an_answer_in_circles_is_seen_but_laughter_and_quotes_are_not():
    assert repeats("First this. " + "They talk about the food, but not me. " * 3)
    assert not repeats("They talk about the food, but not me. " * 2)
    assert not repeats("ha" * 9 + "!" * 30)
    assert not repeats("")
    assert not repeats("Someone says: “Happy Thanksgiving” [1]. Someone else says: “Happy Thanksgiving” [2].")


def test_only_as_many_earlier_turns_as_the_project_says_come_before_the_question(server):
    turns = [{"role": "user" if turn % 2 == 0 else "assistant", "content": f"turn {turn}"} for turn in range(5)]
    for remembered in (0, 1, 4, 9):
        assistant = replace(server.assistant, remembered_turns=remembered)
        prompt = assistant.renderer.decode(assistant.prompt(turns, posts=None))
        assert [turn for turn in range(5) if f"turn {turn}" in prompt] == list(range(max(0, 4 - remembered), 5))


def test_topics_are_names_and_hashtags_that_several_posts_share():
    texts = [f"we went to New York {day}, and apple pie was good #foodie" for day in range(5)]
    texts += ["so I bought an Apple computer", "on Monday it rained", "on Monday again"] * 4
    texts += ["an apple a day"] * 9  # mostly a fruit here, so it is no name
    assert topics(texts, 10) == ["New York", "#foodie"]
    assert topics([], 10) == []
