"""Generated documentation is fresh, and links in it lead somewhere."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def test_generated_pages_are_fresh():
    done = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


BRITISH = re.compile(
    r"\w*(?:colour|\bgrey|centre|behaviour|neighbour|favour|honour|labelled|modelled|licence|catalogue|artefact)\w*|"
    r"\w*(?:initial|local|maxim|minim|normal|optim|organ|parametr|quant|recogn|regular|serial|standard|summar|visual)"
    r"is(?:e|ed|es|er|ers|ing|ation|ations|able)\b",
    re.IGNORECASE,
)
CODES = {"name, dequantised"}  # of the JSON, where the spelling of codes and keys stays


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_pages_are_in_american_english(page):
    """Help and the equations of operators and methods are in the generated pages; code has its own names."""
    assert not BRITISH.findall(re.sub(r"`[^`\n]+`", "", page.read_text(encoding="utf-8")))


def test_messages_are_in_american_english():
    """Texts of more than one word in the code; docstrings, which are for us, are free."""
    found = []
    for path in sorted((ROOT / "analyzer").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
        texts = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        for text in texts:
            ours = " " not in text.value or text.value in CODES or id(text) in docstrings
            found += [] if ours else [f"{path.name}:{text.lineno}: {w}" for w in BRITISH.findall(text.value)]
    assert not found
    assert BRITISH.findall("the grey centres of Colours, quantised") == ["grey", "centres", "Colours", "quantised"]


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


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("sphinx", "myst_parser", "furo"))), reason="needs the extra `docs`"
)
def test_the_site_is_built_and_loads_nothing_from_a_network(tmp_path):
    """Warnings, such as a link or a heading that leads nowhere or a page in no list, are errors."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(tmp_path / "kept")]
    done = subprocess.run([*command, "docs", str(tmp_path / "site")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = re.compile(
        r"<(?:script|img|iframe|source)[^>]*\ssrc=\"(\w+:)?//|<link[^>]*\shref=\"(\w+:)?//|@import|url\(.?http"
    )
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix(".html")
        assert not loaded.findall((tmp_path / "site" / name).read_text(encoding="utf-8")), name
    assert "Grad-CAM" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")


def test_ci_runs_the_tests_that_the_readme_names():
    ci = (ROOT / ".ci" / "run").read_text()
    line = "python3 -m venv .venv && . .venv/bin/activate && pip install '.[dev]' && python -m pytest"
    assert f"\n{line}\n" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert (
        re.search(
            r"pip install .*'\.\[browser,custom-ops,dev,docs,explore,litert,openvino,plot,ray,remote,torch\]'", ci
        )
        and "\npython -m pytest\n" in ci
    )
