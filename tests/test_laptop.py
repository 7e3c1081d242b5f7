"""The laptop example in short, nothing replaced: real tweets, a real model, a real engine, a real browser."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright

EXAMPLE = Path(__file__).parents[1] / "examples" / "laptop"
SHORTER = (
    "train.tokens=1024",
    "prepare.grounded_dialogues=110",
    "prepare.grounded_held_out=8",
    "prepare.label_dialogues=0",
    "align.epochs=0.5",  # the fewest steps after which it still cites
    "serve.port=0",
)
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Make the assistant and serve it, with the two commands of the README."""
    runs = tmp_path_factory.mktemp("runs")
    options = ["--runs", str(runs), *(part for one in SHORTER for part in ("--set", one))]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    made = subprocess.run(
        [sys.executable, "-m", "wingspan", "run", str(EXAMPLE), "--until", "align", *options],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-3000:]
    with subprocess.Popen(
        [sys.executable, "-m", "wingspan", "serve", str(runs / "laptop"), "--no-browser"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        yield next(word for word in line.split() if word.startswith("http://"))
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=30) == 0


def test_a_person_asks_and_follows_a_citation_to_its_post(url: str, chromium: str) -> None:
    topics = httpx.get(f"{url}/v1/assistant").json()["topics"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(locale="en-GB")
        page.goto(url)
        for topic in topics:  # a small model, briefly trained: one of its answers has to hold, not all
            page.get_by_label("Your question").fill(f"What do people say about {topic}?")
            page.keyboard.press("Enter")
            expect(page.locator("article").last).to_have_attribute("aria-busy", "false", timeout=60_000)
            sources = page.locator("article").last.get_by_role("link", name="Source")
            if sources.count() and not (sources.first.get_attribute("aria-label") or "").endswith("does not say this"):
                break
        else:
            pytest.fail(f"no answer about {topics} cites a post that supports it")
        sources.first.click()
        page.get_by_role("dialog").get_by_role("link", name="Open post").click()
        page.wait_for_url(f"{url}/posts/*")
        expect(page.get_by_role("article")).not_to_be_empty()
        browser.close()
