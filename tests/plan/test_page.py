"""What a person sees of a plan: the screen at every width, and the page with its sliders in a real browser."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from wingspan.model.shape import shape_of
from wingspan.plan import stage
from wingspan.plan.devices.machine import nominal
from wingspan.plan.screens.explore import scaled
from wingspan.plan.screens.terminal import render, render_derivation
from wingspan.plan.step.network import network_of
from wingspan.progress import SilentProgress
from wingspan.project import Project
from wingspan.project_file import load_project
from wingspan.workspace import Run, StageContext

EXAMPLES = Path(__file__).parents[2] / "examples"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def planned(project: Project, folder: Path) -> Path:
    """The folder of a plan of the project, made by the stage itself on a machine of known speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "measure", lambda **_: nominal())
        stage.work(StageContext(Run(folder, project, folder), folder, SilentProgress()))
    return folder


@pytest.fixture(scope="module")
def frontier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planned(load_project(EXAMPLES / "frontier"), tmp_path_factory.mktemp("frontier"))


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planned(load_project(EXAMPLES / "laptop"), tmp_path_factory.mktemp("laptop"))


def plan_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "plan.json").read_text())


def screen(shown: object, width: int) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(shown)
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_screen_fits_its_width_and_shows_what_a_person_asks_first(frontier: Path, width: int) -> None:
    lines = screen(render(plan_of(frontier)), width)
    assert max(map(len, lines)) <= width
    assert len(lines) < (45 if width >= 120 else 75)
    shown = " ".join(" ".join(lines).split())
    for words in ("10,240 x H100 SXM", "Memory per device", "One step", "The run", "goodput", "The bill", "B200 SXM"):
        assert words in shown


def test_the_screen_of_this_machine_shows_its_stages(laptop: Path) -> None:
    shown = "\n".join(screen(render(plan_of(laptop)), 80))
    for words in ("prepare", "train", "align", "evaluate", "On 10,000 H100"):
        assert words in shown


def test_a_derivation_fits_eighty_columns() -> None:
    project = load_project(EXAMPLES / "frontier")
    layout, choice = stage.decide_layout(project, shape_of(project.model))
    explaining = stage.explainer(project, EXAMPLES, nominal(), layout, choice)
    lines = screen(render_derivation(explaining.explain("restart_s")), 80)
    assert max(map(len, lines)) <= 80
    assert "fleet.restart_s" in lines[0]


def test_the_page_is_self_contained_small_and_readable_without_a_script(frontier: Path) -> None:
    html = (frontier / "plan.html").read_text()
    plan = plan_of(frontier)
    assert len(html.encode()) < 400_000
    assert "http://" not in html
    assert "https://" not in html
    without_scripts = html.split('<script type="application/json"')[0]
    for chip in plan["chips"]:
        assert chip["device"] in without_scripts
    for name in ("fleet.cost", "fleet.step_items_s.matmul", "fleet.goodput"):
        assert f"why-{name}" in without_scripts


def test_names_from_the_project_are_text_not_markup(tmp_path: Path) -> None:
    project = load_project(EXAMPLES / "laptop")
    hostile = project.project.model_copy(update={"name": "</script><img src=x onerror=alert(1)>"})
    html = (planned(project.model_copy(update={"project": hostile}), tmp_path) / "plan.html").read_text()
    assert "<img" not in html


def test_a_scaled_network_keeps_its_kind_and_has_about_the_parameters_asked_for() -> None:
    whole = network_of(shape_of(load_project(EXAMPLES / "frontier").model))
    for part in (1 / 16, 1 / 4, 1 / 2, 2.0):
        network = scaled(whole, part)
        assert network.heads % network.kv_heads == 0
        assert network.hidden % network.head_dim == 0
        assert network.parameters == pytest.approx(part * whole.parameters, rel=0.08)
    assert scaled(whole, 1.0) is whole


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    contexts, problems = [], []

    def open_page(folder: Path, width: int = 1280, **settings: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **settings))
        page = contexts[-1].new_page()
        file = (folder / "plan.html").as_uri()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: None if request.url == file else problems.append(request.url))
        page.goto(file)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def outcome(page: Any) -> dict[str, float]:
    """The numbers beside the sliders."""
    pairs = page.eval_on_selector_all("#outcome .told", "all => all.map(one => [one.dataset.name, +one.dataset.value])")
    return dict(pairs)


