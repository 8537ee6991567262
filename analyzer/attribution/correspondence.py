"""Correspondence: whether a network reacts in the same way if the same part is missing from different pictures.

Zeiler & Fergus 2014 (1311.2901), section 4.3: with a part occluded in picture i, ε_i = f(x_i) − f(x̃_i) is the change of
a layer's features, and Δ = Σ_{i≠j} H(sign ε_i, sign ε_j) how much the changes differ between pictures. A Δ below that
of random occlusion means that the layer recognises corresponding parts in different pictures.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.attribution.model import Model
from analyzer.attribution.probes import Probe
from analyzer.errors import InputError
from analyzer.images import Feeding, Preprocess

RANDOM = "random"

Boxes = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True)
class Consistency:
    """How much the changes of one layer differ when one part is occluded.

    Attributes:
        part: its name, or "random" for random boxes of the same sizes.
        layer: name of the tensor.
        mean: H normalised by the number of features, averaged over the pairs of pictures: 0 where all agree.
        error: standard error over the pictures, of each picture's mean distance to the others; NaN for two of them.
        pictures: that have the part.
    """

    part: str
    layer: str
    mean: float
    error: float
    pictures: int


@dataclass(frozen=True)
class Correspondence:
    """All results, the occluded pictures as the network sees them, {picture: {part: (h, w, 3) uint8}}, and the pictures
    that were skipped because a layer is not finite, {picture: why}."""

    rows: list[Consistency]
    occluded: dict[str, dict[str, np.ndarray]]
    left_out: dict[str, str] = field(default_factory=dict)


def correspondence(
    model: Model,
    pictures: Mapping[str, np.ndarray],
    boxes: Boxes,
    layers: Sequence[str],
    preprocess: Preprocess | Feeding,
    fill: float = 127.0,
    repeats: int = 10,
    seed: int = 0,
    progress: Callable[[], None] | None = None,
) -> Correspondence:
    """The consistency of the change of each layer, per part that at least two pictures have, and for random boxes.

    Args:
        pictures: {name: (H, W, 3) uint8 RGB}.
        boxes: {name: {part: (x0, y0, x1, y1)}} in pixels of the picture.
        fill: 0 … 255 gray of the occluder.
        repeats: random boxes per picture; each has the size of one of the picture's own, in turn.

    Raises:
        InputError: no part is in two pictures, or a box lies outside of what the network sees.
        NotFoundError: no such layer.
    """
    counts: dict[str, int] = {}
    for name in pictures:
        for part in boxes.get(name, {}):
            counts[part] = counts.get(part, 0) + 1
    parts = [part for part, count in counts.items() if count > 1]
    if not parts:
        raise InputError("no part is marked in two pictures", "use the same name for a part in several pictures")
    probe = Probe(model, layers, preprocess)
    rng = np.random.default_rng(seed)
    changes: dict[str, dict[str, list[np.ndarray]]] = {layer: {} for layer in probe.layers}
    occluded: dict[str, dict[str, np.ndarray]] = {}
    left_out: dict[str, str] = {}
    for name, picture in pictures.items():
        own = {part: box for part, box in boxes.get(name, {}).items() if part in parts}
        if not own:
            continue
        placement = probe.preprocess.apply(picture)[1]
        seen = probe.seen(picture)
        places = {
            part: _cells(placement.box_to_input(_box(box, name, part)), seen, name, part) for part, box in own.items()
        }
        drawn = _random_places(list(places.values()), repeats, seen, rng)
        versions = [_occlude(seen, place, fill) for place in [*places.values(), *drawn]]
        occluded[name] = dict(zip([*places, RANDOM], versions, strict=False))
        if progress:
            progress()
        found = probe.run([seen, *versions])
        bad = np.flatnonzero(~found.finite)
        if bad.size:
            left_out[name] = probe.say([seen, *versions][bad[0]])
            continue
        for layer, features in found.features.items():
            signs = np.sign(features[0] - features[1:]).astype(np.int8)
            for row, part in enumerate(places):
                changes[layer].setdefault(part, []).append(signs[row : row + 1])
            changes[layer].setdefault(RANDOM, []).append(signs[len(places) :])
    rows = [
        Consistency(part, layer, *sign_distance(known), len(known))
        for part in [*parts, RANDOM]
        for layer in probe.layers
        for known in [changes[layer].get(part, [])]
    ]
    return Correspondence(rows, occluded, left_out)


def sign_distance(signs: Sequence[np.ndarray]) -> tuple[float, float]:
    """(mean, standard error) of the normalised Hamming distance between the sign vectors of different pictures.

    Args:
        signs: per picture (versions, elements); version v of one picture is compared with version v of the others.
    """
    n = len(signs)
    if n < 2:
        return math.nan, math.nan
    table = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1, n):
            table[i, j] = table[j, i] = float((signs[i] != signs[j]).mean())
    means = table.sum(axis=1) / max(1, n - 1)
    return float(means.mean()), float(means.std(ddof=1) / math.sqrt(n)) if n > 2 else math.nan


def _box(box: Any, name: str, part: str) -> tuple[float, float, float, float]:
    if not isinstance(box, Sequence) or len(box) != 4 or not all(isinstance(b, int | float) for b in box):
        raise InputError(f"the box of {part!r} in {name!r} is {box!r}", "write it as [x0, y0, x1, y1]")
    return float(box[0]), float(box[1]), float(box[2]), float(box[3])


Place = tuple[slice, slice]


def _cells(box: tuple[float, float, float, float], seen: np.ndarray, name: str, part: str) -> Place:
    """The pixels of the network's input that a box covers."""
    x0, y0, x1, y1 = (round(b) for b in box)
    rows, columns = (max(0, y0), min(seen.shape[0], y1)), (max(0, x0), min(seen.shape[1], x1))
    if rows[0] >= rows[1] or columns[0] >= columns[1]:
        raise InputError(f"the box of {part!r} in {name!r} is outside the area that the network sees")
    return slice(*rows), slice(*columns)


def _random_places(places: Sequence[Place], count: int, seen: np.ndarray, rng: np.random.Generator) -> list[Place]:
    drawn = []
    for repeat in range(count):
        rows, columns = places[repeat % len(places)]
        high, wide = rows.stop - rows.start, columns.stop - columns.start
        top, left = int(rng.integers(seen.shape[0] - high + 1)), int(rng.integers(seen.shape[1] - wide + 1))
        drawn.append((slice(top, top + high), slice(left, left + wide)))
    return drawn


def _occlude(seen: np.ndarray, place: Place, fill: float) -> np.ndarray:
    result = seen.copy()
    result[place] = round(fill)
    return result


def read_boxes(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """{picture: {part: box}} of a JSON file; the pictures' paths are relative to it.

    Raises:
        InputError: no such file, or not of this form.
    """
    place = Path(path)
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(found, dict) or not all(isinstance(parts, dict) for parts in found.values()):
        raise InputError(f"{path}: not a boxes file", 'write {"picture.jpg": {"left eye": [x0, y0, x1, y1]}, …}')
    return {str(place.parent / name): parts for name, parts in found.items()}
