"""JUnit, SARIF and Markdown of findings: what a CI system reads, whatever the names in a model are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import analyzer
from analyzer.errors import InputError
from analyzer.report import audit, comparison, formats
from analyzer.validation import Thresholds, read_thresholds
from analyzer.validation.checks import CHECKS, read_limits
from analyzer.validation.thresholds import of_project
from tests.test_seen import compared

ROOT = Path(__file__).resolve().parents[1]
CNN = str(ROOT / "models" / "digits_cnn.onnx")
PICTURES = sorted(map(str, (ROOT / "examples").glob("digits_*.png")))
NAMES = (
    "<script>alert(1)</script>", "a|b", "`code`", "``two`` `", "![x](http://e.example/x.png)", "[here](http://e.example)",
    "*bold* _em_ ~~gone~~", "line\nbreak", "# no heading", "]]>", "&lt;b&gt;", "\x00\x07\x1b[31m", "\ud800", "\\[x](y)",
)  # fmt: skip


def of(kind: str, name: str) -> dict[str, Any]:
    """A document of which every text is that name."""
    finding = {"code": "labels-differ", "where": name, "value": 0.5, "limit": 0.95, "words": f"at {name}!"}
    if kind == "compare":
        return compared(name) | {"findings": [finding]}
    checks = [{"check": "x", "title": name, "code": "labels-differ", "definition": name, "where": name}]
    checks += [{"check": "y", "title": name, "code": "never-measured", "definition": name, "why": name}]
    report = {"identity": {"model": name}, "summary": {name: 0.5}, "checks": checks}
    return {"audit": report, "findings": [finding], "run": {}}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("kind", ["compare", "audit"])
def test_a_name_is_text_for_every_machine(kind, name):
    page = comparison if kind == "compare" else audit
    document = of(kind, name)
    suite = ElementTree.fromstring(page.junit(document).encode("utf-8", "backslashreplace"))
    (failure,) = suite.iter("failure")
    shown = formats.NOT_XML.sub("\ufffd", name)
    assert failure.text is not None and f"at {shown}!".split() == failure.text.split() and not list(failure)
    (run,) = json.loads(page.sarif(document))["runs"]
    message, at = run["results"][0]["message"]["text"], run["results"][0]["locations"][0]
    assert re.sub(r"\\(.)", r"\1", message) == f"at {name}!" and not re.search(r"(?<!\\)(\\\\)*\[", message)
    assert re.fullmatch(r"[\w.~/%-]*", at["physicalLocation"]["artifactLocation"]["uri"])


@pytest.mark.parametrize("name", NAMES[:11], ids=ascii)
@pytest.mark.parametrize("kind", ["compare", "audit"])
def test_a_name_is_no_markup_of_markdown(kind, name):
    """By a renderer that lets HTML through."""
    markdown_it = pytest.importorskip("markdown_it")
    page = comparison if kind == "compare" else audit
    renderer = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    ours, plain = (renderer.render(page.markdown(of(kind, one))) for one in (name, "plain"))

    def tags(html: str) -> list[str]:
        return re.findall(r"</?[a-z]\w*", html)

    assert tags(ours) == tags(plain), ours
    assert "href" not in ours and "src" not in ours


@pytest.mark.parametrize("name", NAMES[:11], ids=ascii)
def test_text_and_code_of_markdown_are_shown_as_they_are(name):
    markdown_it = pytest.importorskip("markdown_it")
    renderer, shown = markdown_it.MarkdownIt("commonmark", {"html": True}), " ".join(name.split())
    for text in (f"x {formats.plain(name)} x", f"x {formats.code(name)} x"):
        (paragraph,) = [t for t in renderer.parse(text.replace(r"\|", "|")) if t.type == "inline"]
        assert "".join(t.content for t in paragraph.children or ()) == f"x {shown} x"


def test_an_audit_has_a_case_for_every_finding_that_can_be():
    done = analyzer.audit(CNN, PICTURES, probes=2, threshold={"border": 0.1})
    suite = ElementTree.fromstring(audit.junit(done.as_data()))
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert set(cases) == {check.code for check in CHECKS if check.code}
    failed = [name for name, case in cases.items() if case.find("failure") is not None]
    skipped = [name for name, case in cases.items() if case.find("skipped") is not None]
    assert failed == ["border-evidence"] == [f["code"] for f in done.findings or ()]
    assert "labels-mixed-up" in skipped and suite.get("skipped") == str(len(skipped))


# ---- Thresholds ----


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "deeper").mkdir()
    return tmp_path / "deeper"


def test_a_project_gives_each_command_its_thresholds(place: Path, run):
    project = place.parent / "pyproject.toml"
    project.write_text(
        "[tool.onnx-analyzer.compare.thresholds]\nevidence_iou = 0.7\n"
        "[tool.onnx-analyzer.audit.thresholds]\nborder = 0.1\n"
    )
    assert read_thresholds(project, {"score_drift": 0.2}) == Thresholds(evidence_iou=0.7, score_drift=0.2)
    assert read_limits(project) == {"border": 0.1}
    assert of_project("audit", place) == project
    code, out, said = run("audit", CNN, *PICTURES, "--probes", "2", "--format", "sarif")
    assert code == 1 and str(project) in said
    assert json.loads(out)["runs"][0]["results"][0]["ruleId"] == "border-evidence"


def test_a_project_without_thresholds_changes_nothing(tmp_path: Path):
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n[thresholds]\nscore_drift = 1\n")
    assert of_project("compare", tmp_path) is None
    assert read_thresholds(tmp_path / "pyproject.toml") == Thresholds()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bordr = 1", "border"),
        ("border = 'x'", "number"),
        ("confidence = 0.5", "no threshold"),  # a figure that is not judged
        ("thresholds = 1", "table"),
    ],
)
def test_thresholds_of_an_audit_that_are_none(tmp_path: Path, text, words):
    file = tmp_path / "limits.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        read_limits(file)
