"""Annotations of pictures: boxes, classes and groups, from JSON and CSV files, or from the names of folders."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.data.archives import ARCHIVES, DATASET, Member
from analyzer.data.remote import opened
from analyzer.data.sample import Sample
from analyzer.data.tables import Cell
from analyzer.errors import InputError, suggest
from analyzer.files import content_hash, protect


def read_true_boxes(path: str | None) -> dict[str, dict[str, Any]]:
    """{picture's file name: {"boxes": (n, 4), "box_classes": their names or numbers}}; empty if no file is given.

    Args:
        path: JSON: COCO's format of annotations, {picture: {label: box}}, or without classes {picture: [box, …]} and
            {picture: {"boxes": [box, …]}}; boxes are x0, y0, x1, y1 in pixels (COCO's: x, y, width, height).

    Raises:
        InputError: the file cannot be read, or has another form.
    """
    if path is None or path == DATASET:
        return {}
    try:
        given = _json(path)
        if isinstance(given.get("images"), list) and "annotations" in given:
            return _coco(given)
        return {name: true_boxes(entry) for name, entry in given.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f"cannot read boxes from {path}: {_reason(error)}", "write {picture: [[x0, y0, x1, y1], …]}"
        ) from None


def true_boxes(entry: Any) -> dict[str, Any]:
    """{"boxes": (n, 4), "box_classes": their names} of a picture.

    Args:
        entry: [box, …], {label: box or boxes} or {"boxes": [box, …]}.
    """
    if not isinstance(entry, dict) or "boxes" in entry:
        boxes = entry["boxes"] if isinstance(entry, dict) else entry
        return {"boxes": np.array(boxes, float).reshape(-1, 4)}
    of_label = {label: np.array(boxes, float).reshape(-1, 4) for label, boxes in entry.items()}
    names = [label for label, boxes in of_label.items() for _ in boxes]
    return {"boxes": np.concatenate([np.zeros((0, 4)), *of_label.values()]), "box_classes": names}


def _coco(given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    names = {c["id"]: c.get("name", c["id"]) for c in given.get("categories", ())}
    found: dict[Any, dict[str, Any]] = {image["id"]: {"boxes": [], "box_classes": []} for image in given["images"]}
    for row in given["annotations"]:
        if not row.get("iscrowd"):
            x, y, width, height = row["bbox"]
            found[row["image_id"]]["boxes"].append([x, y, x + width, y + height])
            found[row["image_id"]]["box_classes"].append(names.get(row["category_id"], row["category_id"]))
    files = {image["id"]: Path(image["file_name"]).name for image in given["images"]}
    return {files[i]: known | {"boxes": np.array(known["boxes"], float).reshape(-1, 4)} for i, known in found.items()}


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
        raise InputError(f"cannot read boxes from {path}: {_reason(error)}", hint) from None
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
    if path is None or path == DATASET:
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
        raise InputError(f"cannot read classes from {path}: {_reason(error)}", 'write {"cat.jpg": 281}') from None


def read_masks(folder: str | None) -> dict[str, dict[str, str]]:
    """{picture's file name without its ending: {"mask": a file, "mask_hash": of its content}}; empty for no folder.

    Args:
        folder: of PNG files; or "dataset", for which see `as_said`.

    Raises:
        InputError: the folder has no PNG files.
    """
    if folder is None or folder == DATASET:
        return {}
    files = sorted(Path(folder).rglob("*.png")) if Path(folder).is_dir() else []
    if not files:
        raise InputError(f"{folder}: no folder of masks", "a mask is a PNG file named like its picture")
    protect(*files)
    return {file.stem: {"mask": str(file), "mask_hash": content_hash(file)} for file in files}


def read_mask(path: str | Sequence[Any]) -> np.ndarray:
    """(H, W) int64 class of every pixel, from a PNG file of one channel or with a palette; 255 is unknown.

    Args:
        path: a file; or its place in an archive or a table, as `as_said` gives it.

    Raises:
        InputError: the file cannot be read, or holds colours.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(_mask_of(path))) as picture:
            found = np.asarray(picture)
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"cannot read the mask {path}: {_reason(error)}") from None
    if found.ndim != 2:
        raise InputError(f"{path}: a mask of {found.shape[2]} channels", "each pixel must be the number of a class")
    return found.astype(np.int64)


def _mask_of(place: str | Sequence[Any]) -> bytes:
    """The file of a mask."""
    if isinstance(place, str):
        with opened(place) as file:
            return file.read()
    stored = Member if place[0].lower().endswith(ARCHIVES) else Cell
    return stored(*place).read()


def _table(path: str, column: str | None) -> dict[str, dict[str, Any]]:
    protect(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if path.lower().endswith(".tsv") else ","))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read classes from {path}: {_reason(error)}") from None
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


