"""A served model behind lm-evaluation-harness: any OpenAI-compatible endpoint, asked patiently and never twice.

Every answer is written down as it comes, so that an interrupted evaluation goes on where it was. A request that
fails is tried again, with growing pauses or as long as the endpoint asks; one that fails for good ends the
evaluation and is never scored.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import openai
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from wingspan.errors import InputError, WorkError

KEY = "WINGSPAN_ENDPOINT_KEY"
_RETRIES = 6
_TIMEOUT_S = 120.0
_AT_ONCE = 4
_TOKENS = 256  # where a task sets no limit; the harness's own default

Body = dict[str, Any]


def is_endpoint(spec: str) -> bool:
    """Whether a model is named by its endpoint, `http://HOST/v1#MODEL`, and not by its folder."""
    return spec.startswith(("http://", "https://"))


class EndpointModel(LM):  # type: ignore[misc]
    """One model of an endpoint as the harness asks it: it only talks, at temperature 0.

    `journal` (JSON lines) keeps each answer; `done` hears how many requests are finished.
    """

    def __init__(
        self,
        spec: str,
        journal: Path,
        done: Callable[[int], None],
        *,
        timeout_s: float = _TIMEOUT_S,
        retries: int = _RETRIES,
    ) -> None:
        super().__init__()
        self._url, _, self._model = spec.partition("#")
        if not self._model:
            raise InputError("the endpoint names no model", where=spec, remedy="Write it as http://HOST/v1#MODEL")
        key = os.environ.get(KEY, "none")
        self._client = openai.OpenAI(base_url=self._url, api_key=key, timeout=timeout_s, max_retries=retries)
        self._journal, self._done, self._lock = journal, done, Lock()

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[str]:
        """Raises WorkError when the endpoint does not answer however often it is asked, InputError when it refuses."""
        bodies = [
            {
                "model": self._model,
                "messages": _plain_roles(request.doc.get("messages") or [{"role": "user", "content": request.args[0]}]),
                "max_tokens": request.args[1].get("max_gen_toks", _TOKENS),
                "temperature": 0,
            }
            for request in requests
        ]
        names = [hashlib.sha256(json.dumps([self._url, body], sort_keys=True).encode()).hexdigest() for body in bodies]
        known = _answers(self._journal)
        missing = {name: body for name, body in zip(names, bodies, strict=True) if name not in known}
        self._done(len(bodies) - len(missing))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            try:
                known |= zip(missing, pool.map(self._ask_and_note, missing, missing.values()), strict=True)
            finally:
                pool.shutdown(cancel_futures=True)
        return [known[name] for name in names]

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Raises InputError: no chat endpoint tells the likelihood of given words."""
        raise InputError("an endpoint gives no likelihoods", where=self._url, remedy="Leave out task files that choose")

    loglikelihood_rolling = loglikelihood

    def _ask_and_note(self, name: str, body: Body) -> str:
        answer = self._ask(body)
        with self._lock, self._journal.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps([name, answer], ensure_ascii=False) + "\n")
        self._done(1)
        return answer

    def _ask(self, body: Body) -> str:
        try:
            return (self._client.chat.completions.create(**body).choices[0].message.content or "").strip()
        except openai.APIStatusError as error:
            told = f"the endpoint answers {error.status_code}: {error.message[:300]}"
            if error.status_code < 500 and error.status_code not in (408, 409, 429):
                raise InputError(told, where=self._url, remedy=f"Check its address, model and {KEY}") from error
        except (openai.OpenAIError, ValueError, LookupError, TypeError, AttributeError) as error:
            told = f"the endpoint does not answer as it should: {error}"
        remedy = "Give the same command again later: the answers so far are kept"
        raise WorkError(told, where=self._url, remedy=remedy)


def _plain_roles(messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Posts go into the question: a chat endpoint has no role for them."""
    given = [f"Posts:\n{message['content']}" for message in messages if message["role"] == "posts"]
    *before, last = [message for message in messages if message["role"] != "posts"]
    return [*before, {"role": last["role"], "content": "\n\n".join([*given, last["content"]])}]


def _answers(journal: Path) -> dict[str, str]:
    """Answers by the name of their request; a last line that was cut short is taken out."""
    if not journal.is_file():
        return {}
    *whole, rest = journal.read_text(encoding="utf-8").split("\n")
    if rest:
        journal.write_text("".join(line + "\n" for line in whole), encoding="utf-8")
    return dict(json.loads(line) for line in whole)
