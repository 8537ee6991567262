"""Generated documentation is fresh, and links in it lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def test_generated_pages_are_fresh():
    done = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_room_is_in_the_architecture_page():
    page = (ROOT / "docs" / "architecture.md").read_text()
    for room in (ROOT / "analyzer").iterdir():
        if room.is_dir() and (room / "__init__.py").exists():
            assert f"{room.name}/" in page, f"docs/architecture.md does not mention {room.name}/"


def test_every_method_is_in_the_gallery():
    from analyzer.attribution.methods import METHODS

    page = (ROOT / "docs" / "gallery.md").read_text()
    for name in METHODS:
        assert f"images/gallery/{name}.jpg" in page, "run python docs/gallery.py"


def test_the_example_of_the_readme_runs(tmp_path):
    text = (ROOT / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0].replace('"heatmap.png"', repr(str(tmp_path / "heatmap.png")))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "heatmap.png").exists()


def test_ci_runs_the_tests_that_the_readme_names():
    ci = (ROOT / ".ci" / "run").read_text()
    line = "python3 -m venv .venv && . .venv/bin/activate && pip install '.[dev]' && python -m pytest"
    assert f"\n{line}\n" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"pip install .*'\.\[custom-ops,dev,torch\]'", ci) and "\npython -m pytest\n" in ci
