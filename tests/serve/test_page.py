"""The chat page in a real browser: ask, watch the answer grow, follow its citation; and what must not happen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest

from serve.conftest import serving
from wingspan.align.preferences import read_preferences
from wingspan.project import Serve
from wingspan.serve.feedback import FeedbackLog

sync_api = pytest.importorskip("playwright.sync_api")
expect, Page = sync_api.expect, sync_api.Page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
ARGUMENTS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()  # noqa: SIM905

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install -y chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, server):
    """Opens the page; at the end nothing may have been thrown, blocked by the policy, or alerted."""
    contexts, troubles = [], []

    def opened(path: str = "/", **context: object) -> Page:
        contexts.append(browser.new_context(**{"locale": "en-GB", **context}))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "console",
            lambda message: (
                message.type == "error" and "ERR_FAILED" not in message.text and troubles.append(message.text)
            ),
        )
        page.on("dialog", lambda dialog: troubles.append(f"alert: {dialog.message}"))
        page.goto(f"{server.url}{path}")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []


def ask(page: Page, question: str) -> None:
    page.get_by_label("Your question").fill(question)
    page.keyboard.press("Enter")


def test_a_streamed_answer_is_followed_to_its_post(open_page, server):
    server.engine.pause = 0.1
    page = open_page()
    expect(page.get_by_role("heading", name="Ask Robin")).to_be_visible()
    ask(page, "Which market closed early?")
    answer = page.locator(".answer")
    expect(answer).to_contain_text("The harbour")
    expect(page.locator("article")).to_have_attribute("aria-busy", "true")
    assert "[1]" not in answer.inner_text()
    chip = page.get_by_role("link", name="Source 1", exact=True)
    expect(chip).to_be_visible()
    expect(page.locator("article")).to_have_attribute("aria-busy", "false")
    expect(answer).to_have_text("The harbour market in Lisbon closed early1.")
    expect(page.get_by_role("heading", name="Cited")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("Answered with 1 source")
    chip.click()
    panel = page.get_by_role("dialog")
    expect(panel).to_contain_text("the harbour market closed early.")
    panel.get_by_role("link", name="Open post").click()
    expect(page).to_have_url(f"{server.url}/posts/101")
    expect(page.get_by_role("article")).to_contain_text("Rain all day in Lisbon")
    expect(page.get_by_role("article")).to_contain_text("by ana · 14 November 2023")
    page.go_back()
    expect(page.locator(".answer")).to_contain_text("closed early")  # the conversation is still there


def test_an_answer_without_support_says_so(open_page, server):
    server.engine.script = "Elephants fly [1]."
    page = open_page()
    ask(page, "What about the harbour?")
    expect(page.locator(".notice")).to_have_text("No post supports this answer.")
    expect(page.get_by_role("link", name="Source 1, does not say this")).to_be_visible()
    expect(page.locator(".card").first).to_contain_text("does not say this")


def test_stopping_aborts_the_model_and_answering_again_works(open_page, server):
    server.engine.script, server.engine.pause = " ".join(f"word{number}" for number in range(60)), 0.05
    page = open_page()
    ask(page, "harbour?")
    expect(page.locator(".answer")).to_contain_text("word")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    server.wait_until(server.engine.aborted.is_set)
    server.engine.script, server.engine.pause = "The harbour in Lisbon [2].", 0
    page.get_by_role("button", name="Answer again").click()
    expect(page.locator(".answer")).to_contain_text("The harbour in Lisbon")
    assert server.engine.samplings[-1].temperature > 0  # the likeliest words would be the same again
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("heading", name="Ask Robin")).to_be_visible()
    expect(page.locator("article")).to_have_count(0)


def test_a_follow_up_carries_the_conversation(open_page, server):
    page = open_page()
    ask(page, "What happened to the harbour market?")
    expect(page.locator(".answer")).to_contain_text("early")
    ask(page, "And in Lisbon?")
    expect(page.locator("article")).to_have_count(2)
    expect(page.locator("article >> nth=1")).to_have_attribute("aria-busy", "false")
    prompt = server.tokenizer.decode(server.engine.prompts[-1])
    assert "What happened to the harbour market?" in prompt
    assert "closed early." in prompt


def test_no_markup_of_a_post_or_an_answer_is_run(open_page, server):
    hostile = "<img src=x onerror=alert(1)> harbour **bold** `<b>code</b>` [1]"
    server.engine.script = hostile
    page = open_page()
    ask(page, "bold harbour alert script img onerror")
    expect(page.locator("article")).to_have_attribute("aria-busy", "false")
    expect(page.locator(".answer")).to_contain_text("<img src=x onerror=alert(1)>")
    expect(page.locator(".answer strong")).to_have_text("bold")
    expect(page.locator(".answer code")).to_have_text("<b>code</b>")
    assert page.locator("main img, main script").count() == 0
    page.goto(f"{server.url}/posts/105")
    expect(page.get_by_role("article")).to_contain_text("<script>alert(2)</script>")
    assert page.locator("main img, main script").count() == 0


def test_a_post_with_an_awkward_id_and_one_that_is_gone(open_page):
    page = open_page("/posts/at://did:plc:x/post/3k")
    expect(page.get_by_role("article")).to_contain_text("I watched the storm")
    expect(page.get_by_role("heading", name="Posts like this")).to_be_visible()
    page.locator("#related a").first.click()
    expect(page.get_by_role("article")).not_to_contain_text("I watched the storm")


@pytest.mark.parametrize("width", [360, 390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_speaks_french(open_page, width: int, scheme: str):
    page = open_page(locale="fr-FR", viewport={"width": width, "height": 740}, color_scheme=scheme)
    expect(page.get_by_role("heading", name="Demandez à Robin")).to_be_visible()
    expect(page.locator("html")).to_have_attribute("lang", "fr")
    page.locator("textarea").fill("Qu'est-ce qui se dit sur le harbour de Lisbon ?")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Répondre à nouveau")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(16, 20, 22)") == (scheme == "dark")


def test_the_keyboard_alone_suffices(open_page, server):
    server.engine.script, server.engine.pause = " ".join(f"word{number}" for number in range(60)), 0.05
    page = open_page()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    page.keyboard.type("harbour")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("market")
    page.keyboard.press("Enter")
    expect(page.locator(".answer")).to_contain_text("word")
    assert "harbour\nmarket" in server.tokenizer.decode(server.engine.prompts[-1])
    page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped.")).to_be_visible()


def test_a_dead_server_is_said(open_page, server):
    page = open_page()
    page.route("**/v1/chat/completions", lambda route: route.abort())
    ask(page, "harbour?")
    expect(page.locator(".notice")).to_contain_text("The server does not answer.")
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".answer")).to_contain_text("The harbour market")


def test_a_person_judges_an_answer_only_after_consent(browser, assistant, byte_tokenizer, tmp_path) -> None:
    log = FeedbackLog(tmp_path / "feedback.jsonl", lambda text: text.replace("Lisbon", "CITY"))
    with serving(assistant, byte_tokenizer, Serve(), feedback=log) as server:
        context = browser.new_context(locale="en-GB")
        page = context.new_page()
        page.goto(server.url)
        ask(page, "What about the market in Lisbon?")
        page.get_by_role("button", name="Bad answer").click()
        page.get_by_role("button", name="No", exact=True).click()
        assert log.count == 0
        page.get_by_role("button", name="Bad answer").click()
        page.get_by_role("button", name="Yes, keep them").click()
        page.get_by_role("button", name="The posts do not say it").click()
        expect(page.locator(".thanks")).to_be_visible()
        server.engine.script = "Sardines, people say [2]."
        page.get_by_role("button", name="Answer again").click()
        page.get_by_role("button", name="Good answer").click()
        expect(page.locator(".thanks")).to_be_visible()
        page.get_by_role("button", name="Edit question").click()
        expect(page.get_by_label("Your question")).to_have_value("What about the market in Lisbon?")
        context.close()
    first, second = (json.loads(line) for line in (tmp_path / "feedback.jsonl").read_text().splitlines())
    assert (first["feedback"], first["reason"]) == ("down", "unsupported")
    assert first["messages"] == [{"role": "user", "content": "What about the market in CITY?"}]
    assert second["feedback"] == "regenerate"
    assert second["better"].startswith("Sardines, people say")
    assert "101" in second["post_ids"]
    read = read_preferences(tmp_path / "feedback.jsonl", "feedback", "own")
    assert [one.rejected for one in read.preferences] == [first["answer"], first["answer"]]
