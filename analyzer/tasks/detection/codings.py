"""How a candidate's numbers stand for its box: one class per convention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analyzer.errors import InputError
from analyzer.tasks.detection.parts import Level, Part


@dataclass(frozen=True)
class Coding:
    """How boxes and points are written. Sizes are (height, width) of the model's input in pixels."""

    def boxes(self, numbers: np.ndarray, level: Level, size: tuple[int, int]) -> np.ndarray:
        """(P, 4) corners x0, y0, x1, y1 in pixels of the model's input.

        Args:
            numbers: (P, n) as the model outputs them.
        """
        raise NotImplementedError

    def points(self, numbers: np.ndarray, level: Level, size: tuple[int, int]) -> np.ndarray:
        """(P, K, 3) x, y in pixels of the model's input and visibility (1 where the model gives none).

        Args:
            numbers: (P, n) as the model outputs them.
        """
        raise NotImplementedError

    def rotated(self, numbers: np.ndarray) -> np.ndarray | None:
        """(P, 5) centre x, y, width and height in pixels of the model's input, and the angle of the width in radians,
        clockwise; None for upright boxes.

        Args:
            numbers: (P, n) as the model outputs them.
        """
        return None

    def side(self, part: Part, place: int, side: int, level: Level, size: tuple[int, int]) -> str:
        """A side of a candidate's box (left, top, right, bottom) as an expression: larger numbers lie further right or
        further down.

        Raises:
            InputError: it is no simple expression of the outputs.
        """
        raise InputError("a side of this detector's boxes is no simple expression of its outputs", "explain its score")

    def visibility(self, part: Part, place: int, index: int) -> str:
        """Whether a candidate's keypoint is seen, as an expression.

        Raises:
            InputError: the model does not say.
        """
        raise InputError("this detector has no scores for its keypoints", "explain its detection instead")


@dataclass(frozen=True)
class Corners(Coding):
    """The box itself: corners, or centre and size, in pixels or as shares of the input.

    Attributes:
        centred: centre x, y and width, height instead of corners.
        unit: shares of the input's width and height instead of pixels.
        rows_first: y before x.
    """

    centred: bool = False
    unit: bool = False
    rows_first: bool = False

    def boxes(self, numbers: np.ndarray, level: Level, size: tuple[int, int]) -> np.ndarray:
        found = numbers.astype(np.float64)
        if self.rows_first:
            found = found[:, [1, 0, 3, 2]]
        if self.unit:
            found = found * np.array([size[1], size[0]] * 2)
        return corners(found) if self.centred else found

    def side(self, part: Part, place: int, side: int, level: Level, size: tuple[int, int]) -> str:
        axis = side % 2
        first, second = ((1 - axis), (1 - axis) + 2) if self.rows_first else (axis, axis + 2)
        if not self.centred:
            return part.expression(place, first if side < 2 else second)
        return f"{part.expression(place, first)} {'-' if side < 2 else '+'} 0.5 * {part.expression(place, second)}"


@dataclass(frozen=True)
class Distances(Coding):
    """Distances of the four sides (left, top, right, bottom) from a place of the grid (FCOS, NanoDet, YOLOv8).

    Attributes:
        bins: each side is a distribution over so many whole numbers, before a softmax (DFL, 2006.04388); 0: a number.
        offset: of the place in its cell; 0.5 is the middle.
        pixels: the distances are in pixels, not in strides.
        whole: places are as many whole pixels apart as fit into the input (torchvision), also where that is no stride.
    """

    bins: int = 0
    offset: float = 0.5
    pixels: bool = False
    whole: bool = False

    def boxes(self, numbers: np.ndarray, level: Level, size: tuple[int, int]) -> np.ndarray:
        sides = numbers.astype(np.float64)
        if self.bins:
            share = softmax(sides.reshape(len(sides), 4, self.bins))
            sides = share @ np.arange(self.bins)
        stride = strides(level, size)
        apart = np.floor_divide(size, level.grid)[::-1] if self.whole else stride
        middle = (level.places[0] + self.offset) * apart
        if not self.pixels:
            sides = sides * np.concatenate([stride, stride])
        return np.concatenate([middle - sides[:, :2], middle + sides[:, 2:]], axis=1)

    def points(self, numbers: np.ndarray, level: Level, size: tuple[int, int]) -> np.ndarray:
        stride, found = strides(level, size), numbers.astype(np.float64).reshape(len(numbers), -1, 2)
        middle = (level.places[0] + self.offset) * stride
        return visible(middle[:, None] + found * (1 if self.pixels else stride))

    def side(self, part: Part, place: int, side: int, level: Level, size: tuple[int, int]) -> str:
        sign = "-" if side < 2 else ""
        if self.bins:
            return f"{sign}{part.expression(place, side * self.bins, (side + 1) * self.bins)}.expectation()"
        return f"{sign}{part.expression(place, side)}"


