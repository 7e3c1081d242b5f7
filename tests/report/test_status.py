"""A run while it works: its screen in a terminal and its page, from the files of an unfinished stage."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from wingspan.console import TerminalProgress
from wingspan.errors import InputError
from wingspan.report.live import live_server
from wingspan.report.status import curve, screen
from wingspan.workspace import Run, find_run, lock

PROJECT = '[project]\nname = "busy"\n[model]\ndepth = 2\n'
LINE = {"until": 60, "loop": "train", "step": 0, "tokens": 900, "left_out": False, "kwh": 0.5, "usd": 2.0}
LINE |= {"energy": "RAPL counter", "price": "$2 per device-hour", "ns": {"start": 30 * 10**9, "compute": 30 * 10**9}}


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn')


@pytest.fixture
def busy(tmp_path: Path) -> Run:
    """A run whose train stage is under way, its last lines half-written."""
    (tmp_path / "wingspan.toml").write_text(PROJECT)
    run = find_run(tmp_path, runs=tmp_path / "runs")
    partial = run.folder / ".train.partial"
    partial.mkdir(parents=True)
    write_lines(partial / "metrics.jsonl", [{"step": step, "loss": 3 - step / 20} for step in range(30)])
    write_lines(partial / "goodput.jsonl", [LINE])
    said = {"task": "train", "done": 30, "total": 400, "unit": "steps", "note": "<b>loss</b> 1.550", "stage": "train"}
    (run.folder / "progress.json").write_text(json.dumps(said))
    return run


def test_the_screen_shows_losses_and_where_time_went(busy: Run) -> None:
    console = Console(width=150, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with lock(busy, "test"):
        console.print(screen(busy))
    text = console.export_text()
    assert "train: 30 of 400 steps, <b>loss</b> 1.550" in text
    assert "train loss  3.000 █" in text
    assert "▁ 1.550" in text
    assert "train goodput 50%: compute 50%, start 50%; $2.00" in text


def test_the_page_renews_its_content_and_escapes_it(busy: Run) -> None:
    server = live_server(busy, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    try:
        with lock(busy, "test"):
            page, now = (urllib.request.urlopen(url + path).read().decode() for path in ("", "now"))
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url + "wingspan.toml")
        with pytest.raises(InputError, match=f"port {server.server_port} cannot be opened"):
            live_server(busy, server.server_port)
    finally:
        server.shutdown()
        server.server_close()
    assert now.strip() in page
    assert 'fetch("now")' in page
    assert "&lt;b&gt;loss&lt;/b&gt; 1.550" in now
    assert "train: loss" in now
    assert "50% in steps that count" in now


@pytest.mark.browser
def test_a_browser_sees_what_the_run_does_next(busy: Run, chromium: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    where = [str(busy.base), "--runs", str(busy.folder.parent)]
    serve = [sys.executable, "-m", "wingspan", "status", *where, "--serve", "0", "--json"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        url = json.loads("".join(server.stdout.readline() for _ in range(3)))["url"]
        with playwright.sync_playwright() as running:
            browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 390, "height": 800})
            page.goto(url)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            write_lines(busy.folder / ".train.partial/goodput.jsonl", [LINE | {"usd": 7.0}])
            page.get_by_text("$7.00").first.wait_for(timeout=20_000)
            server.send_signal(signal.SIGINT)
            page.get_by_text("the server does not answer").wait_for(timeout=20_000)
            browser.close()
        assert server.wait() == 0


def test_where_no_bar_can_be_drawn_a_line_says_as_much(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wingspan.console._LINE_EVERY_S", 0.0)
    monkeypatch.setattr("wingspan.console.notices", Console(stderr=True, width=120))
    with TerminalProgress("train", None) as progress, progress.task("train", 400, "steps") as task:
        task.advance(100)
        task.advance(1, "loss 1.550, goodput 90%")
    assert capsys.readouterr().err.splitlines()[-1].startswith("  train: 101/400 steps")
    with TerminalProgress("train", None, quiet=True) as progress, progress.task("train", 400, "steps") as task:
        task.advance(100, "loss 2")
    assert capsys.readouterr().err == ""


def test_a_curve_keeps_its_width_and_its_shape() -> None:
    assert curve([4, 3, 2, 1]) == "██▅▁"
    assert len(curve(list(range(1000)))) == 60
    assert curve([2.0]) == "▁"
