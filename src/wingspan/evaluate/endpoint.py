"""A served model behind lm-evaluation-harness: any OpenAI-compatible endpoint, asked patiently and never twice.

Every answer is written down as it comes, so that an interrupted evaluation goes on where it was. A request that
fails is tried again; one that fails for good ends the evaluation and is never scored.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from wingspan.errors import InputError, WorkError

KEY = "WINGSPAN_ENDPOINT_KEY"
_TRIES = 6
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0
_TIMEOUT_S = 120.0
_AT_ONCE = 4
_TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})

Body = dict[str, Any]


def is_endpoint(spec: str) -> bool:
    """Whether a model is named by its endpoint, `http://HOST/v1#MODEL`, and not by its folder."""
    return spec.startswith(("http://", "https://"))


class Endpoint:
    """Chat completions of one model. `journal` (JSON lines) keeps each answer; `wait` sleeps between tries."""

    def __init__(
        self, spec: str, journal: Path, *, timeout_s: float = _TIMEOUT_S, wait: Callable[[float], None] = time.sleep
    ) -> None:
        self.url, _, self.model = spec.partition("#")
        if not self.model:
            raise InputError("the endpoint names no model", where=spec, remedy="Write it as http://HOST/v1#MODEL")
        self._journal, self._timeout_s, self._wait = journal, timeout_s, wait
        self._known = dict(_journal_lines(journal))

    def answers(self, bodies: Sequence[Body], done: Callable[[int], None] = lambda count: None) -> list[str]:
        """The text of each answer, in order; raises WorkError when the endpoint does not answer after six tries."""
        names = [hashlib.sha256(json.dumps([self.url, body], sort_keys=True).encode()).hexdigest() for body in bodies]
        missing = {name: body for name, body in zip(names, bodies, strict=True) if name not in self._known}
        done(len(bodies) - len(missing))
        with ThreadPoolExecutor(_AT_ONCE) as pool, self._journal.open("a", encoding="utf-8") as stream:
            tasks = [(name, pool.submit(self._ask, body)) for name, body in missing.items()]
            try:
                for name, task in tasks:
                    self._known[name] = task.result()
                    stream.write(json.dumps([name, self._known[name]], ensure_ascii=False) + "\n")
                    stream.flush()
                    done(1)
            finally:
                pool.shutdown(cancel_futures=True)
        return [self._known[name] for name in names]

    def _ask(self, body: Body) -> str:
        wait_s = _FIRST_WAIT_S
        for last in (*[False] * (_TRIES - 1), True):
            try:
                return self._post(body)
            except urllib.error.HTTPError as error:
                told = error.read().decode(errors="replace")[:300]
                problem = f"the endpoint answers {error.code}: {told}"
                if error.code not in _TRANSIENT:
                    raise InputError(problem, where=self.url, remedy=f"Check its address, model and {KEY}") from error
                asked_s = error.headers.get("Retry-After", "")
                wait_s = float(asked_s) if asked_s.isdigit() else wait_s
            except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as error:
                problem = f"the endpoint does not answer as it should: {type(error).__name__}: {error}"
            if not last:
                self._wait(min(wait_s, _LONGEST_WAIT_S))
                wait_s *= 2
        remedy = "Give the same command again later: the answers so far are kept"
        raise WorkError(f"{problem}, {_TRIES} times over", where=self.url, remedy=remedy)

    def _post(self, body: Body) -> str:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        content = json.dumps({"model": self.model, **body}).encode()
        request = urllib.request.Request(f"{self.url}/chat/completions", content, headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=self._timeout_s) as response:  # noqa: S310
            text = json.load(response)["choices"][0]["message"]["content"]
        return str(text or "")


class EndpointModel(LM):  # type: ignore[misc]
    """An endpoint as the harness asks it: it only talks. `done` hears how many requests are finished."""

    def __init__(self, endpoint: Endpoint, done: Callable[[int], None]) -> None:
        super().__init__()
        self._endpoint, self._done = endpoint, done

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[str]:
        """Answers at temperature 0; posts go into the question, for a chat endpoint has no role for them."""
        bodies = [
            {
                "messages": _plain_roles(request.doc.get("messages") or [_user(request.args[0])]),
                "max_tokens": request.args[1].get("max_gen_toks", 256),
                "temperature": 0,
            }
            for request in requests
        ]
        return [answer.strip() for answer in self._endpoint.answers(bodies, self._done)]

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Raises InputError: no chat endpoint tells the likelihood of given words."""
        raise InputError(
            "an endpoint gives no likelihoods", where=self._endpoint.url, remedy="Leave out task files that choose"
        )

    loglikelihood_rolling = loglikelihood


def _plain_roles(messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    given = [message["content"] for message in messages if message["role"] == "posts"]
    *before, last = [message for message in messages if message["role"] != "posts"]
    text = "\n\n".join([*(f"Posts:\n{one}" for one in given), last["content"]])
    return [*before, {"role": last["role"], "content": text}]


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _journal_lines(journal: Path) -> list[tuple[str, str]]:
    """Name and answer of each whole line; the last one may have been cut short."""
    if not journal.is_file():
        return []
    *whole, rest = journal.read_text(encoding="utf-8").split("\n")
    if rest:
        journal.write_text("".join(line + "\n" for line in whole), encoding="utf-8")
    return [tuple(json.loads(line)) for line in whole]
