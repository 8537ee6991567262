"""Annotations of pictures: boxes and classes, from JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.errors import InputError
from analyzer.files import protect


def read_boxes(path: str | None) -> dict[str, np.ndarray]:
    """{picture's file name: (n, 4) boxes}, from {picture: [box, …]}, {picture: {label: box}} or {picture: {"boxes":
    [box, …]}}; empty if no file is given.

    Raises:
        InputError: the file cannot be read, or has another form.
    """
    if path is None:
        return {}
    try:
        found = {}
        for name, given in _json(path).items():
            given = given.get("boxes", list(given.values())) if isinstance(given, dict) else given
            found[name] = np.array(given, float).reshape(-1, 4)
        return found
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"cannot read boxes from {path}: {error}", "write {picture: [[x0, y0, x1, y1], …]}") from None


def read_labelled_boxes(path: str | None) -> dict[str, dict[str, list[float]]]:
    """{picture's file name: {label: [x0, y0, x1, y1]}}; empty if no file is given.

    Raises:
        InputError: the file cannot be read, or has another form.
    """
    if path is None:
        return {}
    hint = 'write {"cat.jpg": {"cat": [x0, y0, x1, y1]}}, in pixels of the picture'
    try:
        given = _json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read boxes from {path}: {error}", hint) from None
    for name, entry in given.items() if isinstance(given, dict) else [("the file", given)]:
        fits = isinstance(entry, dict) and all(
            isinstance(b, list) and len(b) == 4 and all(isinstance(v, int | float) for v in b) for b in entry.values()
        )
        if not fits:
            raise InputError(f"{path}: {name!r} has no labeled boxes", hint)
    return dict(given)


def read_classes(path: str | None) -> dict[str, int]:
    """{picture's file name: class}; empty if no file is given.

    Raises:
        InputError: the file cannot be read, or has another form.
    """
    if path is None:
        return {}
    try:
        return {str(name): int(value) for name, value in _json(path).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read classes from {path}: {error}", 'write {"cat.jpg": 281}') from None


def _json(path: str) -> Any:
    protect(path)
    return json.loads(Path(path).read_text(encoding="utf-8"))