@dataclass(frozen=True)
class Exponentials(Coding):
    """Centre as an offset from the place of the grid and the logarithm of the size, both in strides (YOLOX)."""

    def boxes(self, numbers: np.ndarray, level: Level, size: tuple[int, int]) -> np.ndarray:
        stride, found = strides(level, size), numbers.astype(np.float64)
        middle = (found[:, :2] + level.places[0]) * stride
        with np.errstate(over="ignore"):
            return corners(np.concatenate([middle, np.exp(found[:, 2:4]) * stride], axis=1))

    def side(self, part: Part, place: int, side: int, level: Level, size: tuple[int, int]) -> str:
        middle, extent = part.expression(place, side % 2), part.expression(place, side % 2 + 2)
        return f"{middle} {'-' if side < 2 else '+'} 0.5 * {extent}.exp()"

    def points(self, numbers: np.ndarray, level: Level, size: tuple[int, int]) -> np.ndarray:
        place = level.places[0][:, None] + numbers.astype(np.float64).reshape(len(numbers), -1, 2)
        return visible(place * strides(level, size))


@dataclass(frozen=True)
class Offsets(Coding):
    """Centre and size in pixels, the centre relative to the middle of the place of the grid (BlazeFace)."""

    def boxes(self, numbers: np.ndarray, level: Level, size: tuple[int, int]) -> np.ndarray:
        found = numbers[:, :4].astype(np.float64)
        found[:, :2] += self._middles(level, size)
        return corners(found)

    def points(self, numbers: np.ndarray, level: Level, size: tuple[int, int]) -> np.ndarray:
        found = numbers.astype(np.float64).reshape(len(numbers), -1, 2)
        return visible(found + self._middles(level, size)[:, None])

    def side(self, part: Part, place: int, side: int, level: Level, size: tuple[int, int]) -> str:
        middle, extent = part.expression(place, side % 2), part.expression(place, side % 2 + 2)
        return f"{middle} {'-' if side < 2 else '+'} 0.5 * {extent}"

    def _middles(self, level: Level, size: tuple[int, int]) -> np.ndarray:
        return np.asarray((level.places[0] + 0.5) / level.grid[::-1] * size[::-1])


