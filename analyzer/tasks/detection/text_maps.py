"""Detectors of text whose output is a map: how probable text is at every pixel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from analyzer.errors import InputError
from analyzer.gradient.registry import cotangent_type
from analyzer.graph import Builder, Value
from analyzer.images.components import connected_components
from analyzer.images.rectangles import rectangles
from analyzer.metrics.detections import Detections
from analyzer.tasks.base import TOP1, Labels, Prediction, quoted
from analyzer.tasks.detection.boxed import Boxed
from analyzer.tasks.detection.codings import sigmoid
from analyzer.tasks.detection.usual import usual_of

_TINY = 1e-6


@dataclass(frozen=True)
class Region:
    """Text that is found: its four corners (4, 2) in pixels of the map, its score, and the rows and columns of the map
    that its pixels lie in."""

    corners: np.ndarray
    score: float
    rows: slice
    columns: slice


@dataclass(frozen=True)
class TextMap(Boxed):
    """Text as a probability for every pixel. A detection is a connected part of the map.

    What is explained is the mean logit of its pixels, by default that of all pixels of text.

    Attributes:
        form: "db": the part is the middle of the text, of which its box is found by moving the sides of the smallest
            rectangle outwards (DB, 1911.08947, with PaddleOCR's numbers); "lines": two further channels say how far the
            line reaches up and down from a pixel, in pixels of the input.
        size: height and width of the model's input.
        channel: the axis of the channels.
        function: "sigmoid" where that is still to be done to the numbers, "" where the model gives probabilities.
        layer: the feature map to explain by; "" for the model's.
        threshold_: as people set it; None for the usual one.
    """

    form: str = "db"
    size: tuple[int, int] = (0, 0)
    channel: int = 1
    function: str = ""
    layer: str = ""
    threshold_: float | None = None

    kind: ClassVar[str] = "detection"
    role: ClassVar[str] = "how probable text is at every pixel"
    sized: ClassVar[bool] = False

    # ---- Inside a graph ----

    def flat(self, op: Builder) -> Value:
        tensor, cotangent = self.spread(op, op.constant(np.ones((1, 1), np.float32)))
        return op.ReduceSum(op.Mul(tensor, cotangent), [1], keepdims=1)

    def spread(self, op: Builder, chosen: Value) -> tuple[Value, Value]:
        logits = self._logits_in(op)
        share = self._share_in(op, logits)
        return logits, op.Mul(share, op.cast(chosen, logits.dtype))

    def shown(self, op: Builder) -> Value:
        logits = self._logits_in(op)
        probable = logits if self._probable else op.Sigmoid(logits)
        return op.ReduceSum(op.Mul(probable, self._share_in(op, logits)), [1], keepdims=1)

    def top(self, op: Builder) -> Value:
        seen = op.Greater(op.ReduceMax(self._logits_in(op), [1], keepdims=0), np.float32(self._least))
        return op.Where(seen, np.int64(0), np.int64(TOP1))

    def probability(self, op: Builder, tensor: Value, cotangent: Value) -> Value:
        probable = tensor if self._probable else op.Sigmoid(tensor)
        return op.ReduceSum(op.Mul(probable, cotangent), [1], keepdims=0)

    def _logits_in(self, op: Builder) -> Value:
        """(N, pixels)"""
        value = op.cast(self.logits, cotangent_type(self.logits))
        value = op.Slice(value, [0], [1], [self.channel]) if self.form == "lines" else value
        return op.Reshape(value, [0, -1], allowzero=0)

    def _share_in(self, op: Builder, logits: Value) -> Value:
        """(N, pixels) 0 where no text is, else one by the number of pixels of text."""
        inside = op.cast(op.Greater(logits, op.scalar(self._least, logits)), logits.dtype)
        return op.Div(inside, op.Max(op.ReduceSum(inside, [1], keepdims=1), op.scalar(1, logits)))

    @property
    def _probable(self) -> bool:
        """Whether `logits` are probabilities: the model ends with another function than a Sigmoid."""
        return not self.function and not self._sigmoid

    @property
    def _cut(self) -> float:
        """The probability above which a pixel is of text."""
        return 0.3 if self.form == "db" else 0.5

    @property
    def _least(self) -> float:
        """The same, in the numbers of `logits`."""
        return self._cut if self._probable else math.log(self._cut / (1 - self._cut))

    @property
    def layers(self) -> tuple[str, ...]:
        return (self.layer,) if self.layer else ()

    @property
    def classes(self) -> int | None:
        return 1

    # ---- What the model says ----

    def read(self, output: Any, count: int) -> np.ndarray:
        found = [self._map({n: self.of(a, i, count) for n, a in output.items()})[0] for i in range(count)]
        return np.array([[each[each > self._cut].mean() if (each > self._cut).any() else 0.0] for each in found])

    def _map(self, output: Mapping[str, np.ndarray]) -> np.ndarray:
        """(C, h, w) the probability, and distances perhaps."""
        found = np.moveaxis(np.asarray(output[self.output.name], np.float32), self.channel, 1)[0]
        return np.concatenate([sigmoid(found[:1]), found[1:]]) if self.function else found

    def regions(self, output: Any) -> list[Region]:
        """What is found in one picture, the surest first."""
        found = self._map(output)
        regions = self._parts(found[0]) if self.form == "db" else self._lines(found)
        return sorted((r for r in regions if r.score >= self.threshold), key=lambda r: -r.score)

    def _parts(self, probable: np.ndarray) -> list[Region]:
        """DB: at most 1000 outlines, whose rectangle is at least 3 pixels wide; each side is moved outwards by
        1.5 · area / perimeter, after which it is at least 5 pixels wide."""
        regions = []
        for each in rectangles(probable > self._cut)[:_MOST]:
            width, height = each.size
            if min(width, height) < _SMALLEST:
                continue
            whole = each.grown(_UNCLIP * width * height / (2 * (width + height)))
            if min(whole.size) >= _SMALLEST + 2:
                regions.append(Region(whole.corners, each.mean(probable), *_around(each.corners, probable.shape)))
        return regions

    def _lines(self, found: np.ndarray) -> list[Region]:
        """Each connected part is the core of a line, which lies between the mean of its pixels' upper ends and that of
        their lower ones; it is longer than its core by 0.15 of its height, on both sides."""
        labels, boxes = connected_components(found[0] > self._cut)
        step, regions = self.size[0] / found.shape[1], []
        for number, (x0, y0, x1, y1, count) in enumerate(boxes.tolist(), 1):
            rows, columns = slice(y0, y1), slice(x0, x1)
            mine = labels[rows, columns] == number
            middle = np.broadcast_to((np.arange(y0, y1)[:, None] + 0.5) * step, mine.shape)[mine]
            up, down = (
                float((middle + sign * found[at, rows, columns][mine]).mean()) for at, sign in ((1, -1), (2, 1))
            )
            more = 0.15 * max(down - up, 1.0)
            left, right, up, down = x0 - more / step, x1 + more / step, up / step, down / step
            corners = np.array([(left, up), (right, up), (right, down), (left, down)])
            if count > 1:
                regions.append(Region(corners, float(found[0, rows, columns][mine].mean()), rows, columns))
        return regions

    def predictions(self, output: Any, labels: Labels = None, limit: int | None = None) -> list[Prediction]:
        probable = self._map(output)[0]
        scale = np.array(self.size[::-1]) / np.array(probable.shape[::-1])
        found = []
        for number, region in enumerate(self.regions(output)[:limit]):
            inside = int((probable[region.rows, region.columns] > self._cut).sum())
            corners = tuple(map(tuple, (region.corners * scale).tolist()))
            found.append(
                Prediction(
                    f"detection:{number}",
                    self.label(0, labels),
                    region.score,
                    0,
                    self._expression(region, inside),
                    box=(*np.min(corners, axis=0).tolist(), *np.max(corners, axis=0).tolist()),
                    corners=corners,
                    layer=self.layer,
                )
            )
        return found

    def _expression(self, region: Region, count: int) -> str:
        """The mean logit of a region's pixels."""
        axes = [":"] * 4
        space = [axis for axis in (1, 2, 3) if axis != self.channel]
        axes[self.channel] = "0"
        for axis, part in zip(space, (region.rows, region.columns), strict=True):
            axes[axis] = f"{part.start}:{part.stop}"
        logits = f"{quoted(self.logits.name)}[{', '.join(axes)}]"
        return f"{logits}.where({logits} > {self._least:.6g}).sum() / {max(count, 1)}"

    def chosen(self, target: int, output: Any, labels: Labels = None) -> list[Prediction]:
        if target not in (TOP1, 0):
            raise InputError(f"class {target} does not exist: the model finds text, class 0")
        if self.says_nothing(output):
            return []
        score = float(self.read(output, 1)[0, 0])
        return [Prediction("top1", f"all {self.label(0, labels)}", score, 0, 0, layer=self.layer)]

    def nearest(self, output: Any, labels: Labels = None, target: int = TOP1) -> Prediction | None:
        probable = self._map(output)[0]
        y, x = np.unravel_index(np.nan_to_num(probable).argmax(), probable.shape)
        down, across = np.array(self.size) / probable.shape
        box = (x * across, y * down, (x + 1) * across, (y + 1) * down)
        return Prediction("top1", self.label(0, labels), float(probable[y, x]), 0, 0, box=box)

    def side(self, found: Prediction, side: str) -> Prediction:
        raise InputError("a side of a text's box is no simple expression of the map", "explain its score")

    def fixed(self, target: int | str, labels: Labels = None) -> str | int | None:
        return 0 if target in (0, "0") else None

    def says_nothing(self, output: Any) -> bool:
        return not bool((self._map(output)[0] > self._cut).any())

    @property
    def threshold(self) -> float:
        usual = 0.6 if self.form == "db" else self._cut
        return usual if self.threshold_ is None else self.threshold_

    def label(self, index: int, labels: Labels) -> str:
        return labels[0] if labels else "text"

    @property
    def label_counts(self) -> tuple[int, ...]:
        return (1,)

    @property
    def nothing(self) -> str:
        return f"no pixel is text with a probability above {self._cut:g}"

    @property
    def usual(self) -> tuple[str, Mapping[str, Any]]:
        return usual_of("PP-OCR") if self.form == "db" else ("detectors of text", {"size": (960, 960)})

    def described(self) -> str:
        return f"{self.kind} of text: {self.evidence}; pixels above {self._cut:g}, scores from {self.threshold:g}"

    def judged(self, output: Any) -> Detections:
        found = replace(self, threshold_=self.threshold / 2).predictions(output)
        boxes = np.array([p.box for p in found], np.float64).reshape(-1, 4)
        return Detections(boxes, np.array([p.score for p in found]), np.zeros(len(found), np.int64))


_MOST, _SMALLEST, _UNCLIP = 1000, 3, 1.5  # outlines, pixels of the narrow side, and ratio, as PaddleOCR has them


def _around(corners: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The rows and columns of an (h, w) map that a rectangle lies in."""
    low, high = np.floor(corners.min(axis=0)).astype(int), np.ceil(corners.max(axis=0)).astype(int)
    (left, up), (right, down) = np.maximum(low, 0).tolist(), np.minimum(high + 1, shape[::-1]).tolist()
    return slice(up, down), slice(left, right)
