"""JUnit, SARIF and Markdown: forms in which CI systems show findings. Foreign texts are no markup in any of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from analyzer.plain import as_json

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2


def placed(finding: Mapping[str, Any]) -> str:
    """A finding's words after the place that it names, unless they name it."""
    where, words = finding["where"], str(finding["words"])
    return words if where in words else f"{where}: {words}"


# ---- JUnit ----


@dataclass(frozen=True)
class Case:
    """A test case: it fails if there are `failures`, else it is skipped if `skipped` says why."""

    name: str
    failures: Sequence[str] = ()
    skipped: str = ""


def junit(command: str, cases: Iterable[Case], output: str) -> str:
    """A suite of test cases, with what it printed."""
    cases = list(cases)
    counts = {
        "tests": len(cases),
        "failures": sum(bool(case.failures) for case in cases),
        "errors": 0,
        "skipped": sum(not case.failures and bool(case.skipped) for case in cases),
    }
    suite = ElementTree.Element("testsuite", {k: str(v) for k, v in counts.items()}, name=f"onnx-analyzer {command}")
    for case in cases:
        element = ElementTree.SubElement(suite, "testcase", classname=command, name=case.name)
        if case.failures:
            failure = ElementTree.SubElement(element, "failure", message=_xml(case.failures[0]))
            failure.text = _xml("\n".join(case.failures))
        elif case.skipped:
            ElementTree.SubElement(element, "skipped", message=_xml(case.skipped))
    ElementTree.SubElement(suite, "system-out").text = _xml(output)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def _xml(text: str) -> str:
    """Without the characters that no XML file can have, escaped or not."""
    return NOT_XML.sub("\ufffd", text)


# ---- SARIF ----


def sarif(
    model: str,
    found: Iterable[tuple[str, Mapping[str, Any]]],
    rules: Mapping[str, str] | None = None,
    properties: Mapping[str, Any] | None = None,
) -> str:
    """SARIF 2.1.0: a result per finding at a model's file.

    Args:
        found: (level, finding).
        rules: {code: a sentence about it}.
    """
    results = [
        {
            "ruleId": finding["code"],
            "level": level,
            "message": {"text": _unlinked(placed(finding))},
            "locations": [
                {
                    "physicalLocation": {"artifactLocation": {"uri": quote(model, errors="backslashreplace")}},
                    "logicalLocations": [{"fullyQualifiedName": finding["where"]}],
                }
            ],
        }
        for level, finding in found
    ]
    codes = sorted({result["ruleId"] for result in results})
    known = rules or {}
    described = [{"id": c} | ({"shortDescription": {"text": known[c]}} if c in known else {}) for c in codes]
    run: dict[str, Any] = {"tool": {"driver": {"name": "onnx-analyzer", "rules": described}}, "results": results}
    if properties:
        run["properties"] = properties
    log = {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]}
    return as_json(log, indent=2, sort_keys=True) + "\n"


def _unlinked(text: str) -> str:
    r"""Brackets of a message as they are: «[words](address)» is a link, «\[» a bracket (SARIF 2.1.0, 3.11.6)."""
    return re.sub(r"([\\\[\]])", r"\\\1", text)


# ---- Markdown ----


def plain(text: Any) -> str:
    """Text that Markdown shows as it is, in one line."""
    line = re.sub(r"\s+", " ", str(text))
    line = re.sub(r"([\\`*\[\]<>|#~&])", r"\\\1", line)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", line)  # within a word it is no markup


def code(text: Any) -> str:
    """Text as code, in one line: between more backticks than it has in a row."""
    line = re.sub(r"\s+", " ", str(text))
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if line[:1] in ("`", " ", "") or line.endswith(("`", " ")) else ""
    return fence + space + line.replace("|", r"\|") + space + fence
