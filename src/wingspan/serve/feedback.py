"""What people say of answers, kept for the next round of `align`: only with consent, without personal data."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from wingspan.serve.openai import ChatMessage

FEEDBACK_FILE = "feedback.jsonl"  # in the run folder's serve/
_Text = Annotated[str, Field(min_length=1, max_length=20_000)]


class Feedback(BaseModel):
    """POST /v1/feedback: a judgement of one answer, or a better answer (an edit, or another one preferred to it)."""

    model_config = ConfigDict(extra="forbid")

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=50)]
    answer: _Text
    feedback: Literal["up", "down", "edit", "regenerate"]
    better: _Text | None = None
    reason: Literal["wrong", "unsupported", "rude", "unsafe", "other"] | None = None
    post_ids: Annotated[list[str], Field(max_length=50)] = []
    consent: bool

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.better is not None) != (self.feedback in ("edit", "regenerate")):
            raise ValueError("a better answer goes with 'edit' and 'regenerate', and only with them")
        if not self.consent:
            raise ValueError("without consent nothing is kept")
        return self


class FeedbackLog:
    """Feedback as JSON lines, in the form that `align.preference.sources` reads; appended whole or not at all."""

    def __init__(self, path: Path, protect: Callable[[str], str]) -> None:
        """`protect` takes personal data out of a text."""
        self._path, self._protect, self._lock = path, protect, threading.Lock()
        self.count = sum(1 for _ in path.open("rb")) if path.is_file() else 0

    def add(self, feedback: Feedback, user: str | None) -> None:
        """Keep one; `user` is the name of the API key that it came with."""
        turns = [turn.message() for turn in feedback.messages]
        record = feedback.model_dump(exclude_none=True) | {
            "messages": [{"role": turn["role"], "content": self._protect(turn["content"])} for turn in turns],
            "answer": self._protect(feedback.answer),
            **({"better": self._protect(feedback.better)} if feedback.better else {}),
            **({"user": user} if user else {}),
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            self._path.parent.mkdir(exist_ok=True)
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                before = os.fstat(file).st_size
                if os.write(file, line) < len(line):  # a full disk
                    os.ftruncate(file, before)
                    raise OSError("the disk is full")
                os.fsync(file)
            finally:
                os.close(file)
            self.count += 1
