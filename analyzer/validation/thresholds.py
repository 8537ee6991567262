"""Thresholds from TOML files: those of a project are in its `pyproject.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from analyzer.errors import InputError, suggest

PROJECT = "pyproject.toml"


def read_table(
    path: str | Path | None, command: str, known: Iterable[str], overrides: Mapping[str, float] | None = None
) -> dict[str, float]:
    """{threshold: value} from a file, then from `overrides`.

    Args:
        path: a file with the table `[tool.onnx-analyzer.<command>.thresholds]` or `[thresholds]`, or of thresholds
            alone.
        command: "compare" or "audit".

    Raises:
        InputError: the file cannot be read, or has a name that is not a threshold.
    """
    known = list(known)
    values = {} if path is None else dict(_table(_content(path), command, Path(path).name == PROJECT))
    values.update(overrides or {})
    for name, value in values.items():
        if name not in known:
            raise InputError(f"no threshold {name!r}", suggest(name, known) or f"choose one of {', '.join(known)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"the threshold {name} must be a number, not {value!r}")
    return {name: float(value) for name, value in values.items()}


def of_project(command: str, folder: Path | None = None) -> Path | None:
    """The nearest `pyproject.toml` of the working folder and those above, if it has thresholds of the command."""
    start = (folder or Path.cwd()).resolve()
    file = next((at / PROJECT for at in (start, *start.parents) if (at / PROJECT).is_file()), None)
    return file if file is not None and _table(_content(file), command, True) else None


def _content(path: str | Path) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: cannot be read as TOML: {error}") from None


def _table(content: Mapping[str, Any], command: str, project: bool) -> Mapping[str, Any]:
    found: Any = content
    for key in ("tool", "onnx-analyzer", command, "thresholds"):
        found = found.get(key) if isinstance(found, Mapping) else None
    if found is None:
        found = {} if project else content.get("thresholds", content)
    if not isinstance(found, Mapping):
        raise InputError(f"the thresholds of {command} must be a table, not {found!r}")
    return found