@dataclass(frozen=True)
class Anchored(Coding):
    """Centre and logarithm of the size relative to anchors, or priors (Faster R-CNN 1506.01497, SSD 1512.02325).

    Attributes:
        maps: (grid, horizontal and vertical step in pixels, (width, height) in pixels of each anchor of a place) of
            every level.
        priors: centre x, y, width and height in pixels of every candidate's anchor; None where `maps` tell them.
        variances: what centres and logarithms of sizes are multiplied by.
        offset: of anchors in their place; 0.5 is the middle.
        rows_first: y before x, height before width.
    """

    maps: tuple[tuple[tuple[int, int], tuple[float, float], tuple[tuple[float, float], ...]], ...] = ()
    priors: np.ndarray | None = None
    variances: tuple[float, float] = (1.0, 1.0)
    offset: float = 0.5
    rows_first: bool = False

    def boxes(self, numbers: np.ndarray, level: Level, size: tuple[int, int]) -> np.ndarray:
        found, anchors = numbers.astype(np.float64), self.anchors(level)
        if self.rows_first:
            found = found[:, [1, 0, 3, 2]]
        middle = anchors[:, :2] + found[:, :2] * self.variances[0] * anchors[:, 2:]
        with np.errstate(over="ignore"):
            return corners(np.concatenate([middle, np.exp(found[:, 2:4] * self.variances[1]) * anchors[:, 2:]], axis=1))

    def side(self, part: Part, place: int, side: int, level: Level, size: tuple[int, int]) -> str:
        number, (first, second) = (1 - side % 2 if self.rows_first else side % 2), self.variances
        middle, extent = part.expression(place, number), part.expression(place, number + 2)
        return f"{first:g} * {middle} {'-' if side < 2 else '+'} 0.5 * ({second:g} * {extent}).exp()"

    def points(self, numbers: np.ndarray, level: Level, size: tuple[int, int]) -> np.ndarray:
        anchors = self.anchors(level)[:, None]
        found = numbers.astype(np.float64).reshape(len(numbers), -1, 2)
        return visible(anchors[..., :2] + found * self.variances[0] * anchors[..., 2:])

    def anchors(self, level: Level) -> np.ndarray:
        """(P, 4) centre x, y, width, height in pixels."""
        if self.priors is not None:
            return np.asarray(self.priors[level.scores.first : level.scores.last], np.float64)
        step, shapes = next((step, shapes) for grid, step, shapes in self.maps if grid == level.grid)
        places, cell = level.places
        return np.concatenate([(places + self.offset) * step, np.array(shapes, np.float64)[cell]], axis=1)


@dataclass(frozen=True)
class WithAnchors(Coding):
    """Centre and size relative to the anchors of a place, as YOLO writes them.

    Attributes:
        anchors: (width, height) in pixels of every anchor of each level, the finest level first.
        doubled: centre 2 σ − ½ and size (2 σ)² (YOLOv5, v7), else σ and eᵗ (YOLOv3, v4: 1804.02767).
        squashed: the model's numbers are σ already.
        steps: pixels between places, of each level; () for 8, 16, 32, or 16, 32.
    """

    anchors: tuple[tuple[tuple[float, float], ...], ...] = ()
    doubled: bool = True
    squashed: bool = False
    steps: tuple[int, ...] = ()

    def boxes(self, numbers: np.ndarray, level: Level, size: tuple[int, int]) -> np.ndarray:
        found, stride = numbers.astype(np.float64), strides(level, size)
        share = found if self.squashed else sigmoid(found)
        places, cell = level.places
        steps = self.steps or ((16, 32) if len(self.anchors) == 2 else (8, 16, 32))
        nearest = int(np.abs(np.log2(steps) - np.log2(stride[0])).argmin())
        anchors = np.array(self.anchors[nearest], np.float64)[cell]
        if self.doubled:
            middle, extent = 2 * share[:, :2] - 0.5, (2 * share[:, 2:4]) ** 2
        else:
            with np.errstate(over="ignore", divide="ignore"):
                odds = np.exp(found[:, 2:4]) if not self.squashed else share[:, 2:4] / (1 - share[:, 2:4])
            middle, extent = share[:, :2], odds
        return corners(np.concatenate([(middle + places) * stride, extent * anchors], axis=1))


@dataclass(frozen=True)
class Tanh(Coding):
    """Centre tanh t from the corner of its place, and size σ(t) in shares of the input (FastestDet)."""

    def boxes(self, numbers: np.ndarray, level: Level, size: tuple[int, int]) -> np.ndarray:
        found, stride = numbers.astype(np.float64), strides(level, size)
        middle = (np.tanh(found[:, :2]) + level.places[0]) * stride
        return corners(np.concatenate([middle, sigmoid(found[:, 2:4]) * np.array(size[::-1])], axis=1))


