"""CenterNet (1904.07850): a heat map per class, whose peaks are middles of things, and maps of sizes and offsets."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from analyzer.tasks.detection.codings import Middles
from analyzer.tasks.detection.decoder import Decoder
from analyzer.tasks.detection.parts import Part
from analyzer.tasks.detection.pyramid import Stage
from analyzer.tasks.detection.view import View

_OFFSETS, _SIZES = re.compile(r"(reg|off)"), re.compile(r"(wh|size|dim)")
_HEATS = re.compile(r"(hm|heat)")
_STRIDES = (4, 2, 8)


def peaks(view: View) -> tuple[Decoder, str] | None:
    """Three maps (N, classes, h, w), (N, 2, h, w) and (N, 2, h, w) of one grid."""
    maps = {name: shape for name, shape in view.shapes.items() if len(shape) == 4 and view.is_real(name)}
    if len(maps) != 3 or len(view.graph.outputs) != 3 or len({shape[2:] for shape in maps.values()}) != 1:
        return None
    pairs = [name for name, shape in maps.items() if shape[1] == 2]
    heats = [name for name in maps if name not in pairs]
    if not heats:  # two classes: their map is the one behind a sigmoid, or named as such
        squashed = [name for name in pairs if view.squashed(Part(name, axis=1)) == "Sigmoid"]
        heats = squashed or [name for name in pairs if _HEATS.search(name.lower())]
        pairs = [name for name in pairs if name not in heats]
    grid = next(iter(maps.values()))[2:]
    if len(pairs) != 2 or len(heats) != 1 or not all(view.size):
        return None
    if not any((grid[0] * step, grid[1] * step) == view.size for step in _STRIDES):
        return None
    heat, (sizes, offsets) = Part(heats[0], axis=1), _told_apart(view, pairs)
    function = view.squashed(heat)
    if function not in ("Sigmoid", "") or not (function or any(map(_is_named, maps))):
        return None
    stage = Stage(0, grid[0] * grid[1], (grid[0], grid[1]))
    level = replace(stage.level(heat, Part(sizes, axis=1)), offsets=Part(offsets, axis=1).cut(0, stage.last))
    decoder = Decoder(
        "CenterNet",
        view.with_layers([level]),
        Middles(),
        view.size,
        maps[heats[0]][1],
        "" if function else "sigmoid",
        bool(function),
        threshold=0.3,
        iou=None,
        peaks=True,
    )
    return decoder, f"{heats[0]} has a heat map per class, {sizes} sizes and {offsets} offsets of each place"


def _is_named(name: str) -> bool:
    """Whether an output is named as those of CenterNet are; three maps without a sigmoid may be anything."""
    return any(kind.search(name.lower()) for kind in (_HEATS, _SIZES, _OFFSETS))


def _told_apart(view: View, pairs: list[str]) -> tuple[str, str]:
    """(sizes, offsets), by their names, else by an example: sizes are larger."""
    for sizes, offsets in (pairs, pairs[::-1]):
        if _SIZES.search(sizes.lower()) or _OFFSETS.search(offsets.lower()):
            return sizes, offsets
    found = [view.example(Part(name, axis=1)) for name in pairs]
    larger = [float(np.abs(numbers).mean()) if numbers is not None else 0.0 for numbers in found]
    return (pairs[0], pairs[1]) if larger[0] >= larger[1] else (pairs[1], pairs[0])
