"""Reports as files; their form follows from the name's ending."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from analyzer.attribution import METHODS
from analyzer.attribution.drawn import drawn_as
from analyzer.errors import InputError
from analyzer.files import make_folder, write_parts, write_text
from analyzer.images import Drawing, Fed, Map, channel_grid
from analyzer.images.colour import colourise, value_range
from analyzer.images.draw import LARGEST, PAPER
from analyzer.images.mosaic import Block, strip
from analyzer.images.views import cell, fitting, limits, panel, several, sheet
from analyzer.plain import as_json
from analyzer.report import audit, comparison, comparison_page, node_data
from analyzer.report.page import Picture, Shot, beside, inside

CHANNELS, FLAT = 6, 32  # of a layer that are drawn: those that differ most; those that may be dead
ENDINGS = (".html", ".htm", ".md", ".xml", ".sarif", ".json")


def check_endings(paths: Iterable[str]) -> None:
    """Refuses reports whose form is not known.

    Raises:
        InputError: a name has another ending.
    """
    for path in paths:
        if not is_folder(path) and Path(path).suffix not in ENDINGS:
            raise InputError(
                f"a report cannot be written as {Path(path).suffix or path!r}",
                f"end the name in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}, or in / for a folder",
            )


def is_folder(path: str) -> bool:
    """Whether a report of that name is a folder: a page with its pictures in files, and every other form."""
    return path.endswith(("/", os.sep)) or Path(path).is_dir()


def shows_maps(paths: Iterable[str]) -> bool:
    """Whether one of the reports of these names has figures: HTML and folders."""
    return any(is_folder(path) or Path(path).suffix in (".html", ".htm") for path in paths)


def write_comparison(
    path: str,
    document: Mapping[str, Any],
    shots: Sequence[Shot] = (),
    command: str = "",
    shot: Callable[[str], Shot | None] | None = None,
) -> None:
    """HTML with the pictures and the command line, Markdown, JUnit, SARIF, JSON, or a folder of all of them.

    Args:
        shot: draws the picture of a name, or a layer, for those beside findings.

    Raises:
        InputError: the name has another ending.
    """
    drawn = {name: shot(name) for name in comparison_page.to_show(document)} if shot else {}
    known = {name: each for name, each in drawn.items() if each is not None}
    _write(path, document, shots, command, (_with_examples(comparison_page.html, path, known), comparison))
    if is_folder(path):
        write_text(Path(path) / "node-data.json", node_data.node_data(document))


def write_audit(
    path: str,
    document: Mapping[str, Any],
    shots: Sequence[Shot] = (),
    command: str = "",
    examples: Mapping[str, Shot] | None = None,
) -> None:
    """As `write_comparison`.

    Args:
        examples: {name: picture} of those that are shown beside findings.
    """
    _write(path, document, shots, command, (_with_examples(audit.html, path, examples or {}), audit))


Page: TypeAlias = Callable[[Mapping[str, Any], Iterable[Picture], str], Iterator[str]]


def _with_examples(html: Callable[..., Iterator[str]], path: str, examples: Mapping[str, Shot]) -> Page:
    """A page that shows pictures beside its findings."""

    def page(document: Mapping[str, Any], pictures: Iterable[Picture], command: str) -> Iterator[str]:
        few = list(examples.values())
        drawn = beside(Path(path), few, "finding") if is_folder(path) else inside(few)
        return html(document, pictures, command, dict(zip(examples, drawn, strict=True)))

    return page


def _write(
    path: str, document: Mapping[str, Any], shots: Sequence[Shot], command: str, forms: tuple[Page, Any]
) -> None:
    html, forms_of = forms
    check_endings([path])
    if is_folder(path):
        folder = make_folder(path)
        for name, text in _files(document, forms_of).items():
            write_text(folder / name, text)
        write_parts(folder / "index.html", html(document, beside(folder, shots) if shots else (), command))
        return
    match Path(path).suffix:
        case ".md":
            write_text(path, forms_of.markdown(document))
        case ".xml":
            write_text(path, forms_of.junit(document))
        case ".sarif":
            write_text(path, forms_of.sarif(document))
        case ".json":
            write_text(path, _json(document))
        case _:
            write_parts(path, html(document, inside(shots) if shots else (), command))


def _files(document: Mapping[str, Any], forms: Any) -> dict[str, str]:
    """{name: content} of a folder beside its page."""
    return {
        "result.json": _json(document),
        "metrics.json": _json(metrics(document)),
        "summary.md": forms.markdown(document),
        "junit.xml": forms.junit(document),
        "findings.sarif": forms.sarif(document),
    }


def metrics(document: Mapping[str, Any]) -> dict[str, float]:
    """{name: number} of all figures over the pictures, as experiment trackers take them."""
    report = document.get("comparison") or document["audit"]
    found: dict[str, float] = {"findings": len(document["findings"]), "pictures": report["pictures"]}

    def take(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                take(f"{name}.{key}" if name else str(key), inner)
        elif isinstance(value, int | float) and math.isfinite(value):
            found[re.sub(r"[^\w./ -]", "_", name)] = float(value)

    for part in ("summary", "outputs", "predictions", "evidence"):
        take("" if part in ("summary", "outputs") else part, report.get(part))
    return found


def _json(document: Mapping[str, Any]) -> str:
    return as_json(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


# ---- Figures ----


def evidence_figure(maps: Mapping[str, Sequence[np.ndarray]], fed: Fed) -> np.ndarray:
    """The maps of reference and candidate over one picture, and their difference, a row per method: (H, W, 3) uint8.
    Both maps have one scale, so that what has the same color has the same number.

    Args:
        maps: {method: (the reference's, the candidate's)}, (H, W) in the numbers of the method; or (H, W, C) of pixels.
    """

    def pixels(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return (np.abs(values).max(axis=2), values) if values.ndim == 3 else (values, None)

    drawn, alike = list[Map](), all(ours.shape == theirs.shape for ours, theirs in maps.values())
    for method, pair in maps.items():
        for who, values in zip(("reference", "candidate"), pair, strict=True):
            drawn += drawn_as(method, fed, *pixels(values), title=f"{method}: {who}")
        ours, theirs = (np.abs(values).max(axis=2) if values.ndim == 3 else values for values in pair)
        if alike:
            difference = fed.laid(theirs - ours, LARGEST)
            fine = METHODS[method].kind == "gradient"
            title, own = "candidate − reference", f"{method}: difference"
            drawn.append(Map(fed.image, difference, None, fine, ("signed",), title=title, group=own))
    return several(drawn, Drawing(range="shared"), len(drawn) // len(maps))


def layer_figure(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The channels of a layer that differ most, (K, h, w) on both sides, and their difference: (H, W, 3) uint8.

    Above each are its number and its share of Σ (a − b)².

    Raises:
        InputError: they have other sizes.
    """
    if ours.shape != theirs.shape:
        raise InputError(f"channels of {ours.shape} and {theirs.shape}")
    shares = shares_of_error(ours, theirs)
    columns = []
    for channel in shares:
        pair = ours[channel], theirs[channel]
        low, high = value_range(np.stack(pair))
        drawn = (colourise(each, "viridis", low, high) for each in pair)
        columns.append([*drawn, colourise(pair[1] - pair[0], signed=True)])
    sides = zip(("reference", "candidate", "difference"), zip(*columns, strict=True), strict=True)
    rows = [Block(side, [[each] for each in tiles]) for side, tiles in sides]
    return strip(rows, [f"{channel} ({share:.0%})" for channel, share in shares.items()])


