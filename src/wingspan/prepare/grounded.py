"""Questions about posts, answered by quoting them: what teaches the assistant to cite.

Each is built the way the server will ask: posts found by search, a question, an answer whose every
`[n]` holds. Some get posts that do not answer, and the answer says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from wingspan.knowledge.citations import check_citations
from wingspan.knowledge.grounding import NO_SUPPORT, SourcePost, grounded_messages
from wingspan.knowledge.index import PostIndex
from wingspan.knowledge.words import content_words, words
from wingspan.prepare.conversations import GROUNDED, Conversation

UNANSWERABLE = 0.15  # share
_FRENCH = 0.15  # share of questions in French
_LONGEST_QUOTE = 100  # characters
_SHORTEST_QUOTE = 2  # content words
_TOPIC_POSTS = (3, 60)  # a topic stands in this many posts
_DETERMINERS = frozenset(
    [
        "the",
        "a",
        "an",
        "my",
        "your",
        "our",
        "his",
        "her",
        "their",
        "this",
        "that",
        "these",
        "some",
        "any",
        "no",
        "le",
        "la",
        "les",
        "un",
        "une",
        "des",
        "mon",
        "ma",
    ]
)
_NOUN_SHARE = 0.2  # of a topic's uses follow a determiner: the sign of a noun that needs no tagger

_QUESTIONS = {
    "en": (
        "What do people say about {}?",
        "What are people saying about {}?",
        "What do the posts say about {}?",
        "Has anyone posted about {}?",
        "Anything on the platform about {}?",
        "What does someone think about {}?",
        "Tell me what people think of {}.",
        "Did people say something about {}?",
        "Is there a post about {}?",
        "{}: what do people say?",
    ),
    "fr": (
        "Que disent les gens de {} ?",
        "Que dit-on de {} ?",
        "Qu'est-ce qu'on dit sur {} ?",
        "Est-ce que quelqu'un parle de {} ?",
        "Y a-t-il des posts sur {} ?",
    ),
}
_ANSWERS = {
    "en": (
        ("One person writes: “{}” [{}].", "Another: “{}” [{}]."),
        ("Someone says: “{}” [{}].", "Someone else: “{}” [{}]."),
        ("One post says: “{}” [{}].", "Another one: “{}” [{}]."),
        ("Yes: “{}” [{}].", "And: “{}” [{}]."),
        ("“{}” [{}].", "“{}” [{}]."),
    ),
    "fr": (
        ("Quelqu'un écrit : « {} » [{}].", "Un autre : « {} » [{}]."),
        ("Un post dit : « {} » [{}].", "Un autre : « {} » [{}]."),
    ),
}
_LEADING = re.compile(r"^(?:(?:RT\s+)?[@#][\w.]+:?\s*|RT\s+|[-:.,;!?]+\s*)+")
_SENTENCES = re.compile(r"(?<=[.!?…])\s+|\n+")
_UNQUOTABLE = re.compile(r"[\[\]“”«»\"]|https?:|@\w")


@dataclass(frozen=True)
class _Maker:
    """What questions are made from: the posts of one side of the split, searchable, and their topics."""

    index: PostIndex
    posts: Sequence[SourcePost]
    langs: dict[str, str]
    topics: Sequence[str]
    system: str
    sources: int
    split: str
    generator: np.random.Generator

    def pick(self, items: Sequence[object]) -> int:
        return int(self.generator.integers(len(items)))


def grounded_conversations(
    posts: pl.DataFrame, split: str, count: int, system: str, sources: int, generator: np.random.Generator
) -> list[Conversation]:
    """At most `count` conversations resting on `posts` (one side of the split) alone.

    `sources` posts stand before each question. A citation that `check_citations` would not accept makes
    the conversation void, so all that is returned is supported. Fewer come where posts share few topics.
    """
    index = PostIndex()
    kept = [SourcePost(post_id, text) for post_id, text in posts.select("post_id", "text").iter_rows()]
    index.add(kept)
    topics = topic_words([post.text for post in kept])
    maker = _Maker(index, kept, {}, topics, system, sources, split, generator)
    made: dict[str, Conversation] = {}
    if topics:
        for attempt in range(4 * count):
            if len(made) == count:
                break
            topic = topics[attempt % len(topics)]
            one = _unanswerable(maker, topic) if generator.random() < UNANSWERABLE else _answerable(maker, topic)
            if one is not None:
                made.setdefault(one.messages[-2]["content"], one)
    index.close()
    return list(made.values())


def topic_words(texts: Sequence[str]) -> list[str]:
    """Nouns that a few posts share, in an order fixed by their spelling's hash-free shuffle of frequency."""
    posts_with: Counter[str] = Counter()
    uses: Counter[str] = Counter()
    after_determiner: Counter[str] = Counter()
    for text in texts:
        spoken = words(text)
        posts_with.update(set(content_words(text)))
        uses.update(spoken)
        after_determiner.update(word for before, word in pairwise(spoken) if before in _DETERMINERS)
    fewest, most = _TOPIC_POSTS
    return sorted(
        word
        for word, number in posts_with.items()
        if fewest <= number <= most and len(word) > 3 and word.isalpha()
        if after_determiner[word] >= _NOUN_SHARE * uses[word]
    )


