"""Duels: strengths that were put in come out, length is controlled for, models and people judge."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from wingspan.errors import InputError
from wingspan.evaluate import duel
from wingspan.evaluate.duel import Pair, pairs_of, standings, strengths
from wingspan.progress import SilentProgress

pytestmark = pytest.mark.slow  # the harness alone takes seconds to import

PROMPTS = [[{"role": "user", "content": f"question {number}"}] for number in range(200)]


def test_strengths_are_recovered_with_intervals_around_them() -> None:
    random = np.random.default_rng(1)
    truth = {"a": 1.0, "b": 0.0, "c": -1.0}
    pairs = pairs_of({name: ["text"] * 200 for name in truth}, PROMPTS, 1)
    points = [float(random.random() < 1 / (1 + np.exp(truth[one.right] - truth[one.left]))) for one in pairs]
    found = standings(pairs, points, 1)
    assert [one.model for one in found] == ["a", "b", "c"]
    for one in found:
        value, low, high = one.elo
        assert low < 1000 + 400 / np.log(10) * truth[one.model] < high
        assert low < value < high
        assert high - low < 120
    assert sum(one.elo[0] for one in found) == pytest.approx(3000)


def test_a_judge_that_likes_length_alone_finds_no_difference_at_equal_length() -> None:
    random = np.random.default_rng(2)
    answers = {
        "long": ["x" * size for size in random.integers(60, 140, 200)],
        "short": ["x" * size for size in random.integers(20, 100, 200)],
    }
    pairs = pairs_of(answers, PROMPTS, 1)
    points = [
        float(random.random() < 1 / (1 + np.exp((len(one.answers[1]) - len(one.answers[0])) / 25))) for one in pairs
    ]
    first, second = standings(pairs, points, 1)
    assert first.model == "long"
    assert first.elo[1] > second.elo[2]
    assert first.equal_length[1] < 1000 < first.equal_length[2]


def test_who_wins_everything_stays_finite_and_empty_answers_are_counted() -> None:
    pairs = pairs_of({"good": ["yes"] * 20, "bad": [""] * 20}, PROMPTS[:20], 3)
    first, second = standings(pairs, [float(one.left == "good") for one in pairs], 1)
    assert (first.model, first.points, first.empty, second.empty) == ("good", 1.0, 0, 20)
    assert np.isfinite(first.elo).all()
    assert {one.left for one in pairs} == {"good", "bad"}  # sides are drawn
    with pytest.raises(InputError, match="nothing was judged"):
        standings([], [], 1)


def test_newton_finds_where_the_slope_is_zero() -> None:
    random = np.random.default_rng(3)
    columns, won, weights = random.normal(size=(50, 3)), random.random(50), random.integers(0, 3, 50).astype(float)
    beta = strengths(columns, won, weights)
    p = 1 / (1 + np.exp(-columns @ beta))
    assert columns.T @ (weights * (won - p)) - 0.1 * beta == pytest.approx(np.zeros(3), abs=1e-6)


def test_models_answer_and_judge_in_both_orders(tiny_model: Path, tmp_path: Path) -> None:
    prompts = duel.read_prompts(_lines(tmp_path / "p.jsonl", [{"turns": ["tea?", "more"]}, {"question": "rain?"}]))
    assert [one[0]["content"] for one in prompts] == ["tea?", "rain?"]
    models = {"one": str(tiny_model), "two": str(tiny_model)}
    answers = duel.answered(models, prompts, 8, tmp_path, SilentProgress())
    assert answers["one"] == answers["two"]
    pairs = pairs_of(answers, prompts, 1)
    points = duel.judged(pairs, str(tiny_model), tmp_path, SilentProgress())
    assert points == [0.5, 0.5]  # the same answers: whatever side it likes, both orders cancel


def test_a_prompt_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match="no prompts"):
        duel.read_prompts(tmp_path / "empty.txt")
    (tmp_path / "bad.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match="no prompt") as refused:
        duel.read_prompts(tmp_path / "bad.jsonl")
    assert refused.value.where.endswith("bad.jsonl:1")


@pytest.mark.browser
def test_a_person_judges_blind_on_the_page(chromium: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    pairs = [
        Pair(number, f"<b>question</b> {number}", "secret-one", "secret-two", ("</script><i>x", "y" * 2000))
        for number in range(3)
    ]
    page_file = duel.write_page(pairs, tmp_path)
    assert "secret" not in page_file.read_text()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto(page_file.as_uri())
        assert page.inner_text("#question") == "<b>question</b> 0"
        assert page.inner_text("#first") == "</script><i>x"
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.click("text=A is better")
        page.keyboard.press("t")
        page.reload()
        assert page.inner_text("#place") == "3 of 3, 2 judged"
        with page.expect_download() as download:
            page.click("#save")
        download.value.save_as(tmp_path / "verdicts.json")
        browser.close()
    judged, points = duel.read_verdicts(tmp_path / "verdicts.json", pairs)
    assert (judged, points) == (pairs[:2], [1.0, 0.5])
    (tmp_path / "bad.json").write_text('{"9": "A"}')
    with pytest.raises(InputError, match="no verdicts"):
        duel.read_verdicts(tmp_path / "bad.json", pairs)


def _lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
