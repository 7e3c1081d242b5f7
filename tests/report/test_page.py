from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from wingspan.errors import InputError, WorkError
from wingspan.report import overview, quality
from wingspan.report.page import write_report
from wingspan.report.record import read_record
from wingspan.stages import STAGE_NAMES
from wingspan.units import amount
from wingspan.workspace import Run

MakeRun = Callable[..., Run]


def words(page: str) -> str:
    """What a reader sees of the page, roughly."""
    without = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", without).replace("\xa0", " ").split())


def test_the_report_says_what_came_of_the_run(make_run: MakeRun) -> None:
    run = make_run()
    path = write_report(run)
    assert path == run.folder / "report.html"
    text = words(path.read_text())
    assert "Testbird, made from 950 posts in 7 min 40 s on 2 cores (Invented CPU)" in text
    assert "better than its base on 3 of 4 measures" in text
    assert "wingspan serve" in text
    assert "Everybody in this fixture was invented and agreed to it." in text
    assert "CC0-1.0" in text
    assert "an invented finding" in text
    assert "These posts do not answer it; the right answer says so." in text
    assert "(an empty answer)" in text


def test_the_posts_are_told_by_source_language_and_rule(make_run: MakeRun) -> None:
    text = words(write_report(make_run()).read_text())
    assert "made-up CC0-1.0 1,000 49 1 950" in text
    assert "en 920 97.8% near duplicate 2.2%" in text
    assert "made-up fr 4 made-up en 1.5" in text
    assert "3: exam.jsonl#7, d-1: exam.jsonl#8" in text
    assert "2,048 tokens 2.50" in text
    assert "up to 128" in text
    assert "A few texts that were tagged and kept shouting: 12 WHY IS NOBODY TALKING ABOUT TRAMS" in text


def test_the_time_of_training_is_accounted_for(make_run: MakeRun) -> None:
    text = words(write_report(make_run()).read_text())
    assert "36% in steps that count" in text
    assert "compute steps that count 40 s 36.4% 4k" in text
    assert "lost steps left out, or done again after a restart 10 s 9.1% 1k" in text
    assert "last step to the first of the next 50 s 45.5% (for 5k)" in text
    assert "all since the first start 1 min 50 s 100% 1 kWh $5.00" in text
    assert "Energy measured: RAPL counter. Money: $2 per device-hour." in text
    assert "made-up fr from 1.500 to 1.250" in text


def test_the_page_needs_nothing_else_and_runs_no_script(make_run: MakeRun) -> None:
    page = write_report(make_run()).read_text()
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page)
    assert not re.findall(r"url\(|@import", page)


def test_hostile_posts_stay_text(make_run: MakeRun) -> None:
    page = write_report(make_run()).read_text()
    assert "<img" not in page
    assert "<b>Not bold</b>" not in page
    assert page.count("&lt;script&gt;alert(") == 2  # a refused text and a cited post
    assert "{{ 7 * 7 }}" in page


def test_citations_become_chips_and_doubtful_ones_are_marked() -> None:
    answer = quality.Answer("assistant", "<i>late</i> [2], early [3].", "", frozenset({3}))
    assert quality.with_chips(answer) == (
        '&lt;i&gt;late&lt;/i&gt; <b class="chip">2</b>, early <b class="chip doubtful">3</b>.'
    )


def test_without_a_run_there_is_no_report(make_run: MakeRun) -> None:
    with pytest.raises(InputError, match="nothing has been run yet"):
        write_report(make_run(()))


@pytest.mark.parametrize("number", range(1, len(STAGE_NAMES)))
def test_a_run_that_has_not_ended_says_how_to_go_on(make_run: MakeRun, number: int) -> None:
    text = words(write_report(make_run(STAGE_NAMES[:number])).read_text())
    for name in STAGE_NAMES[number:]:
        assert f"wingspan {name} " in text
    assert ("Testbird is not made yet. A sentence of the plan." in text) == (number < 5)


def test_what_a_stage_did_not_record_is_said(make_run: MakeRun) -> None:
    run = make_run()
    manifest = run.folder / "train/manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "summary": {}}))
    (run.folder / "train/metrics.jsonl").unlink()
    text = words(write_report(run).read_text())
    assert "The loss of the steps is not recorded." in text
    assert "Held-out bits per byte, after not recorded" in text


def test_a_plan_for_another_fleet_predicts_no_stage_here(make_run: MakeRun) -> None:
    run = make_run(("plan",))
    path = run.folder / "plan/plan.json"
    plan = json.loads(path.read_text())
    del plan["this_machine"]
    path.write_text(json.dumps(plan))
    text = words(write_report(run).read_text())
    assert "planned for another fleet than this machine" in text