def quote(text: str, topic: str) -> str | None:
    """A sentence of a post that has `topic`, exactly as written, cut at a word's end; None when there is none."""
    for sentence in _SENTENCES.split(text):
        sentence = _LEADING.sub("", sentence).strip()
        if topic not in content_words(sentence) or _UNQUOTABLE.search(sentence):
            continue
        if len(sentence) > _LONGEST_QUOTE:
            sentence = sentence[: _LONGEST_QUOTE + 1].rsplit(" ", 1)[0].rstrip(" ,;:-") + "…"
        if topic in content_words(sentence) and len(set(content_words(sentence))) >= _SHORTEST_QUOTE:
            return sentence
    return None


def _answerable(maker: _Maker, topic: str) -> Conversation | None:
    lang = "fr" if maker.generator.random() < _FRENCH else "en"
    question = _question(maker, lang, topic)
    found = maker.index.search(question, maker.sources)
    relevant = [(post, words_) for post in found if (words_ := quote(post.text, topic))][:2]
    if not relevant or (len(relevant) == 2 and maker.generator.random() < 0.4):
        relevant = relevant[:1]
    if not relevant:
        return None
    shown = _with_distractors(maker, found, [post for post, _ in relevant], topic)
    templates = _ANSWERS[lang]
    template = templates[maker.pick(templates)]
    answer = " ".join(
        form.format(words_, shown.index(post) + 1) for form, (post, words_) in zip(template, relevant, strict=False)
    )
    citations = check_citations(answer, shown)
    if len(citations) != len(relevant) or not all(citation.supported for citation in citations):
        return None
    return _conversation(maker, question, shown, answer, lang)


def _unanswerable(maker: _Maker, topic: str) -> Conversation | None:
    """A question about one topic before posts about others."""
    lang = "fr" if maker.generator.random() < _FRENCH else "en"
    other = maker.topics[maker.pick(maker.topics)]
    found = [post for post in maker.index.search(other, maker.sources) if not _mentions(post, topic)]
    return _conversation(maker, _question(maker, lang, topic), found, NO_SUPPORT, lang) if found else None


def _question(maker: _Maker, lang: str, topic: str) -> str:
    forms = _QUESTIONS[lang]
    question = forms[maker.pick(forms)].format(topic)
    return question[0].upper() + question[1:]


def _with_distractors(
    maker: _Maker, found: Sequence[SourcePost], cited: Sequence[SourcePost], topic: str
) -> list[SourcePost]:
    """The cited posts, some others found, and now and then one about something else, in random order."""
    others = [post for post in found if post not in cited]
    if maker.generator.random() < 0.5:
        stray = maker.posts[maker.pick(maker.posts)]
        if stray not in found and not _mentions(stray, topic):
            others = [stray, *others]
    shown = [*cited, *others][: maker.sources]
    return [shown[at] for at in maker.generator.permutation(len(shown))]


def _mentions(post: SourcePost, topic: str) -> bool:
    """Whether the post has the topic, also as the beginning of a longer word."""
    return any(word.startswith(topic) for word in words(post.text))


def _conversation(maker: _Maker, question: str, shown: Sequence[SourcePost], answer: str, lang: str) -> Conversation:
    messages = (*grounded_messages(maker.system, question, shown), {"role": "assistant", "content": answer})
    return Conversation(messages, GROUNDED, "posts", maker.split, tuple(post.post_id for post in shown), lang)  # type: ignore[arg-type]