def shares_of_error(ours: np.ndarray, theirs: np.ndarray) -> dict[int, float]:
    """{channel: its share of Σ (a − b)²}, of (K, h, w), the largest first."""
    error = np.square(theirs.astype(np.float64) - ours).sum(axis=(1, 2))
    order = np.argsort(-error, kind="stable")[:CHANNELS]
    return {int(channel): float(error[channel] / (error.sum() or 1.0)) for channel in order}


def flat_channels(maps: np.ndarray) -> np.ndarray:
    """The channels of a layer, (K, h, w), those with the most values at their maximum first: (H, W, 3) uint8."""
    order = flattest(maps)
    return channel_grid(maps[order], order, max_channels=FLAT, total=len(maps))


def flattest(maps: np.ndarray) -> list[int]:
    """Of (K, h, w), the channels with the most values at their own maximum."""
    flat = maps.reshape(len(maps), -1)
    share = np.mean(flat == flat.max(axis=1, keepdims=True), axis=1)
    return list(map(int, np.argsort(-share, kind="stable")[:FLAT]))


def difference_figure(maps: Mapping[str, np.ndarray], fed: Fed) -> np.ndarray:
    """Signed maps over one picture on one scale: (H, W, 3) uint8; red where the candidate has more."""
    drawn = [
        Map(fed.image, fed.laid(values, LARGEST), views=("signed",), title=title, group="difference")
        for title, values in maps.items()
    ]
    return several(drawn, Drawing(range="shared"), len(drawn))


def mean_maps(maps: Mapping[str, np.ndarray], method: str, label: Callable[[int], str]) -> np.ndarray:
    """The mean maps of an audit side by side, by themselves, on one scale from 0: (H, W, 3) uint8 RGB.

    Args:
        maps: {`class 3 (5)` or another title: (H, W) mean of heatmaps}.
        method: of the maps.
        label: names a class.
    """
    fine = METHODS[method].kind == "gradient"
    drawn = [
        Map(np.full((*values.shape, 3), PAPER, np.uint8), values, None, fine, ("map",), title=_named(title, label))
        for title, values in maps.items()
    ]
    drawing, side = Drawing(), cell(columns := fitting(len(drawn)))
    high = max(limits(each, "map", drawing)[1] for each in drawn)
    return sheet([panel(each, drawing, side, scale=(0.0, high)) for each in drawn], columns, f"{method}: mean heat")


def _named(title: str, label: Callable[[int], str]) -> str:
    """`class 3 (5)` by its label."""
    parts = title.split()
    return f"{label(int(parts[1]))} {parts[2]}" if parts[0] == "class" else title
