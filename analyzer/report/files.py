"""Reports as files; their form follows from the name's ending."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.attribution import METHODS
from analyzer.attribution.drawn import drawn_as
from analyzer.data import Sample
from analyzer.errors import InputError
from analyzer.files import write_text
from analyzer.images import Drawing, Fed, Feeding, Map
from analyzer.images.draw import LARGEST, PAPER
from analyzer.images.views import cell, fitting, limits, panel, several, sheet
from analyzer.plain import as_json
from analyzer.report import audit, comparison, comparison_page
from analyzer.report.page import Picture, picture

ENDINGS = (".html", ".htm", ".md", ".xml", ".sarif", ".json")


def check_endings(paths: Iterable[str]) -> None:
    """Refuses reports whose form is not known.

    Raises:
        InputError: a name has another ending.
    """
    for path in paths:
        if Path(path).suffix not in ENDINGS:
            raise InputError(
                f"a report cannot be written as {Path(path).suffix or path!r}",
                f"end the name in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}",
            )


def write_comparison(
    path: str, document: Mapping[str, Any], pictures: Sequence[Picture] = (), command: str = ""
) -> None:
    """HTML with the pictures and the command line, Markdown, JUnit, SARIF or JSON.

    Raises:
        InputError: the name has another ending.
    """
    check_endings([path])
    match Path(path).suffix:
        case ".md":
            text = comparison.markdown(document)
        case ".xml":
            text = comparison.junit(document)
        case ".sarif":
            text = comparison.sarif(document)
        case ".json":
            text = _json(document)
        case _:
            text = comparison_page.html(document, pictures, command)
    write_text(path, text)


def shows_maps(paths: Iterable[str]) -> bool:
    """Whether one of the reports of these names has figures: only HTML."""
    return any(Path(path).suffix in (".html", ".htm") for path in paths)


def write_audit(path: str, document: Mapping[str, Any], maps: np.ndarray | None = None, command: str = "") -> None:
    """HTML with the mean maps and the command line, Markdown, JUnit, SARIF or JSON.

    Raises:
        InputError: the name has another ending.
    """
    check_endings([path])
    match Path(path).suffix:
        case ".md":
            text = audit.markdown(document)
        case ".xml":
            text = audit.junit(document)
        case ".sarif":
            text = audit.sarif(document)
        case ".json":
            text = _json(document)
        case _:
            caption = "Mean maps: of all pictures, and of the most frequent classes"
            text = audit.html(document, [] if maps is None else [picture(caption, maps)], command)
    write_text(path, text)


def _json(document: Mapping[str, Any]) -> str:
    return as_json(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


# ---- Figures ----


def evidence_figures(
    maps: Mapping[str, Mapping[str, Sequence[np.ndarray]]], samples: Iterable[Sample], feeding: Feeding
) -> list[Picture]:
    """The maps of reference and candidate side by side, a row per method.

    Args:
        maps: {picture: {method: (the reference's, the candidate's)}}.
        samples: the pictures.
        feeding: the reference's.
    """
    sources = {sample.id: sample.source for sample in samples}
    return [picture(name, evidence_figure(each, feeding.feed(sources[name]))) for name, each in maps.items()]


def evidence_figure(maps: Mapping[str, Sequence[np.ndarray]], fed: Fed) -> np.ndarray:
    """The maps of reference and candidate over one picture, side by side, a row per method: (H, W, 3) uint8.

    Args:
        maps: {method: (the reference's, the candidate's)}, (H, W) in the numbers of the method; or (H, W, C) of pixels.
    """

    def pixels(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return (np.abs(values).max(axis=2), values) if values.ndim == 3 else (values, None)

    drawn = [
        each
        for method, pair in maps.items()
        for who, values in zip(("reference", "candidate"), pair, strict=True)
        for each in drawn_as(method, fed, *pixels(values), title=f"{method}: {who}")
    ]
    return several(drawn, Drawing(), len(drawn) // len(maps))


def difference_figures(
    maps: Mapping[str, Mapping[str, np.ndarray]], samples: Iterable[Sample], feeding: Feeding
) -> list[Picture]:
    """The difference of two maps over each picture, and the channels that make most of it.

    Args:
        maps: {picture: {title: (h, w) over the network's input}}.
    """
    sources = {sample.id: sample.source for sample in samples}
    return [
        picture(f"{name}: the evidence difference", difference_figure(each, feeding.feed(sources[name])))
        for name, each in maps.items()
    ]


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
