"""Questions about posts, answered by quoting them: what teaches the assistant to cite.

Each is built the way the server will ask: posts found by search, a question, an answer whose every
`[n]` holds. Some questions are asked again before posts that do not answer, and the answer says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TypeVar

import numpy as np
import polars as pl

from wingspan.knowledge.citations import check_citations
from wingspan.knowledge.grounding import NO_SUPPORT, SourcePost, grounded_messages
from wingspan.knowledge.index import PostIndex
from wingspan.knowledge.words import STOP_WORDS, content_words, words
from wingspan.prepare.conversations.conversation import GROUNDED, Conversation

Item = TypeVar("Item")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ASKED_AGAIN = 0.25  # share of questions that are put before other posts too: what the answer is depends on the posts
_WITHOUT_POSTS = 0.3  # share of the unanswerable before which no post is found at all
_FRENCH = 0.15  # share of questions in French
_SECOND_QUOTE = 0.6  # share of answers that cite two posts where two can be cited
_STRAY = 0.5  # share of questions with a post about something else among their posts
_LONGEST_QUOTE = 100  # characters
_SHORTEST_QUOTE = 3  # content words
_ATTEMPTS = 4  # topics tried per conversation wanted
_TOPIC_POSTS = (3, 60)  # a topic stands in this many posts

# A noun shows itself without a tagger: it comes after one of these, and a function word or a pause follows.
_ARTICLES = _words("the a an my your our his her their this that these le la les un une des mon ma mes")
_PREPOSITIONS = _words("about for of with in on at from like de du sur avec pour dans")
_NOUN_SHARE = 0.3  # of a word's uses
_CLAUSES = re.compile(r"[.!?,;:…()\"“”\n*]+")
_NEVER_TOPICS = _words(
    "best first last same other next lot bit thing things kind sort time way day today course rest favor favour "
    "least case cause matter end longer middle moment much many half"
)

_OPEN_QUESTIONS = {
    "en": (
        "What do people say about {}?",
        "What are people saying about {}?",
        "What do the posts say about {}?",
        "What do people think about {}?",
        "Tell me what people think of {}.",
        "What is said about {}?",
    ),
    "fr": ("Que disent les gens sur « {} » ?", "Que dit-on sur « {} » ?", "Qu'est-ce qu'on dit sur « {} » ?"),
}
_CLOSED_QUESTIONS = {
    "en": (
        "Has anyone posted about {}?",
        "Anything on the platform about {}?",
        "Did people say something about {}?",
        "Is there a post about {}?",
    ),
    "fr": ("Est-ce que quelqu'un parle de « {} » ?", "Y a-t-il des posts sur « {} » ?"),
}
_YES = {"en": "Yes. ", "fr": "Oui. "}
_ANSWERS = {
    "en": (
        ("One person writes: “{}” [{}].", "Another writes: “{}” [{}]."),
        ("Someone says: “{}” [{}].", "Someone else says: “{}” [{}]."),
        ("One post says: “{}” [{}].", "Another says: “{}” [{}]."),
    ),
    "fr": (
        ("Quelqu'un écrit : « {} » [{}].", "Un autre écrit : « {} » [{}]."),
        ("Un post dit : « {} » [{}].", "Un autre dit : « {} » [{}]."),
    ),
}
_LEADING = re.compile(r"^(?:(?:RT\s+)?[@#][\w.]+:?\s*|RT\s+|[-:.,;!?]+\s*)+")
_SENTENCES = re.compile(r"(?<=[.!?…])(?<!\b[A-Z]\.)\s+|\n+")
_UNQUOTABLE = re.compile(r"[\[\]“”«»\"]|https?:|@\w")
# The assistant learns from posts as they are, but is not taught to repeat these of its own accord.
_CRUDE = re.compile(
    r"\b(?:fuck|shit|cunt|bitch|nigg|fag|whore|slut|dick|cock|pussy|tits|asshole|rape|porn)", re.IGNORECASE
)


@dataclass(frozen=True)
class _Platform:
    """What questions are made from: the posts of one side of the split, searchable, and how many are shown."""

    index: PostIndex
    posts: Sequence[SourcePost]
    topics: Mapping[str, str]  # topic -> how a question names it
    shown: int
    random: np.random.Generator

    def choose(self, items: Sequence[Item]) -> Item:
        return items[int(self.random.integers(len(items)))]


def grounded_conversations(
    posts: pl.DataFrame,
    index: PostIndex,
    split: str,
    count: int,
    system: str,
    shown: int,
    random: np.random.Generator,
) -> list[Conversation]:
    """At most `count` conversations that rest on `posts` (those of one side of the split, all in `index`) alone.

    `shown` posts stand before each question. An answer with a citation that `check_citations` refuses is
    never returned. Fewer come where posts share few topics.
    """
    kept = source_posts(posts)
    topics = topic_words([post.text for post in kept])
    platform = _Platform(index, kept, topics, shown, random)
    made: list[Conversation] = []
    asked: set[str] = set()
    order = [list(topics)[at] for at in random.permutation(len(topics))]
    for topic in islice(cycle(order), _ATTEMPTS * count):
        if len(made) >= count:
            break
        lang = "fr" if random.random() < _FRENCH else "en"
        if (answered := _answered(platform, topic, lang)) is None or answered.question in asked:
            continue
        asked.add(answered.question)
        turns = [answered]
        if random.random() < _ASKED_AGAIN:
            turns.append(_unanswered(platform, topic, answered.question))
        for turn in turns[: count - len(made)]:
            messages = grounded_messages(system, turn.question, turn.posts)
            messages.append({"role": "assistant", "content": turn.answer})
            post_ids = tuple(post.post_id for post in turn.posts)
            made.append(Conversation(tuple(messages), GROUNDED, "posts", split, post_ids, lang))
    return made


def source_posts(posts: pl.DataFrame) -> list[SourcePost]:
    """Rows (post_id, text) as posts that can be searched and cited."""
    return [SourcePost(post_id, text) for post_id, text in posts.select("post_id", "text").iter_rows()]


def topic_words(texts: Sequence[str]) -> dict[str, str]:
    """Nouns that a few posts share, by spelling; each with how a question names it (`coffee`, `the weather`)."""
    posts_with: Counter[str] = Counter()
    uses: Counter[str] = Counter()
    as_noun: Counter[str] = Counter()
    with_article: Counter[str] = Counter()
    capital: Counter[str] = Counter()
    for text in texts:
        posts_with.update(set(content_words(text)))
        for clause in _CLAUSES.split(text):
            spoken = words(clause)
            uses.update(spoken)
            capital.update(token.lower() for token in clause.split()[1:] if token.istitle())
            for before, word, after in zip(["", *spoken], spoken, [*spoken[1:], ""], strict=False):
                if not after or after in STOP_WORDS:
                    as_noun[word] += before in _ARTICLES or before in _PREPOSITIONS
                    with_article[word] += before in _ARTICLES
    fewest, most = _TOPIC_POSTS
    return {
        word: _named(word, name=2 * capital[word] > uses[word], article=2 * with_article[word] > as_noun[word])
        for word, number in sorted(posts_with.items())
        if fewest <= number <= most and len(word) > 3 and word.isalpha() and word not in _NEVER_TOPICS
        if as_noun[word] > 1 and as_noun[word] >= _NOUN_SHARE * uses[word]
    }


def _named(word: str, *, name: bool, article: bool) -> str:
    if name:
        return word.capitalize()
    return f"the {word}" if article else word


def quote(text: str, topic: str) -> str | None:
    """A sentence of a post that has `topic`, exactly as written, cut at a word's end; None when there is none."""
    for sentence in _SENTENCES.split(text):
        sentence = _LEADING.sub("", sentence).strip()
        if topic not in content_words(sentence) or _UNQUOTABLE.search(sentence) or _CRUDE.search(sentence):
            continue
        if len(sentence) > _LONGEST_QUOTE:
            sentence = sentence[: _LONGEST_QUOTE + 1].rsplit(" ", 1)[0].rstrip(" ,;:-") + "…"
        if topic in content_words(sentence) and len(set(content_words(sentence))) >= _SHORTEST_QUOTE:
            return sentence
    return None