def annotated(samples: Sequence[Sample], *known: Mapping[str, Mapping[str, Any]]) -> list[Sample]:
    """The samples with what is known of them, by their paths as given, file names, or these without their endings.

    Raises:
        InputError: classes are known, but of none of the samples.
    """
    by_name = [{Path(key).name: entry for key, entry in entries.items()} for entries in known]

    def of(sample: Sample) -> dict[str, Any]:
        name = Path(sample.id).name
        found = dict(sample.annotations)
        for entries, others in zip(known, by_name, strict=True):
            found |= entries.get(sample.id) or others.get(name) or others.get(Path(name).stem) or {}
        return found

    found = [replace(sample, annotations=of(sample)) for sample in samples]
    named = [name for entries in known for name, entry in entries.items() if "label" in entry]
    if named and found and not any("label" in sample.annotations for sample in found):
        raise InputError(
            f"none of the pictures, such as {found[0].id!r}, has a true class",
            f"name them as their files are; the first that has one is {named[0]!r}",
        )
    return found


def as_said(
    samples: Sequence[Sample], classes: str | None, boxes: str | None, masks: str | None = None
) -> list[Sample]:
    """The samples with the class, the boxes and the mask that archives and tables give them, where they are asked for.

    Raises:
        InputError: one gives something else.
    """
    wanted = [key for key, given in (("label", classes), ("boxes", boxes), ("mask", masks)) if given == DATASET]
    if not wanted:
        return list(samples)

    def of(sample: Sample) -> dict[str, Any]:
        said = sample.annotations.get(DATASET, {})
        found = dict[str, Any]()
        if "mask" in wanted and "mask" in said:
            found = {"mask": said["mask"], "mask_hash": hashlib.sha256(_mask_of(said["mask"])).hexdigest()}
        for key in wanted:
            if key != "mask" and key in said and said[key] == said[key]:  # pandas' missing number is not itself
                try:
                    found[key] = _class(said[key]) if key == "label" else true_boxes(said[key])["boxes"]
                except (ValueError, TypeError, KeyError):
                    hint = "a label is a number or a name, boxes are [[x0, y0, x1, y1], …]"
                    raise InputError(f"{sample.id}: cannot use its {key} {said[key]!r}", hint) from None
        return {**sample.annotations, **found}

    return [replace(sample, annotations=of(sample)) for sample in samples]


def with_classes(samples: Sequence[Sample], labels: Sequence[str] | None, by_folder: bool = False) -> list[Sample]:
    """The samples with numbers for the names of their classes.

    Args:
        labels: class names by number.
        by_folder: whether the class of a picture is the name, or the number, of its folder.

    Raises:
        InputError: a name is not among the labels.
    """
    found = []
    for sample in samples:
        known = dict(sample.annotations)
        if by_folder and isinstance(sample.source, Path):
            known["label"] = _class(sample.source.resolve().parent.name)
        if known.get("label") is not None:
            (known["label"],) = _numbers(sample, [known["label"]], labels)
        found.append(replace(sample, annotations=known))
    return found


def with_box_classes(samples: Sequence[Sample], labels: Sequence[str] | None) -> list[Sample]:
    """The samples with numbers for the names of their boxes' classes.

    Raises:
        InputError: a name is not among the labels.
    """
    found = []
    for sample in samples:
        known = dict(sample.annotations)
        if "box_classes" in known:
            known["box_classes"] = _numbers(sample, known["box_classes"], labels)
        found.append(replace(sample, annotations=known))
    return found


def _numbers(of: Sample, classes: Sequence[int | str], labels: Sequence[str] | None) -> list[int]:
    """Of classes given by number or by name, in any case."""
    numbers = {name.strip().lower(): number for number, name in reversed(list(enumerate(labels or ())))}
    for name in classes:
        if isinstance(name, str) and name.lower() not in numbers:
            near = suggest(name, labels or ()) or f"the model has {', '.join((labels or ())[:5])} …"
            hint = near if labels else "give the class names with --labels FILE"
            raise InputError(f"{of.id}: no class is named {name!r}", hint)
    return [numbers[name.lower()] if isinstance(name, str) else name for name in classes]


def _reason(error: Exception) -> str:
    """Without the number and the path of what the system refuses."""
    said = error.strerror if isinstance(error, OSError) else ""
    return said or str(error)


def _json(path: str) -> Any:
    protect(path)
    return json.loads(Path(path).read_text(encoding="utf-8"))
