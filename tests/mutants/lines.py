"""A pytest plugin that records which lines of which files every test runs, and how long it takes.

MUTANTS_LINES=lines.json MUTANTS_FILES=analyzer/gradient/rules:analyzer/validation pytest -p tests.mutants.lines …
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = tuple(str(ROOT / folder) for folder in os.environ.get("MUTANTS_FILES", "analyzer").split(":"))

_seen: set[tuple[str, int]] = set()
_files: dict[str, bool] = {}
_tests: dict[str, dict[str, Any]] = {}


def _line(frame: FrameType, event: str, _: Any) -> Any:
    if event == "line":
        _seen.add((frame.f_code.co_filename, frame.f_lineno))
    return _line


def _call(frame: FrameType, event: str, _: Any) -> Any:
    name = frame.f_code.co_filename
    wanted = _files.get(name)
    if wanted is None:
        wanted = _files[name] = name.startswith(FOLDERS)
    if not wanted:
        return None
    _seen.add((name, frame.f_lineno))
    return _line


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _seen.clear()
    start = time.perf_counter()
    threading.settrace(_call)
    sys.settrace(_call)
    try:
        return (yield)
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        lines: dict[str, list[int]] = defaultdict(list)
        for name, line in sorted(_seen):
            lines[str(Path(name).relative_to(ROOT))].append(line)
        if lines:
            _tests[item.nodeid] = {"seconds": round(time.perf_counter() - start, 3), "lines": lines}


def pytest_sessionfinish() -> None:
    Path(os.environ.get("MUTANTS_LINES", "lines.json")).write_text(json.dumps(_tests), encoding="utf-8")
