"""What the README tells people to type, typed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.partition(" #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]
# Minutes of work, and tested whole elsewhere: here they go as far as their first seconds.
SHORTENED = {"run": ["--until", "prepare"], "serve": ["--help"], "rehearse examples/frontier": ["--ranks", "first"]}


def test_the_readme_shows_the_two_commands_first() -> None:
    assert COMMANDS[0] == "make demo"
    assert "make test" in COMMANDS


@pytest.mark.parametrize("command", sorted({one for one in COMMANDS if one.startswith("make ")}))
def test_make_knows_the_target(command: str) -> None:
    subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wingspan_commands_work_in_the_order_given(tmp_path: Path) -> None:
    environment = os.environ | {"WINGSPAN_RUNS": str(tmp_path / "runs")}
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    typed = [one.removeprefix("wingspan ") for one in COMMANDS if one.startswith("wingspan ")]
    assert len(typed) >= 8
    for words in typed:
        shorter = next((more for start, more in SHORTENED.items() if words.startswith(start)), [])
        arguments = [*shlex.split(words), *shorter]
        done = subprocess.run(
            [sys.executable, "-m", "wingspan", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"


def test_every_link_of_the_documentation_leads_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
