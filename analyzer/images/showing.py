"""How results show themselves in a notebook: a page of HTML, or axes of matplotlib."""

from __future__ import annotations

import base64
import importlib
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from analyzer.errors import UnsupportedError
from analyzer.images.colour import colormap
from analyzer.images.draw import ColourBar
from analyzer.images.resample import resize
from analyzer.images.write import encode

LARGEST = 150_000  # bytes of a picture on a page
QUALITIES = 85, 70, 50  # of WebP, tried in this order

_CELL = 'style="text-align:left;padding:2px 8px"'


def page(text: str, picture: np.ndarray | None, rows: Sequence[Sequence[Any]] = (), header: Sequence[str] = ()) -> str:
    """HTML of one result: the picture, a table, and lines of text; it loads nothing."""
    parts = []
    if picture is not None:
        source, _, _ = inline(picture)
        parts.append(f'<img src="{source}" alt="{escape(text)}" style="max-width:100%">')
    if rows:
        parts.append(_table(rows, header))
    return f'<div>{"".join(parts)}<pre style="white-space:pre-wrap">{escape(text)}</pre></div>'


def inline(pixels: np.ndarray, largest: int = LARGEST) -> tuple[str, int, int]:
    """(data URL, width, height) of a picture inside a page, (H, W, 3) uint8; see `compressed`."""
    data, height, width = compressed(pixels, largest)
    return f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}", width, height


def compressed(pixels: np.ndarray, largest: int = LARGEST) -> tuple[bytes, int, int]:
    """(WebP of at most so many bytes, height, width): compressed more, then made smaller, until it is."""
    for quality in QUALITIES:
        data = encode(pixels, ".webp", quality)
        if len(data) <= largest:
            return data, *pixels.shape[:2]
    return compressed(resize(pixels, (pixels.shape[0] // 2, pixels.shape[1] // 2)), largest)


def _table(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> str:
    lines = [_row("th", header)] if any(header) else []
    return f"<table>{''.join([*lines, *(_row('td', row) for row in rows)])}</table>"


def _row(kind: str, cells: Sequence[Any]) -> str:
    return "<tr>" + "".join(f"<{kind} {_CELL}>{escape(str(cell))}</{kind}>" for cell in cells) + "</tr>"


def new_axes() -> Any:
    """Axes of matplotlib.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        raise UnsupportedError(
            "plot() draws with matplotlib, which is not installed",
            "pip install 'onnx-analyzer[plot]', or use overlay()",
        ) from None
    return pyplot.figure(layout="constrained").subplots()


def scale(bar: ColourBar) -> Any:
    """What a color bar of matplotlib shows."""
    cm, colors = importlib.import_module("matplotlib.cm"), importlib.import_module("matplotlib.colors")
    table = colors.ListedColormap(colormap(bar.colormap) / 255)
    return cm.ScalarMappable(colors.Normalize(bar.low, bar.high), table)
