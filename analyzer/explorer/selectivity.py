"""How selective units are for a class, over the pictures of an explorer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analyzer.errors import AnalyzerError
from analyzer.explorer.bench import Bench
from analyzer.explorer.jobs import Job, Jobs, Progress
from analyzer.explorer.layers import Layer
from analyzer.explorer.pictures import Pictures


@dataclass(frozen=True)
class Activity:
    """Of a layer over all pictures.

    Attributes:
        means: (pictures, channels), of pictures that can be read: mean positive activation over the grid.
        classes: (pictures,) what the model says of each.
    """

    means: np.ndarray
    classes: np.ndarray


class Selectivity:
    """The activity of layers over the pictures of the start, worked out in the background."""

    def __init__(self, bench: Bench, pictures: Pictures, jobs: Jobs) -> None:
        self.bench, self.pictures, self.jobs = bench, pictures, jobs

    def job(self, layer: Layer, fit: str = "") -> Job:
        """An `Activity`, of pictures that are fitted as `Picture.fit` says."""
        key = "activity", id(self.bench), layer.name, layer.query, fit
        return self.jobs.get(key, lambda note: self._measured(layer, fit, note))

    def _measured(self, layer: Layer, fit: str, note: Progress) -> Activity:
        means, classes = list[np.ndarray](), list[int]()
        wrong: AnalyzerError | None = None
        for number, given in enumerate(self.pictures):
            picture = replace(given, fit=fit)
            note(number, len(self.pictures))
            try:
                mean, seen = self.bench.means(picture, layer), self.bench.top(picture)
            except AnalyzerError as error:  # of this picture: the others count
                wrong = wrong or error
                continue
            means.append(mean)
            classes.append(seen)
        if wrong is not None and not means:
            raise wrong
        return Activity(np.array(means), np.array(classes))


def selectivity(means: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """(μ₊ − μ₋) / (μ₊ + μ₋) of every channel: its mean activation on pictures of the class, and on all others.

    From −1, only on others, to 1, only on those of the class; 0 where both are 0. Morcos et al. 2018, 1803.06959,
    section A.3, for a class that is given.

    Args:
        means: (pictures, channels), none negative. positive: (pictures,) which are of the class: some, not all.
    """
    one, rest = means[positive].mean(0, dtype=np.float64), means[~positive].mean(0, dtype=np.float64)
    size = one + rest
    return np.divide(one - rest, size, out=np.zeros_like(size), where=size > 0)