def test_the_report_follows_the_run(make_run: MakeRun) -> None:
    run = make_run()
    first = write_report(run).read_text()
    assert write_report(run).read_text() == first
    shutil.rmtree(run.folder / "evaluate")
    assert "Nothing has been scored." in words(write_report(run).read_text())


def test_a_damaged_file_is_named(make_run: MakeRun) -> None:
    run = make_run()
    (run.folder / "evaluate/scores.json").write_text('{"models": [')
    with pytest.raises(WorkError, match=r"scores\.json"):
        write_report(run)


def test_better_is_what_the_paired_test_says(make_run: MakeRun) -> None:
    scores = read_record(make_run()).scores
    assert scores is not None
    assert quality.improvements(scores) == (3, 0, 4)
    for task in scores["tasks"]:
        task["higher_is_better"] = not task["higher_is_better"]
    assert quality.improvements(scores) == (0, 3, 4)


def test_measured_is_held_against_the_predicted_band(make_run: MakeRun) -> None:
    time, memory = overview.comparisons(read_record(make_run()))
    assert [hit.note for _, _, _, hit in time.rows] == [
        "inside the band",
        "inside the band",
        "outside the band",
        "outside the band",
    ]
    assert time.rows[1][3].text == "0.92"
    assert memory.rows[0][2].text == "248 MiB"


def test_energy_is_measured_only_where_every_stage_could_measure(make_run: MakeRun) -> None:
    run = make_run()
    guessed = overview.energy(read_record(run))
    assert guessed is not None
    assert guessed.basis == "predicted"
    assert guessed.low == pytest.approx(guessed.value / 2)
    for name in STAGE_NAMES:
        path = run.folder / name / "manifest.json"
        energy = {"value": 0.001, "unit": "kWh", "basis": "measured", "source": "counter"}
        path.write_text(json.dumps({**json.loads(path.read_text()), "energy": energy}))
    counted = overview.energy(read_record(run))
    assert counted is not None
    assert (counted.basis, counted.value) == ("measured", pytest.approx(0.006))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0018, "kWh", "1.8 Wh"),
        (2100.0, "MWh", "2.1 GWh"),
        (2450.0, "t", "2,450 t"),
        (12.5, "days", "12.5 days"),
        (0.01, "days", "14 min 24 s"),
        (0.41, "share", "41%"),
        (7e6, "tokens/s", "7M tokens/s"),
    ],
)
def test_each_unit_is_said_in_one_way(value: float, unit: str, text: str) -> None:
    assert amount(value, unit) == text


@pytest.mark.browser
def test_the_page_fits_a_phone_and_breaks_no_rule_of_its_own(make_run: MakeRun, chromium: str) -> None:
    from playwright.sync_api import sync_playwright

    report = write_report(make_run())
    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("console", lambda message: problems.append(message.text))
        page.on("request", lambda request: problems.append(request.url) if request.url != report.as_uri() else None)
        page.goto(report.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.locator("svg[role=img]").count() >= 8
        assert page.evaluate("[...document.querySelectorAll('.chart text')].every(t => t.getBBox().width <= 390)")
        assert page.pdf(format="A4").startswith(b"%PDF")
        browser.close()
    assert problems == []


def test_paths_of_this_machine_stay_out(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path.parent)
    page = write_report(make_run()).read_text()
    assert str(tmp_path.parent) not in page
    assert f"wingspan serve {tmp_path.name}" in page


def test_a_rival_safety_and_wrong_answers_are_shown(make_run: MakeRun) -> None:
    run = make_run()
    path = run.folder / "evaluate/scores.json"
    scores = json.loads(path.read_text())
    scores["models"].append("rival")
    for task, group in zip(scores["tasks"], ("platform", "platform", "general", "safety"), strict=True):
        task["group"] = group
    scores["tasks"][1]["scores"]["rival"] = {"value": 0.9, "low": 0.8, "high": 1.0}
    scores["tasks"][2]["contaminated"] = 17
    scores["empty_answers"], scores["unread_answers"] = {"base": 0, "rival": 3}, {"rival": 1200}
    answers = {"base": "", "assistant": "<i>no</i>", "rival": "yes"}
    scores["worst"] = [{"score": "reply_choice", "question": "<b>why</b>", "expected": "because", "answers": answers}]
    path.write_text(json.dumps(scores))
    page = write_report(run).read_text()
    text = words(page)
    for told in (
        "own ground",
        "In general",
        "Safety",
        "not asked",
        "17 of them in the training posts",
    ):
        assert told in text
    assert "rival: 3 empty answers" in text
    assert "rival: 1,200 answers that name no choice" in text
    assert "Right: because" in text
    assert "(an empty answer)" in text
    assert "&lt;b&gt;why&lt;/b&gt;" in page
    assert "<i>no</i>" not in page
    assert page.count('class="interval') == 2 + 3 + 2  # safety is a table alone