@dataclass(frozen=True)
class Middles(Coding):
    """Width and height, then the offset of the middle from the corner of its place, all in places (CenterNet)."""

    def boxes(self, numbers: np.ndarray, level: Level, size: tuple[int, int]) -> np.ndarray:
        found, stride = numbers.astype(np.float64), strides(level, size)
        middle = (level.places[0] + found[:, 2:4]) * stride
        return corners(np.concatenate([middle, found[:, :2] * stride], axis=1))


@dataclass(frozen=True)
class Rotated(Coding):
    """Centre, size and, as the last number, an angle in radians; the box is the upright one around it (YOLO-obb)."""

    def boxes(self, numbers: np.ndarray, level: Level, size: tuple[int, int]) -> np.ndarray:
        found = numbers.astype(np.float64)
        cos, sin = np.abs(np.cos(found[:, -1])), np.abs(np.sin(found[:, -1]))
        wide, high = found[:, 2], found[:, 3]
        around = np.stack([wide * cos + high * sin, wide * sin + high * cos], axis=1)
        return corners(np.concatenate([found[:, :2], around], axis=1))

    def rotated(self, numbers: np.ndarray) -> np.ndarray:
        return numbers[:, [0, 1, 2, 3, -1]].astype(np.float64)


@dataclass(frozen=True)
class WithPoints(Corners):
    """Centre and size, and keypoints written in the same way.

    Attributes:
        each: numbers of a keypoint: x, y and whether it is seen, or x and y alone.
        logits: whether a keypoint is seen is a logit.
    """

    centred: bool = True
    each: int = 3
    logits: bool = False

    def points(self, numbers: np.ndarray, level: Level, size: tuple[int, int]) -> np.ndarray:
        found = numbers.astype(np.float64).reshape(len(numbers), -1, self.each)
        if self.unit:
            found[..., :2] *= np.array(size[::-1])
        if self.each == 2:
            return visible(found)
        if self.logits:
            found[..., 2] = sigmoid(found[..., 2])
        return found

    def visibility(self, part: Part, place: int, index: int) -> str:
        return part.expression(place, 3 * index + 2) if self.each == 3 else super().visibility(part, place, index)


@dataclass(frozen=True)
class RowsFirst(Corners):
    """Corners and keypoints as shares of the input, y before x, and how sure the model is of each (MoveNet)."""

    unit: bool = True
    rows_first: bool = True

    def points(self, numbers: np.ndarray, level: Level, size: tuple[int, int]) -> np.ndarray:
        found = numbers.astype(np.float64).reshape(len(numbers), -1, 3)
        return found[..., [1, 0, 2]] * np.array([size[1], size[0], 1.0])

    def visibility(self, part: Part, place: int, index: int) -> str:
        return part.expression(place, 3 * index + 2)


def corners(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) x0, y0, x1, y1 of centres and sizes."""
    half = boxes[:, 2:4] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def rotated_corners(boxes: np.ndarray) -> np.ndarray:
    """(n, 4, 2) x, y of the corners of (n, 5) rotated boxes, one after the other."""
    half, angle = boxes[:, 2:4] / 2, boxes[:, 4]
    along = half[:, :1] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    across = half[:, 1:] * np.stack([-np.sin(angle), np.cos(angle)], axis=1)
    offsets = [-along - across, along - across, along + across, across - along]
    return np.asarray(boxes[:, None, :2] + np.stack(offsets, axis=1))


def strides(level: Level, size: tuple[int, int]) -> np.ndarray:
    """(2,) pixels of the input, horizontally and vertically, per place of the grid."""
    stride = [2 ** round(np.log2(side / max(1, cells))) for side, cells in zip(size, level.grid, strict=True)]
    return np.array(stride[::-1], np.float64)


def visible(points: np.ndarray) -> np.ndarray:
    """(P, K, 3) of (P, K, 2), every point visible."""
    return np.concatenate([points, np.ones((*points.shape[:2], 1))], axis=2)


def softmax(array: np.ndarray) -> np.ndarray:
    """Along the last axis."""
    raised = np.exp(array - array.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def sigmoid(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-array.astype(np.float64))))
