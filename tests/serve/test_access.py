"""Who may ask, how often, how many at once: keys, rates, quotas, a bounded queue, and the figures of it all."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.conftest import serving
from wingspan.errors import InputError, WorkError
from wingspan.project import Serve
from wingspan.serve.keys import Key, Keys

QUESTION = {"model": "harbour", "messages": [{"role": "user", "content": "What of the harbour market?"}]}
BOTH = frozenset({"chat", "search"})


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    kept = Keys(tmp_path / "keys.sqlite")
    yield kept
    kept.close()


@pytest.fixture
def keyed(assistant, byte_tokenizer, keys):
    with serving(assistant, byte_tokenizer, Serve(keys=True), keys=keys) as server:
        yield server


def ask(server, secret: str | None = None, **more: object) -> httpx.Response:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    return httpx.post(f"{server.url}/v1/chat/completions", json=QUESTION | more, headers=headers, timeout=20)


def figures(server, secret: str | None = None) -> dict[str, float]:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    text = httpx.get(f"{server.url}/metrics", headers=headers).text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {" ".join([sample.name, *sample.labels.values()]): sample.value for sample in samples}


def test_the_official_client_gets_in_with_its_key_and_nobody_without(keyed, keys: Keys):
    client = openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=keys.add(Key("app", BOTH)), max_retries=0)
    assert client.chat.completions.create(**QUESTION).choices[0].message.content
    stranger = openai.OpenAI(base_url=f"{keyed.url}/v1", api_key="wsk-guess", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as refused:
        stranger.chat.completions.create(**QUESTION)
    assert refused.value.code == "invalid_api_key"
    for path in ("/v1/models", "/v1/search?q=harbour", "/v1/assistant", "/v1/posts/101", "/metrics"):
        assert httpx.get(keyed.url + path).status_code == 401
    assert httpx.get(f"{keyed.url}/healthz").status_code == 200


def test_the_file_holds_no_secret(keys: Keys, tmp_path: Path):
    secret = keys.add(Key("app", BOTH))
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert secret.encode() not in kept
    assert secret.removeprefix("wsk-").encode() not in kept
    assert (tmp_path / "keys.sqlite").stat().st_mode & 0o077 == 0


def test_a_key_opens_what_its_scopes_say_until_it_expires_or_is_revoked(keyed, keys: Keys):
    search = keys.add(Key("search", frozenset({"search"})))
    header = {"Authorization": f"Bearer {search}"}
    assert httpx.get(f"{keyed.url}/v1/search?q=harbour", headers=header).status_code == 200
    refused = ask(keyed, search)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "missing_scope")
    brief = keys.add(Key("brief", BOTH, expires_at=time.time() + 0.5))
    assert ask(keyed, brief).status_code == 200
    time.sleep(0.6)
    assert "expired" in ask(keyed, brief).json()["error"]["message"]
    keys.revoke("search")
    assert httpx.get(f"{keyed.url}/v1/search?q=harbour", headers=header).status_code == 401


def test_a_key_keeps_to_its_rate(keyed, keys: Keys):
    secret = keys.add(Key("app", BOTH, requests_per_minute=2))
    assert [ask(keyed, secret).status_code for _ in range(3)] == [200, 200, 429]
    refused = ask(keyed, secret)
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"


def test_a_quota_counts_what_was_read_and_written_and_then_ends(keyed, keys: Keys):
    secret = keys.add(Key("app", BOTH, tokens_per_day=1))
    usage = ask(keyed, secret).json()["usage"]
    assert keys.used_today("app") == (1, usage["total_tokens"])
    refused = ask(keyed, secret)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert keys.used_today("app") == (1, usage["total_tokens"])


def test_an_answer_that_is_broken_off_is_charged_as_far_as_it_went(keyed, keys: Keys):
    secret = keys.add(Key("app", BOTH))
    whole = ask(keyed, secret).json()["usage"]
    keyed.engine.pause = 0.1
    header = {"Authorization": f"Bearer {secret}"}
    with httpx.stream(
        "POST", f"{keyed.url}/v1/chat/completions", json=QUESTION | {"stream": True}, headers=header
    ) as it:
        next(line for line in it.iter_lines() if '"content":" market"' in line)
    keyed.wait_until(lambda: keys.used_today("app")[0] == 2)
    written = keys.used_today("app")[1] - whole["total_tokens"] - whole["prompt_tokens"]
    assert 0 < written < whole["completion_tokens"]


@contextmanager
def asking(server, number: int) -> Iterator[list[httpx.Response]]:
    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(server))) for _ in range(number)]
    for thread in threads:
        thread.start()
    yield answers
    for thread in threads:
        thread.join()


def test_a_full_server_says_when_to_come_back_and_answers_those_who_wait(assistant, byte_tokenizer):
    with serving(assistant, byte_tokenizer, Serve(concurrent_answers=1, waiting_answers=1)) as server:
        server.engine.pause = 0.1
        with asking(server, 2) as answers:
            server.wait_until(lambda: figures(server)["wingspan_waiting"] == 1)
            refused = ask(server, stream=True)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "server_busy")
            assert int(refused.headers["retry-after"]) >= 1
        assert [answer.status_code for answer in answers] == [200, 200]
        assert figures(server)["wingspan_active"] == figures(server)["wingspan_waiting"] == 0


def test_figures_add_up(server):
    usage = ask(server).json()["usage"]
    httpx.get(f"{server.url}/v1/posts/101")
    httpx.get(f"{server.url}/v1/posts/102")
    shown = figures(server)
    assert shown["wingspan_tokens_total written"] == usage["completion_tokens"]
    assert shown["wingspan_tokens_total read"] == usage["prompt_tokens"]
    assert shown["wingspan_first_token_seconds_count"] == shown["wingspan_answer_seconds_count"] == 1
    assert shown["wingspan_citations_total yes"] == 1
    assert shown["wingspan_requests_total /v1/posts/{post_id:path} 200"] == 2


def test_keys_that_make_no_sense_are_refused(keys: Keys, tmp_path: Path):
    keys.add(Key("app", BOTH))
    with pytest.raises(InputError, match="has that name"):
        keys.add(Key("app", BOTH))
    with pytest.raises(InputError, match="no scope 'root'"):
        keys.add(Key("other", frozenset({"root"})))
    with pytest.raises(InputError, match="no such key"):
        keys.revoke("nobody")
    (tmp_path / "damaged.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(WorkError, match="damaged"):
        Keys(tmp_path / "damaged.sqlite")
