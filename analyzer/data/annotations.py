"""Annotations of pictures: boxes, classes and groups, from JSON and CSV files, or from the names of folders."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.data.sample import Sample
from analyzer.errors import InputError, suggest
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


def read_classes(path: str | None, column: str | None = None) -> dict[str, dict[str, Any]]:
    """{picture's file name: {"label": its class, "group": its entry in a column}}; empty if no file is given.

    Args:
        path: JSON, {"cat.jpg": 281}; or CSV with a header: a column `picture`, `class`, and others. Classes are numbers
            or names.
        column: of the CSV file, by which pictures are grouped.

    Raises:
        InputError: the file cannot be read, or has another form.
    """
    if path is None:
        if column is not None:
            raise InputError(f"no file has the column {column!r}", "add --classes FILE.csv")
        return {}
    if Path(path).suffix.lower() in (".csv", ".tsv"):
        return _table(path, column)
    if column is not None:
        raise InputError(f"{path}: has no columns to group by", "give a CSV file: picture,class,COLUMN")
    try:
        return {str(name): {"label": _class(value)} for name, value in _json(path).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read classes from {path}: {error}", 'write {"cat.jpg": 281}') from None


def _table(path: str, column: str | None) -> dict[str, dict[str, Any]]:
    protect(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if path.lower().endswith(".tsv") else ","))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read classes from {path}: {error}") from None
    names = list(rows[0]) if rows else []
    if "picture" not in names or ("class" not in names and column is None):
        raise InputError(f"{path}: a header with picture and class is missing", "begin the file with: picture,class")
    if column is not None and column not in names:
        raise InputError(f"{path}: no column {column!r}", suggest(column, names) or f"it has {', '.join(names)}")
    found = {}
    for row in rows:
        known: dict[str, Any] = {"label": _class(row["class"])} if row.get("class") else {}
        group = {"group": f"{column}={row[column]}"} if column is not None and row.get(column) else {}
        found[Path(str(row["picture"])).name] = known | group
    return found


def _class(value: Any) -> int | str:
    """A class's number, or its name.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str) or (isinstance(value, float) and value % 1):
        raise ValueError(f"{value!r} is not a class")
    if not isinstance(value, str):
        return int(value)
    return int(value) if value.strip().isdecimal() else value.strip()


def with_classes(samples: Sequence[Sample], labels: Sequence[str] | None, by_folder: bool = False) -> list[Sample]:
    """The samples with numbers for the names of their classes.

    Args:
        labels: class names by number.
        by_folder: whether the class of a picture is the name, or the number, of its folder.

    Raises:
        InputError: a name is not among the labels.
    """
    numbers = {name.strip().lower(): number for number, name in reversed(list(enumerate(labels or ())))}
    found = []
    for sample in samples:
        label = sample.annotations.get("label")
        if by_folder and isinstance(sample.source, Path):
            label = _class(sample.source.resolve().parent.name)
        if isinstance(label, str):
            if label.lower() not in numbers:
                near = suggest(label, labels or ()) or f"the model has {', '.join((labels or ())[:5])} …"
                hint = near if labels else "give the class names with --labels FILE"
                raise InputError(f"{sample.id}: no class is named {label!r}", hint)
            label = numbers[label.lower()]
        found.append(
            replace(sample, annotations={**sample.annotations, "label": label}) if label is not None else sample
        )
    return found


def _json(path: str) -> Any:
    protect(path)
    return json.loads(Path(path).read_text(encoding="utf-8"))
