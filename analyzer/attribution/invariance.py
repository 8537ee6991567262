"""Invariance: change of features and of the class's probability as the picture is moved, scaled and rotated.

Zeiler & Fergus 2014 (1311.2901), section 4.1 and figure 5: the Euclidean distance between the feature vectors of the
transformed picture and of the picture as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyzer.attribution.model import Model
from analyzer.attribution.probes import Probe
from analyzer.errors import NotFoundError, UnsupportedError, suggest
from analyzer.images import Feeding, Preprocess
from analyzer.images.warp import Warp
from analyzer.tasks.base import check_class


@dataclass(frozen=True)
class Transform:
    """A family of warps: what its value counts, the values that are tried, and the warp of one."""

    unit: str
    values: Callable[[tuple[int, int]], np.ndarray]
    arguments: Callable[[float], dict[str, Any]]


TRANSFORMS: dict[str, Transform] = {
    "translation": Transform(
        "pixels downwards",
        lambda size: np.rint(np.linspace(-0.25, 0.25, 21) * size[0]),
        lambda value: {"shift": (0.0, value)},
    ),
    "horizontal": Transform(
        "pixels to the right",
        lambda size: np.rint(np.linspace(-0.25, 0.25, 21) * size[1]),
        lambda value: {"shift": (value, 0.0)},
    ),
    "scaling": Transform("times the size", lambda size: np.linspace(1, 1.8, 17), lambda value: {"scale": value}),
    "rotation": Transform("degrees", lambda size: np.arange(0.0, 351, 15), lambda value: {"degrees": value}),
}


@dataclass(frozen=True)
class Curve:
    """One picture under one transform; the first axis of all arrays goes over `values`.

    Attributes:
        distances: {layer: ‖f(T x) − f(x)‖₂}.
        norms: {layer: ‖f(x)‖₂}, to make distances relative.
        probability: of class `target`.
        diagnosis: where NaN or ∞ first appears, if anything is not finite.
    """

    picture: str
    transform: str
    values: np.ndarray
    distances: dict[str, np.ndarray]
    norms: dict[str, float]
    probability: np.ndarray
    target: int
    diagnosis: str = ""

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest probability; NaN where none is a number."""
        return float(np.fmin.reduce(self.probability)), float(np.fmax.reduce(self.probability))

    @property
    def largest(self) -> dict[str, float]:
        """{layer: the largest distance as a share of the norm}"""
        return {n: float(np.fmax.reduce(d) / (self.norms[n] or 1)) for n, d in self.distances.items()}


def invariance(
    model: Model,
    pictures: Mapping[str, np.ndarray],
    layers: Sequence[str],
    preprocess: Preprocess | Feeding,
    targets: Mapping[str, int] | None = None,
    transforms: Sequence[str] = ("translation", "scaling", "rotation"),
    fill: float = 127.0,
    progress: Callable[[], None] | None = None,
) -> list[Curve]:
    """The curves of every picture under every transform, picture by picture.

    What the network sees of a picture is transformed, so a translation is in the network's pixels.

    Args:
        pictures: {name: (H, W, 3) uint8 RGB}.
        targets: {name: true class}; for other pictures, the model's top class.
        transforms: names of `TRANSFORMS`.
        fill: gray value (0 … 255) outside the picture.

    Raises:
        NotFoundError: no such layer or transform. InputError: no such class. UnsupportedError: a model without
            classes.
    """
    for name in transforms:
        if name not in TRANSFORMS:
            raise NotFoundError(f"no transform {name!r}", suggest(name, TRANSFORMS) or ", ".join(TRANSFORMS))
    probe = Probe(model, layers, preprocess)
    if not probe.task.by_class or probe.task.per_picture:
        raise UnsupportedError(
            f"{probe.task.output.name!r} has no classes ({probe.task.described()}), and invariance measures the "
            "probability of classes",
            "measure features with the Python API, or choose another model",
        )
    curves = []
    for name, picture in pictures.items():
        seen = probe.seen(picture)
        still = probe.run([seen])
        target = (targets or {}).get(name)
        if target is None:
            target = int(probe.task.best(still.probabilities)[0])
        check_class(probe.task, target)
        for kind in transforms:
            size = (seen.shape[0], seen.shape[1])
            values = TRANSFORMS[kind].values(size)
            warps = [Warp.affine(size, **TRANSFORMS[kind].arguments(float(v))) for v in values]
            found = probe.run([warp.apply(seen, fill) for warp in warps])
            bad = [seen] if not still.finite[0] else [warps[i].apply(seen, fill) for i in np.flatnonzero(~found.finite)]
            with np.errstate(invalid="ignore"):  # ∞ − ∞
                distances = {
                    layer: np.linalg.norm(array.astype(np.float64) - still.features[layer], axis=1)
                    for layer, array in found.features.items()
                }
            norms = {layer: float(np.linalg.norm(a.astype(np.float64))) for layer, a in still.features.items()}
            said = probe.say(bad[0]) if bad else ""
            curves.append(Curve(name, kind, values, distances, norms, found.probabilities[:, target], target, said))
            if progress:
                progress()
    return curves
