"""Curves of invariance as a figure and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from analyzer.attribution.invariance import TRANSFORMS, Curve
from analyzer.images.plot import Chart, plot


def figure(curves: Sequence[Curve], relative: bool, label: Callable[[int], str]) -> np.ndarray:
    """A row of panels per transform: distance per layer, then the probability.

    Args:
        relative: distances as shares of the norm of the features.
        label: names a class.
    """
    layers = list(curves[0].distances)
    panels = []
    for transform in dict.fromkeys(c.transform for c in curves):
        unit = TRANSFORMS[transform].unit
        own = [(f"{Path(c.picture).stem} ({label(c.target)})", c) for c in curves if c.transform == transform]
        for layer in layers:
            scaled = {
                name: (c.values.tolist(), (c.distances[layer] / _scale(c, layer, relative)).tolist()) for name, c in own
            }
            measure = "distance / norm" if relative else "Euclidean distance"
            panels.append(Chart(f"{transform}: {layer}", unit, measure, scaled, low=0))
        shown = {name: (c.values.tolist(), c.probability.tolist()) for name, c in own}
        panels.append(Chart(f"{transform}: probability", unit, "of the true class", shown, 0, 1))
    return plot(panels, len(layers) + 1, "Invariance of features and class")


def _scale(curve: Curve, layer: str, relative: bool) -> float:
    return (curve.norms[layer] or 1.0) if relative else 1.0


def as_csv(curves: Sequence[Curve]) -> str:
    """A row per picture, transform and value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    layers = list(curves[0].distances)
    heads = [f"{kind} {layer}" for layer in layers for kind in ("distance", "norm")]
    writer.writerow(["picture", "transform", "value", "class", "probability", *heads])
    for c in curves:
        for i, value in enumerate(c.values):
            cells = [n for layer in layers for n in (c.distances[layer][i], c.norms[layer])]
            writer.writerow([c.picture, c.transform, value, c.target, c.probability[i], *cells])
    return text.getvalue()
