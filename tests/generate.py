"""A small platform made up for tests: posts with replies, dialogues, ratings. Deterministic in its seed."""

from __future__ import annotations

import json
import random
from pathlib import Path

_SUBJECTS = ["coffee", "the rain", "my umbrella", "this movie", "the train", "our team", "the garden", "fresh bread"]
_GOOD = ["is wonderful today", "made my whole morning", "deserves a prize", "makes me smile every single time"]
_BAD = ["is a disaster again", "ruined the whole evening", "makes me so angry", "was a terrible disappointment"]
_PLAIN = ["is on the corner of the street", "comes at nine every day", "was mentioned in the news", "has a new colour"]
_OPENERS = ["", "Honestly, ", "So ", "Well, ", "I think ", "Once more: ", "Friends, "]
_CLOSERS = [
    "",
    " What do you think?",
    " Just saying.",
    " See you at {} o'clock.",
    " Number {} on my list.",
    " {} times!",
]


def write_platform(folder: Path, posts: int = 400, seed: int = 7) -> Path:
    """Write posts.jsonl, ratings.tsv and dialogues.jsonl; returns the folder."""
    random_ = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    records, ratings = [], []
    for number in range(posts):
        mood = random_.choice([1, -1, 0])
        subject = random_.choice(_SUBJECTS)
        closer = random_.choice(_CLOSERS).format(random_.randint(2, 99))
        predicate = random_.choice({1: _GOOD, -1: _BAD, 0: _PLAIN}[mood])
        text = f"{random_.choice(_OPENERS)}{subject} {predicate}.{closer}"
        if number % 50 == 17:
            text += f" Write to jane{number}@example.com or call +33 6 12 34 56 78."
        parent = f"p{random_.randrange(number)}" if number > 10 and number % 4 == 0 else None
        records.append(
            {
                "id": f"p{number}",
                "author": f"u{random_.randrange(60)}",
                "created_at": f"2026-03-{1 + number % 28:02d}T10:{number % 60:02d}:00Z",
                "text": text[0].upper() + text[1:],
                "reply_to": parent,
            }
        )
        ratings.append(f"p{number}\t{mood * random_.uniform(1.0, 3.5):.3f}")
    (folder / "posts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    (folder / "ratings.tsv").write_text("\n".join(ratings) + "\n")
    (folder / "dialogues.jsonl").write_text("".join(json.dumps(one) + "\n" for one in _dialogues(random_)))
    return folder


def _dialogues(random_: random.Random) -> list[dict[str, object]]:
    greetings = ["Hello", "Good morning", "Hi there", "Hey"]
    questions = ["what is {} plus {}?", "can you add {} and {}?", "tell me the sum of {} and {}"]
    dialogues: list[dict[str, object]] = []
    for _ in range(80):
        left, right = random_.randint(1, 20), random_.randint(1, 20)
        ask = f"{random_.choice(greetings)}, {random_.choice(questions).format(left, right)}"
        reply = f"{left} and {right} make {left + right}."
        dialogues.append({"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": reply}]})
    return dialogues


PROJECT = """
[project]
name = "tiny"
seed = 3

[rights]
basis = "public-domain"
statement = "Every post of this platform was made up by a test."

[model]
start = "scratch"
depth = 2
hidden = 64
vocab = 600
max_positions = 512

[[prepare.posts]]
name = "posts"
path = "posts.jsonl"
licence = "made up"
reader = "jsonl"
columns = { post_id = "id", author_id = "author", created_at = "created_at", text = "text", parent_id = "reply_to" }

[[prepare.labels]]
name = "sentiment"
path = "ratings.tsv"
licence = "made up"
posts = "posts"

[[prepare.dialogues]]
name = "sums"
path = "dialogues.jsonl"
licence = "made up"
reader = "messages"

[prepare]
held_out = 0.2
grounded_dialogues = 40
label_dialogues = 40

[train]
tokens = 12_288
sequence = 64
global_batch = 4
checkpoint_every = 8
optimizer = { learning_rate = 3e-3 }

[align]
epochs = 1.0
sequence = 256
global_batch = 2
checkpoint_every = 5
optimizer = { learning_rate = 3e-3 }

[evaluate]
bits_per_byte_posts = 40
reply_choices = 10
sentiment_posts = 30
citation_questions = 6
resamples = 200

[serve]
port = 0
engine = "torch"
max_tokens = 24
"""


def write_project(folder: Path) -> Path:
    """A whole project on the made-up platform; returns its folder."""
    write_platform(folder)
    (folder / "wingspan.toml").write_text(PROJECT)
    return folder
