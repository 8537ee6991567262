"""A detector's format: what its outputs hold, and how they become candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyzer.analysis.moves import numbered, unsquashed
from analyzer.analysis.scores import holds_floats
from analyzer.errors import InputError
from analyzer.graph import Builder, Value
from analyzer.graph.through import origin
from analyzer.metrics.masks import Mask
from analyzer.tasks.detection.codings import Coding, sigmoid, softmax
from analyzer.tasks.detection.masks import Chosen, Masks
from analyzer.tasks.detection.parts import Level, Part

_TINY = 1e-9


@dataclass(frozen=True)
class Candidates:
    """All that a detector says of one picture before the surest are chosen.

    Attributes:
        boxes: (P, 4) x0, y0, x1, y1 in pixels of the model's input.
        scores: (P, C) without the background.
        points: (P, K, 3) x, y, visibility; None for detectors without keypoints.
        labels: (P,) the class of every candidate, where `scores` has one number each; else None.
        rotated: (P, 5) centre x, y, width, height and angle in radians, of boxes that are not upright; else None.
    """

    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray | None = None
    labels: np.ndarray | None = None
    rotated: np.ndarray | None = None


@dataclass(frozen=True)
class Decoder:
    """A detector's format.

    Attributes:
        family: the projects that write it, as people know them.
        levels: its candidates, level by level.
        coding: how their boxes are written.
        size: height and width of the model's input.
        classes: number of classes, without a background.
        function: what is still to be done to scores: "sigmoid", "softmax" or "" (the model did it).
        traced: whether the logits behind the scores that the model outputs are known.
        objectness: what is still to be done to objectness: "sigmoid", "clip" (to 0 and 1) or "".
        powers: a score is class ** powers[0] · objectness ** powers[1].
        background: the class that stands for nothing; None if there is none.
        threshold: scores from which a candidate is a detection.
        iou: overlap above which the lower-scoring of two detections of a class is dropped; None if the model does it.
        thing: what is found, where there is a single class.
        named: number of classes where `classes` is 1 because each candidate has its own; 0 where it is not known.
        scaled: the input with the width and height that boxes are scaled by; "" where they are in pixels of the
            model's input.
        peaks: a candidate counts where its score is the highest of the 3 × 3 places around it.
        masks: how the masks of what is found are written; None for detectors without masks.
    """

    family: str
    levels: tuple[Level, ...]
    coding: Coding
    size: tuple[int, int]
    classes: int
    function: str = ""
    traced: bool = False
    objectness: str = ""
    powers: tuple[float, float] = (1.0, 1.0)
    background: int | None = None
    threshold: float = 0.25
    iou: float | None = 0.45
    thing: str = "object"
    named: int = 0
    scaled: str = ""
    peaks: bool = False
    masks: Masks | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The model's outputs that it reads."""
        masks = [self.masks.output] if self.masks is not None else []
        return tuple(dict.fromkeys([*(p.output for level in self.levels for p in level.parts()), *masks]))

    # ---- As numbers ----

    def scores(self, said: Mapping[str, np.ndarray]) -> np.ndarray:
        """(P, C) the scores of one picture's candidates."""
        rows = []
        for level in self.levels:
            found = self._without_background(_squashed(level.scores.read(said[level.scores.output]), self.function))
            thing = self._objectness(level, said)
            if thing is not None:
                with np.errstate(invalid="ignore"):
                    found = found ** self.powers[0] * thing ** self.powers[1]
            rows.append(found)
        return np.concatenate(rows).astype(np.float32)

    def sureness(self, said: Mapping[str, np.ndarray], scores: np.ndarray) -> np.ndarray:
        """(P,) that there is anything: the objectness, or the highest of the (P, C) scores of candidates without."""
        best, rows, first = scores.max(axis=1), [], 0
        for level in self.levels:
            thing, count = self._objectness(level, said), len(level.scores.read(said[level.scores.output]))
            rows.append(best[first : first + count] if thing is None else thing.reshape(-1))
            first += count
        return np.concatenate(rows)

    def _objectness(self, level: Level, said: Mapping[str, np.ndarray]) -> np.ndarray | None:
        if level.objectness is None:
            return None
        return _squashed(level.objectness.read(said[level.objectness.output]), self.objectness)

    def candidates(self, said: Mapping[str, np.ndarray]) -> Candidates:
        """All candidates of one picture."""
        boxes, points, labels, rotated = [], [], [], []
        for level in self.levels:
            parts = [part for part in (level.boxes, level.offsets) if part is not None]
            numbers = np.concatenate([part.read(said[part.output]) for part in parts], axis=1)
            boxes.append(self.coding.boxes(numbers, level, self.size))
            rotated.append(self.coding.rotated(numbers))
            if level.points is not None:
                points.append(self.coding.points(level.points.read(said[level.points.output]), level, self.size))
            if level.labels is not None:
                labels.append(level.labels.read(said[level.labels.output]).reshape(-1))
        return Candidates(
            np.concatenate(boxes),
            self._at_peaks(self.scores(said)) if self.peaks else self.scores(said),
            np.concatenate(points) if points else None,
            np.rint(np.concatenate(labels)).astype(np.int64) if labels else None,
            np.concatenate(turned) if (turned := [one for one in rotated if one is not None]) else None,
        )

    def masks_of(self, said: Mapping[str, np.ndarray], places: np.ndarray, boxes: np.ndarray) -> list[Mask | None]:
        """The masks of some candidates, whose boxes are (n, 4), of one picture; None for detectors without masks."""
        if self.masks is None or not len(places):
            return [None] * len(places)
        return [*self.masks.of(Chosen(said, self.levels, places, boxes, self.size))]

    def _at_peaks(self, scores: np.ndarray) -> np.ndarray:
        """The scores that are the highest of the 3 × 3 places around them, 0 for others."""
        first, found = 0, scores.copy()
        for level in self.levels:
            rows, columns = level.grid
            part = found[first : first + level.count].reshape(rows, columns, -1)
            around = np.pad(part, ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
            highest = np.max([around[y : y + rows, x : x + columns] for y in range(3) for x in range(3)], axis=0)
            part[part < highest] = 0
            first += level.count
        return found

    def _without_background(self, scores: np.ndarray) -> np.ndarray:
        return scores if self.background is None else np.delete(scores, self.background, axis=1)

    def side(self, place: int, side: int) -> str:
        """A side of a candidate's box (0 left, 1 top, 2 right, 3 bottom) as an expression.

        Raises:
            InputError: it is no simple expression of the outputs.
        """
        for level in self.levels:
            count = level.count
            if place < count or not count:
                return self.coding.side(level.boxes, place, side, level, self.size)
            place -= count
        raise InputError(f"there is no candidate {place}")

    def visibility(self, place: int, index: int) -> str:
        """Whether a candidate's keypoint is seen, as an expression.

        Raises:
            InputError: the model does not say.
        """
        for level in self.levels:
            if (place < level.count or not level.count) and level.points is not None:
                return self.coding.visibility(level.points, place, index)
            place -= level.count
        raise InputError("this detector finds no keypoints")

    # ---- In a graph ----

    def logits_in(self, op: Builder) -> Value:
        """(N, P, C) what is explained: logits, their sum with those of objectness, or logarithms of scores."""
        rows = []
        for level in self.levels:
            found = self._explained(op, level.scores, bool(self.function))
            if self.background is not None:
                nothing = _columns(op, found, [self.background])
                found = self._classes_in(op, found)
                if op.dim(found, 2) == 1:  # of two classes, the odds
                    found = op.Sub(found, nothing)
            if level.objectness is not None:
                thing = self._explained(op, level.objectness, bool(self.objectness))
                found = op.Add(op.Mul(found, self.powers[0]), op.Mul(thing, self.powers[1]))
            rows.append(found)
        return op.Concat(*rows, axis=1)

    def _explained(self, op: Builder, part: Part, raw: bool) -> Value:
        value = _real(op, part)
        if not raw and self.traced:
            value = unsquashed(op, value)
        found = part.of(op, op.cast(value, np.dtype(np.float32)))
        return found if raw or self.traced else op.Log(op.Max(found, op.scalar(_TINY, found)))

    def scores_in(self, op: Builder) -> Value:
        """(N, P, C) the scores."""
        rows = []
        for level in self.levels:
            found = self._classes_in(op, self._squashed_in(op, level.scores, self.function))
            if level.objectness is not None:
                thing = self._squashed_in(op, level.objectness, self.objectness)
                if self.powers != (1.0, 1.0):
                    found, thing = op.Pow(found, self.powers[0]), op.Pow(thing, self.powers[1])
                found = op.Mul(found, thing)
            rows.append(found)
        return op.Concat(*rows, axis=1)

    def layers_in(self, op: Builder, layers: Sequence[str]) -> Value:
        """(N, P) the index in `layers` of the feature map of each candidate that the model chose."""
        rows = []
        for level in self.levels:
            at = {tensor: layers.index(layer) for tensor, layer in level.layers}
            found = numbered(op, _real(op, level.scores), at)
            rows.append(op.Squeeze(op.Slice(level.scores.of(op, found), [0], [1], [2]), [2]))
        return op.Concat(*rows, axis=1)

    def _squashed_in(self, op: Builder, part: Part, function: str) -> Value:
        found = part.of(op, op.cast(_real(op, part), np.dtype(np.float32)))
        if function == "softmax":
            return op.Softmax(found, axis=2)
        if function == "clip":
            return op.Clip(found, op.scalar(0, found), op.scalar(1, found))
        return op.Sigmoid(found) if function else found

    def _classes_in(self, op: Builder, found: Value) -> Value:
        if self.background is None:
            return found
        return _columns(op, found, [i for i in range(self.classes + 1) if i != self.background])


def _real(op: Builder, part: Part) -> Value:
    """The output of a part; of a quantised one, the real numbers before that."""
    value = op.graph[part.output]
    return value if holds_floats(value) else origin(value)


def _squashed(array: np.ndarray, function: str) -> np.ndarray:
    if function == "softmax":
        return softmax(array.astype(np.float64))
    if function == "clip":
        return np.clip(array, 0, 1)
    return sigmoid(array) if function else array


def _columns(op: Builder, value: Value, columns: list[int]) -> Value:
    """Some numbers of the last axis, which follow one another but for a gap."""
    breaks = [i for i in range(1, len(columns)) if columns[i] != columns[i - 1] + 1]
    starts, ends = [0, *breaks], [*breaks, len(columns)]
    parts = [op.Slice(value, [columns[a]], [columns[b - 1] + 1], [2]) for a, b in zip(starts, ends, strict=True)]
    return op.Concat(*parts, axis=2)


# ---- As data ----


def packed(given: Any) -> Any:
    """A decoder, and all in it, as plain data for `unpacked`."""
    if isinstance(given, tuple | list):
        return [packed(one) for one in given]
    if isinstance(given, np.ndarray):
        return {"array": given.tolist(), "type": str(given.dtype)}
    if hasattr(given, "__dataclass_fields__"):
        return {
            "class": type(given).__name__,
            **{name: packed(getattr(given, name)) for name in given.__dataclass_fields__},
        }
    return given


def unpacked(data: Any) -> Any:
    """What `packed` made plain."""
    if isinstance(data, list):
        return tuple(unpacked(one) for one in data)
    if not isinstance(data, dict):
        return data
    if "array" in data:
        return np.array(data["array"], data["type"])
    known: dict[str, Any] = {c.__name__: c for c in (Decoder, Level, Part, *_subclasses(Coding), *_subclasses(Masks))}
    return known[data["class"]](**{name: unpacked(value) for name, value in data.items() if name != "class"})


def _subclasses(kind: type) -> list[type]:
    direct: list[type] = kind.__subclasses__()
    return [*direct, *(found for one in direct for found in _subclasses(one))]
