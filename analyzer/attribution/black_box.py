"""What a model looks at, by its outputs alone: the methods that perturb the picture, for any runtime.

The picture is blended into mid-gray of the model's own input, so that two builds with different preprocessing are
shown the same perturbed pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from analyzer.attribution.diagnosis import diagnose_runs
from analyzer.attribution.methods import find_method
from analyzer.attribution.postprocess import heatmaps
from analyzer.tasks import Task
from analyzer.tasks.detection import Detection

Said = Mapping[str, np.ndarray]  # {output: what it holds for one picture, real numbers}


class Answering(Protocol):
    """What a model of any runtime offers."""

    def said(self, pictures: np.ndarray) -> list[Said]:
        """What it says of pictures, (n, …) of the input that is explained in its type."""

    @property
    def most(self) -> int:
        """Pictures at a time."""


@dataclass
class BlackBox:
    """One picture, and what is asked of it; what the methods of perturbation take in place of an `Evaluator`.

    Attributes:
        model: who answers.
        task: how answers are read.
        squashed: the functions that its scores went through; () for logits.
        given: (…) the input of the picture, without a batch axis. gray: the same of a mid-gray picture.
        axes: what the axes of `given` are: CHW, HWC…
        answer: what the reference says of the whole picture, as the task reads it.
        target: the class that is explained, or the number of the candidate of a detector.
    """

    model: Answering
    task: Task
    squashed: tuple[str, ...]
    given: np.ndarray
    gray: np.ndarray
    axes: str
    answer: Any
    target: int

    # ---- What a method asks ----

    @cached_property
    def image(self) -> np.ndarray:
        """The difference from mid-gray, float32."""
        return self.given.astype(np.float32) - self.gray.astype(np.float32)

    grey = np.zeros((), np.float32)

    @property
    def slots(self) -> list[int]:
        return [self.target]

    @property
    def space(self) -> tuple[int, ...]:
        return tuple(i for i, a in enumerate(self.axes) if a in "DHW")

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(self.image.shape[a] for a in self.space)

    def over_image(self, maps: np.ndarray) -> np.ndarray:
        return np.expand_dims(maps, 1 + self.axes.index("C"))

    def scores(self, make: Callable[[np.ndarray], np.ndarray], count: int, what: str = "score") -> np.ndarray:
        """(1, count) of `count` images: of a class its score or probability, of other tasks how far the answer agrees
        with that for the whole picture."""
        return self.scores_and_labels(make, count, what)[0]

    def scores_and_labels(
        self, make: Callable[[np.ndarray], np.ndarray], count: int, what: str = "score"
    ) -> tuple[np.ndarray, np.ndarray]:
        scores, top = np.zeros((1, count)), np.full((1, count), -1, np.int64)
        for index, said in self._said(make, count):
            answer = self.task.answer(said)
            if self.task.per_picture or not self.task.by_class:
                scores[0, index] = self._alike(answer)
                continue
            row = self.task.read(answer, 1)
            top[0, index] = self.task.best(row)[0]
            if what == "probability":  # by what this model squashes, which may be another than the reference
                row = replace(self.task, stripped=self.squashed).probabilities(row.astype(np.float64))
            scores[0, index] = row[0, self.target]
        return scores, top

    def outputs(self, make: Callable[[np.ndarray], np.ndarray], count: int, add: Callable[[int, Any], None]) -> None:
        """The first image is the whole picture, for which the reference's answer counts."""
        add(0, self.answer)
        for index, said in self._said(lambda indices: make(indices + 1), count - 1):
            add(index + 1, self.task.answer(said))

    # ---- Running ----

    def _said(self, make: Callable[[np.ndarray], np.ndarray], count: int) -> Iterator[tuple[int, Said]]:
        most = self.model.most  # a server may lower it meanwhile
        for start in range(0, count, most):
            indices = np.arange(start, min(start + most, count))
            yield from zip(indices.tolist(), self.model.said(self._whole(make(indices))), strict=True)

    def _whole(self, images: np.ndarray) -> np.ndarray:
        """The inputs of differences from mid-gray."""
        whole = images + self.gray.astype(np.float32)
        kind = self.given.dtype
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            whole = np.clip(np.rint(whole), limits.min, limits.max)
        return np.asarray(whole, kind)

    def _alike(self, answer: Any) -> float:
        found = self.task.agreement(self.answer, answer)
        return -found.value if found.measure == "relative error" else found.value


@dataclass(frozen=True)
class Seen:
    """A map of one picture: `heat` (H, W) in [0, 1], the numbers that 0 and 1 stand for, and a diagnosis."""

    heat: np.ndarray
    low: float
    high: float
    diagnosis: str


def default_method(task: Task) -> str:
    """The method by which two black boxes are compared."""
    return "d-rise" if isinstance(task, Detection) else "rise"


def is_perturbing(name: str) -> bool:
    """Whether a method changes the picture and needs outputs alone."""
    found = find_method(name, {})
    return found.runs and not found.needs_layer and not found.needs_gradient


def look(box: BlackBox, name: str, options: Mapping[str, Any]) -> Seen:
    """The map of a method.

    Raises:
        UnsupportedError: the method does not fit the task.
    """
    chosen = find_method(name, options)
    with np.errstate(all="ignore"):
        raw, _ = chosen.recipe(box, **options)
    raw = np.where(np.isfinite(raw), raw, 0).astype(np.float32)
    heat = heatmaps(raw, chosen.kind, "N" + box.axes, box.size)[0]
    return Seen(heat, float(raw.min()), float(raw.max()), diagnose_runs(raw[0]))
