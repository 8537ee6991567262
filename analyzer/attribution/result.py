"""The result of an explanation: `Attribution`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np


@dataclass
class Attribution:
    """The maps of one method for a batch of images.

    Rows are images, or (image, target) pairs if there are several targets, ordered by image.

    Attributes:
        raw: the method's own values, float32: (rows, h, w) unnormalised for CAM-like methods, shaped as the input
            for gradient-like ones.
        heatmap: (rows, H, W) in [0, 1] at the resolution of the input; 0 everywhere where `legible` is False.
        scores: (N, classes) as the model outputs them.
        target: class index per row; −1 where the target is an expression.
        layer: name of the feature map, or "" for methods that need none.
        method: name of the method.
        image: index of the image per row.
        diagnosis: for each row, a sentence if the map is empty, constant or not finite, otherwise "".
        stripped: squashing functions (Softmax…) that were removed after the target.
        tied: (N,) number of classes that tie at the maximum of the output's quantiser; 0 if the top class is unique.
        details: further results of the method, one entry per row: `completeness` of integrated gradients and
            full-grad, `score` and `top` at every position of occlusion…
        doubt: why the output may not be class scores (see `Scores.doubt`); "" if it is, and for expressions.
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

    def first(self, count: int) -> Attribution:
        """Of the first `count` images only."""
        if count >= len(self.scores):
            return self
        rows = self.image - self.image.min() < count
        rows &= np.arange(len(rows)) < count * (len(rows) // len(self.scores))
        return replace(
            self,
            raw=self.raw[rows],
            heatmap=self.heatmap[rows],
            scores=self.scores[:count],
            target=self.target[rows],
            image=self.image[rows],
            diagnosis=[said for said, kept in zip(self.diagnosis, rows, strict=True) if kept],
            details={name: values[rows] for name, values in self.details.items()},
            tied=self.tied[:count],
        )

    @cached_property
    def legible(self) -> np.ndarray:
        """(rows,) whether the map, and the score of the class that it is of, are finite."""
        scores = self.scores_of_rows
        known = (self.target >= 0) & (self.target < scores.shape[1])
        scored = np.isfinite(scores[np.arange(len(scores)), np.where(known, self.target, 0)])
        return finite_rows(self.raw) & (scored | ~known)

    @cached_property
    def scores_of_rows(self) -> np.ndarray:
        """(rows, classes): the scores of the image of each row."""
        pictures = self.image - self.image.min()
        return self.scores[np.minimum(pictures, len(self.scores) - 1)]


def joined(parts: Sequence[Attribution]) -> Attribution:
    """The rows of all parts, one after the other."""
    first = parts[0]
    if len(parts) == 1:
        return first
    arrays = {
        name: np.concatenate([getattr(p, name) for p in parts])
        for name in ("raw", "heatmap", "scores", "target", "image", "tied")
    }
    return Attribution(
        layer=first.layer,
        method=first.method,
        diagnosis=[d for p in parts for d in p.diagnosis],
        stripped=first.stripped,
        details={n: np.concatenate([p.details[n] for p in parts]) for n in first.details},
        doubt="; ".join(dict.fromkeys(p.doubt for p in parts if p.doubt)),
        **arrays,
    )


def finite_rows(array: np.ndarray) -> np.ndarray:
    """(N,) whether all values of a row are finite."""
    return np.isfinite(array.reshape(len(array), -1)).all(axis=1)