def slide(page: Any, name: str, position: float) -> None:
    page.locator(f"#{name}").evaluate(
        "(input, position) => { input.value = position; input.dispatchEvent(new Event('input', {bubbles: true})); }",
        position,
    )


SCALED = ("calendar_days", "cost", "cost_owned", "energy_mwh", "energy_cost", "carbon_t", "failures", "memory_bytes")


@pytest.mark.browser
def test_the_sliders_start_at_the_plan(frontier: Path, open_page: Any) -> None:
    shown, fleet = outcome(open_page(frontier)), plan_of(frontier)["fleet"]
    for name in (*SCALED, "goodput", "mfu", "step_s"):
        assert shown[name] == pytest.approx(fleet[name]["value"], rel=1e-3), name
    assert shown["loss"] == pytest.approx(plan_of(frontier)["quality"]["loss"]["value"], rel=1e-3)


@pytest.mark.browser
def test_the_sliders_say_what_a_new_plan_says(frontier: Path, open_page: Any, tmp_path: Path) -> None:
    page = open_page(frontier)
    stops = page.evaluate("devices")
    slide(page, "devices", stops.index(5120))
    slide(page, "tokens", -0.5)
    slide(page, "price", 1)
    slide(page, "pue", 1.4)
    slide(page, "kwh", 0.05)
    slide(page, "grid", 100)
    settings = ("fleet.devices=5120", f"train.tokens={round(8.2e12 * 10**-0.5)}", "fleet.price_per_device_hour=5.9")
    site = ("fleet.pue=1.4", "fleet.price_per_kwh=0.05", "fleet.grid_gco2_per_kwh=100")
    project = load_project(EXAMPLES / "frontier", [*settings, *site])
    layout, choice = stage.decide_layout(project, shape_of(project.model))
    fleet = stage.own_plan(project, shape_of(project.model), nominal(), layout, choice, None)["fleet"]
    shown = outcome(page)
    for name in SCALED:
        assert shown[name] == pytest.approx(fleet[name]["value"], rel=1e-3), name
    page.get_by_role("button", name="Back to the plan").click()
    assert outcome(page)["cost"] == pytest.approx(plan_of(frontier)["fleet"]["cost"]["value"], rel=1e-3)


@pytest.mark.browser
def test_the_page_is_used_by_keyboard_and_sorted_by_its_heads(frontier: Path, open_page: Any) -> None:
    page = open_page(frontier)
    before = outcome(page)
    page.get_by_role("slider", name="Devices").focus()
    page.keyboard.press("ArrowRight")
    assert outcome(page)["calendar_days"] != before["calendar_days"]
    assert page.get_by_role("slider", name="Devices").get_attribute("aria-valuetext") == "20,480"
    assert "20,480" in page.get_by_role("status").inner_text()
    page.get_by_role("button", name="Energy").click()
    assert page.locator("th", has=page.get_by_role("button", name="Energy")).get_attribute("aria-sort") == "ascending"
    values = page.eval_on_selector_all(
        "#chip-table tbody td:nth-of-type(6)", "cells => cells.map(cell => cell.dataset.value)"
    )
    known = [float(value) for value in values if value]
    assert known == sorted(known)
    assert all(values[: len(known)])


@pytest.mark.browser
@pytest.mark.parametrize("example", ["frontier", "laptop"])
def test_the_page_fits_a_phone_in_the_dark_and_prints(
    example: str, open_page: Any, request: pytest.FixtureRequest
) -> None:
    page = open_page(request.getfixturevalue(example), 390, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 20, 22)"
    for details in page.locator("details").all():
        details.evaluate("one => { one.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.pdf(format="A4").startswith(b"%PDF")


@pytest.mark.browser
def test_without_a_script_the_page_still_has_every_table(frontier: Path, open_page: Any) -> None:
    page = open_page(frontier, java_script_enabled=False)
    assert page.locator("#chip-table tbody tr").count() >= 20
    assert page.get_by_text("The sliders need a script").is_visible()
    assert not page.locator(".explorer").is_visible()
