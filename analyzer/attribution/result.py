"""The result of an explanation: `Attribution`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from analyzer.tasks import Prediction, Task
from analyzer.tasks.base import Labels


@dataclass
class Attribution:
    """The maps of one method for a batch of images.

    Rows are images, or (image, target) pairs if there are several targets, ordered by image.

    Attributes:
        raw: the method's own values, float32: (rows, h, w) unnormalised for CAM-like methods, shaped as the input
            for gradient-like ones.
        heatmap: (rows, H, W) in [0, 1] at the resolution of the input; 0 everywhere where `legible` is False.
        scores: (N, classes) as the model outputs them; quantised ones as the real numbers that they stand for.
        target: class index per row; −1 where the target is an expression.
        layer: name of the feature map, or "" for methods that need none; of the first row where rows differ.
        layers: name of the feature map of each row, where rows differ; else empty.
        method: name of the method.
        image: index of the image per row.
        diagnosis: for each row, a sentence if the map is empty, constant or not finite, otherwise "".
        stripped: squashing functions (Softmax…) that were removed after the target.
        tied: (N,) number of classes that tie at the maximum of the output's quantiser; 0 if the top class is unique.
        details: further results of the method, one entry per row: `completeness` of integrated gradients and
            full-grad, `score` and `top` at every position of occlusion…
        doubt: why the output may not mean what it seems to (see `Task.doubt`); "" if it does, and for expressions.
        value: (rows,) the number that is explained: the score of the class as the model outputs it, or the value of
            the expression.
        names: what each row explains, as the user asked for it or as the model says it; "" for a class.
        task: what the output means.
        first: index of the first image.
        said: for each image, {output: array}, quantised numbers as what they mean.
    """

    raw: np.ndarray
    heatmap: np.ndarray
    scores: np.ndarray
    target: np.ndarray
    layer: str
    method: str
    image: np.ndarray
    diagnosis: list[str] = field(default_factory=list)
    stripped: tuple[str, ...] = ()
    details: dict[str, np.ndarray] = field(default_factory=dict)
    doubt: str = ""
    tied: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    value: np.ndarray = field(default_factory=lambda: np.zeros(0))
    names: list[str] = field(default_factory=list)
    task: Task | None = None
    said: list[dict[str, np.ndarray]] = field(default_factory=list)
    first: int = 0
    layers: list[str] = field(default_factory=list)

    def layer_of(self, row: int) -> str:
        """The feature map of a row."""
        return self.layers[row] if self.layers else self.layer

    def predicted(self, labels: Labels = None) -> list[Prediction]:
        """What the model says of the first picture, the surest first; worked out once."""
        key = tuple(labels) if labels is not None else None
        if key not in self._predicted:
            assert self.task is not None
            self._predicted[key] = self.task.predictions(self.task.answer(self.said[0]), labels)
        return self._predicted[key]

    @cached_property
    def _predicted(self) -> dict[Any, list[Prediction]]:
        return {}

    def first_images(self, count: int) -> Attribution:
        """Of the first `count` images only."""
        if count >= len(self.scores):
            return self
        kept = self.image - self.first < count
        kept &= np.arange(len(kept)) < count * (len(kept) // len(self.scores))
        return replace(self.rows(kept), scores=self.scores[:count], tied=self.tied[:count], said=self.said[:count])

    @cached_property
    def finite(self) -> bool:
        """Whether all maps and scores are."""
        return bool(np.isfinite(self.raw).all() and np.isfinite(self.scores).all())

    @cached_property
    def legible(self) -> np.ndarray:
        """(rows,) whether the map, and the score of the class that it is of, are finite."""
        if self.finite:
            return np.ones(len(self.raw), bool)
        scores = self.scores_of_rows
        known = (self.target >= 0) & (self.target < scores.shape[1])
        scored = np.isfinite(scores[np.arange(len(scores)), np.where(known, self.target, 0)])
        return finite_rows(self.raw) & (scored | ~known)

    @cached_property
    def scores_of_rows(self) -> np.ndarray:
        """(rows, classes): the scores of the image of each row."""
        return self.scores[np.minimum(self.image - self.first, len(self.scores) - 1)]

    def rows(self, kept: np.ndarray) -> Attribution:
        """Some of the rows.

        Args:
            kept: (rows,) bool.
        """
        return self if kept.all() else self.ordered(np.flatnonzero(kept))

    def ordered(self, rows: np.ndarray) -> Attribution:
        """The rows of these indices, in their order."""
        if np.array_equal(rows, np.arange(len(self.image))):
            return self
        part: dict[str, Any] = {
            name: getattr(self, name)[rows] for name in ("raw", "heatmap", "target", "image", "value")
        }
        lists: dict[str, Any] = {
            n: [known[row] for row in rows] if (known := getattr(self, n)) else []
            for n in ("diagnosis", "names", "layers")
        }
        return replace(self, **part, **lists, details={n: d[rows] for n, d in self.details.items()})


def joined(parts: Sequence[Attribution]) -> Attribution:
    """The rows of all parts, one after the other."""
    first = parts[0]
    if len(parts) == 1:
        return first
    arrays = {
        name: np.concatenate([getattr(p, name) for p in parts])
        for name in ("heatmap", "scores", "target", "image", "tied", "value")
    }
    differ = len({p.layer for p in parts}) > 1
    return Attribution(
        layer=first.layer,
        method=first.method,
        diagnosis=[d for p in parts for d in p.diagnosis],
        stripped=first.stripped,
        details={n: np.concatenate([p.details[n] for p in parts]) for n in first.details},
        doubt="; ".join(dict.fromkeys(p.doubt for p in parts if p.doubt)),
        first=first.first,
        names=[n for p in parts for n in p.names],
        task=first.task,
        said=[s for p in parts for s in p.said],
        layers=[p.layer_of(row) for p in parts for row in range(len(p.image))] if differ else [],
        raw=np.concatenate(_alike([p.raw for p in parts])),
        **arrays,
    )


def _alike(maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Maps of layers of several sizes as those of the largest: every value is repeated over its place."""
    if len({m.shape[1:] for m in maps}) == 1:
        return list(maps)
    largest = tuple(max(sizes) for sizes in zip(*(m.shape[1:] for m in maps), strict=True))
    found = []
    for each in maps:
        for axis, size in enumerate(largest, 1):
            each = np.take(each, np.arange(size) * each.shape[axis] // size, axis)
        found.append(each)
    return found


def finite_rows(array: np.ndarray) -> np.ndarray:
    """(N,) whether all values of a row are finite."""
    return np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