@dataclass(frozen=True)
class _Turn:
    """A question, the posts shown before it, and the answer."""

    question: str
    posts: Sequence[SourcePost]
    answer: str


def _answered(platform: _Platform, topic: str, lang: str) -> _Turn | None:
    """A question whose answer quotes one or two of the posts that search finds; None when none can be quoted."""
    question, opening = _question(platform, topic, lang)
    found = platform.index.search(question, platform.shown)
    quotes = [(post, said) for post in found if (said := quote(post.text, topic))]
    quotes = quotes[: 2 if platform.random.random() < _SECOND_QUOTE else 1]
    if not quotes:
        return None
    posts = _in_random_order(platform, [post for post, _ in quotes], found, topic)
    parts = [
        form.format(said, posts.index(post) + 1)
        for form, (post, said) in zip(platform.choose(_ANSWERS[lang]), quotes, strict=False)
    ]
    answer = opening + " ".join(parts)
    citations = check_citations(answer, posts)
    holds = len(citations) == len(quotes) and all(citation.supported for citation in citations)
    return _Turn(question, posts, answer) if holds else None


def _unanswered(platform: _Platform, topic: str, question: str) -> _Turn:
    """The question before posts about something else, or before none."""
    if platform.random.random() < _WITHOUT_POSTS:
        return _Turn(question, (), NO_SUPPORT)
    other = platform.choose(list(platform.topics))
    found = platform.index.search(other, platform.shown)
    return _Turn(question, [post for post in found if not _mentions(post, topic)], NO_SUPPORT)


def _question(platform: _Platform, topic: str, lang: str) -> tuple[str, str]:
    """A question about a topic, and how its answer opens: with yes, where the question can be answered so."""
    named = platform.topics[topic] if lang == "en" else platform.topics[topic].removeprefix("the ")
    form = platform.choose([*_OPEN_QUESTIONS[lang], *_CLOSED_QUESTIONS[lang]])
    return form.format(named), _YES[lang] if form in _CLOSED_QUESTIONS[lang] else ""


def _in_random_order(
    platform: _Platform, cited: Sequence[SourcePost], found: Sequence[SourcePost], topic: str
) -> list[SourcePost]:
    """The cited posts, others that were found, now and then one about something else, shuffled."""
    others = [post for post in found if post not in cited]
    stray = platform.choose(platform.posts)
    if platform.random.random() < _STRAY and stray not in found and not _mentions(stray, topic):
        others = [stray, *others]
    posts = [*cited, *others][: platform.shown]
    return [posts[at] for at in platform.random.permutation(len(posts))]


def _mentions(post: SourcePost, topic: str) -> bool:
    """Whether the post has the topic, also as the beginning of a longer word."""
    return any(word.startswith(topic) for word in words(post.text))
