"""Keypoints as a task: which are found, where, and what stands for one of them in the graph."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from analyzer.analysis.scores import Quantisation
from analyzer.errors import InputError
from analyzer.graph import Builder, Value
from analyzer.metrics.keypoints import oks
from analyzer.tasks.base import TOP1, Agreement, Finding, Labels, Prediction, quoted
from analyzer.tasks.keypoints.names import name_of, number_of
from analyzer.tasks.targets import resolve_class

AGREEING = 0.9  # OKS from which two answers agree
_TINY = 1e-6
_WORD = re.compile(r"keypoint:(.+?)(?:\.([xy]))?")
_FLOAT = np.dtype(np.float32)


@dataclass(frozen=True)
class Keypoints(Finding):
    """Keypoints with a score each; a class, in the sense of the graph, is a keypoint.

    What is explained is the score before it is squashed and before the place is decoded: of heat maps the maximum, of
    SimCC (2107.03332) the sum of the two maxima, of decoded scores the logit.

    Attributes:
        form: "scored": (…, K, 3) y, x and score, as shares of the input (MoveNet); "maps": a heat map for each;
            "simcc": scores of every column and, in the output `beside`, of every row.
        count: number of keypoints, K.
        size: height and width of the model's input.
        channel: the axis of the keypoints in heat maps.
        beside: another output that is read; "" for none.
        beside_quantisation: what its numbers stand for: (zero, scale).
        layer: the feature map to explain by; "" for the model's.
        threshold_: as people set it; None for the usual one.
    """

    form: str = "scored"
    count: int = 0
    size: tuple[int, int] = (0, 0)
    channel: int = 1
    beside: str = ""
    beside_quantisation: tuple[float, float] = (0.0, 1.0)
    layer: str = ""
    threshold_: float | None = None

    kind: ClassVar[str] = "keypoints"
    role: ClassVar[str] = "keypoints"

    # ---- Inside a graph ----

    def flat(self, op: Builder) -> Value:
        if self.form != "scored":
            return self._highest(
                op, op.cast(self.logits, _FLOAT), self.beside and op.cast(op.graph[self.beside], _FLOAT)
            )
        score = self._scores_in(op)
        if not self._sigmoid:
            return score
        odds = [op.Log(op.Max(part, op.scalar(_TINY, score))) for part in (score, op.Sub(op.scalar(1, score), score))]
        return op.Sub(*odds)

    def shown(self, op: Builder) -> Value:
        if self.form == "scored":
            return self._scores_in(op)
        beside = self.beside and _real(op, op.graph[self.beside], Quantisation(*self.beside_quantisation))
        return self._highest(op, _real(op, self.output, self.quantisation), beside, least=True)

    def _scores_in(self, op: Builder) -> Value:
        rows = op.Reshape(_real(op, self.output, self.quantisation), [-1, self.count, 3])
        return op.Squeeze(op.Slice(rows, [2], [3], [2]), [2])

    def _highest(self, op: Builder, value: Value, beside: Value | str, least: bool = False) -> Value:
        """(N, K) the maximum of each heat map; of columns and rows the sum of both maxima, or the lesser one."""
        if not isinstance(beside, str):
            columns, rows = (op.ReduceMax(each, [2], keepdims=0) for each in (value, beside))
            return op.Min(columns, rows) if least else op.Add(columns, rows)
        space = [axis for axis in range(1, 4) if axis != self.channel]
        return op.Slice(op.ReduceMax(value, space, keepdims=0), [0], [self.count], [1])

    @property
    def layers(self) -> tuple[str, ...]:
        return (self.layer,) if self.layer else ()

    @property
    def classes(self) -> int | None:
        return self.count

    # ---- What the model says ----

    @property
    def reading(self) -> dict[str, Quantisation]:
        beside = {self.beside: Quantisation(*self.beside_quantisation)} if self.beside else {}
        return super().reading | beside

    def read(self, output: Any, count: int) -> np.ndarray:
        rows = [self.points({n: self.of(a, i, count) for n, a in output.items()})[:, 2] for i in range(count)]
        return np.stack(rows)

    def points(self, output: Any) -> np.ndarray:
        """(K, 3) x and y in pixels of the model's input, and score, of one picture."""
        found = np.asarray(output[self.output.name], np.float64)
        height, width = self.size
        if self.form == "scored":
            return found.reshape(self.count, 3)[:, [1, 0, 2]] * np.array([width, height, 1.0])
        if self.form == "simcc":
            both = [each.reshape(self.count, -1) for each in (found, np.asarray(output[self.beside], np.float64))]
            x, y = (
                each.argmax(axis=1) * side / each.shape[1] for each, side in zip(both, (width, height), strict=True)
            )
            return np.stack([x, y, np.minimum(*(each.max(axis=1) for each in both))], axis=1)
        return _peaks(np.moveaxis(found, self.channel, 1)[0, : self.count], self.size)

    def predictions(self, output: Any, labels: Labels = None, limit: int | None = None) -> list[Prediction]:
        points = self.points(output)
        order = np.argsort(-np.nan_to_num(points[:, 2], nan=-np.inf), kind="stable").tolist()
        return [self._named(points, i, labels) for i in order if points[i, 2] >= self.threshold][:limit]

    def _named(self, points: np.ndarray, index: int, labels: Labels) -> Prediction:
        place = tuple(points[index].tolist())
        name = self.label(index, labels)
        return Prediction(f"keypoint:{index}", name, place[2], index, index, points=(place,), layer=self.layer)

    def chosen(self, target: int, output: Any, labels: Labels = None) -> list[Prediction]:
        if target == TOP1:
            return self.predictions(output, labels, 1)
        self._check(target)
        return [self._named(self.points(output), target, labels)]

    def resolve(self, word: str, output: Any, labels: Labels = None) -> list[Prediction] | None:
        match = _WORD.fullmatch(word)
        if match is None:
            return super().resolve(word, output, labels)
        return [self._asked(number_of(match[1], self.count, labels), match[2], output, labels)]

    def _asked(self, index: int, axis: str | None, output: Any, labels: Labels) -> Prediction:
        self._slot_at(index, axis)  # refuses an axis
        return self._named(self.points(output), index, labels)

    def fixed(self, target: int | str, labels: Labels = None) -> str | int | None:
        match = _WORD.fullmatch(target) if isinstance(target, str) else None
        if match is not None:
            return self._slot_at(number_of(match[1], self.count, labels), match[2])
        index = resolve_class(target, labels)
        self._check(index)
        return self.slot(index)

    def _slot_at(self, index: int, axis: str | None) -> str | int:
        """What stands for a keypoint, or for its x or y."""
        if axis is not None:
            raise InputError(
                f"the {axis} of a keypoint is decoded from its scores, which has no gradient",
                f"explain the score: keypoint:{index}",
            )
        return self.slot(index)

    def _check(self, index: int) -> None:
        if index >= self.count:
            raise InputError(f"keypoint {index} does not exist: the model has {self.count} (0 to {self.count - 1})")

    @property
    def threshold(self) -> float:
        return 0.2 if self.threshold_ is None else self.threshold_

    def says_nothing(self, output: Any) -> bool:
        return not bool((self.points(output)[:, 2] >= self.threshold).any())

    @property
    def words(self) -> tuple[str, ...]:
        return ("keypoint:N", "all")

    def label(self, index: int, labels: Labels) -> str:
        return name_of(index, self.count, labels)

    @property
    def label_counts(self) -> tuple[int, ...]:
        return (self.count,)

    @property
    def nothing(self) -> str:
        return f"no keypoint has a score of {self.threshold:g} or more"

    # ---- Comparing ----

    def agreement(self, reference: Any, candidate: Any) -> Agreement:
        """The similarity of the keypoints that the reference finds (OKS), over half of the box around them."""
        a, b = self.points(reference), self.points(candidate)
        a[:, 2] = a[:, 2] >= self.threshold
        if not a[:, 2].any():
            nothing = self.says_nothing(candidate)
            return Agreement("keypoint similarity", float(nothing), nothing)
        area = 0.5 * float(np.prod(np.ptp(a[a[:, 2] > 0, :2], axis=0)))
        value = oks(a, b, area)
        return Agreement("keypoint similarity", value, value >= AGREEING)


@dataclass(frozen=True)
class Landmarks(Keypoints):
    """Keypoints as coordinates, without scores of their own: (N, 2·K) or (N, 3·K) numbers, x, y and perhaps depth.

    Coordinates are what is explained: `keypoint:3.x` and `keypoint:3.y`, larger ones lying further right and further
    down; `keypoint:3` is their sum, and by default it is the mean of those of all points. Numbers that are all between
    −2 and 2 are taken for shares of the input, others for pixels.

    Attributes:
        beside: how sure the model is that there is anything, if it says so.
        sure_from: the number in it from which there is.
        numbers: per keypoint, 2 or 3.
    """

    numbers: int = 2
    sure_from: float = 0.0

    by_class: ClassVar[bool] = False
    role: ClassVar[str] = "coordinates of keypoints"

    def slot(self, target: int, reference: bool = False) -> str | int:
        if target == TOP1:
            mean = f"(({self._every(0)} + {self._every(1)}) * {1 / (2 * self.count):.6g})"
            return f"{mean}.where({quoted(self.beside)}.sum() >= {self.sure_from:g})" if self.beside else mean
        self._check(target)
        return f"{self._coordinate(target, 0)} + {self._coordinate(target, 1)}"

    def _slot_at(self, index: int, axis: str | None) -> str | int:
        return self.slot(index) if axis is None else self._coordinate(index, "xy".index(axis))

    def _coordinate(self, index: int, axis: int) -> str:
        if len(self._sizes) > 1:  # (…, K, numbers)
            return f"{quoted(self.logits.name)}[..., {index}, {axis}]"
        return f"{self._row}{index * self.numbers + axis}{self._closing}"

    def _every(self, axis: int) -> str:
        if len(self._sizes) > 1:
            return f"{quoted(self.logits.name)}[..., {axis}].sum()"
        return f"{self._row}{axis}::{self.numbers}{self._closing}.sum()"

    @property
    def _sizes(self) -> list[int]:
        """The sizes of the axes besides the batch that are not 1."""
        return [d for d in (self.logits.shape or [])[1:] if isinstance(d, int) and d != 1]

    @property
    def _row(self) -> str:
        """The output's name, and all before the place of a number in it."""
        shape = list(self.logits.shape or [])
        axis = next(i for i, d in enumerate(shape) if i and d != 1)
        return f"{quoted(self.logits.name)}[{':, ' * axis}"

    @property
    def _closing(self) -> str:
        shape = list(self.logits.shape or [])
        axis = next(i for i, d in enumerate(shape) if i and d != 1)
        return f"{', :' * (len(shape) - axis - 1)}]"

    def points(self, output: Any) -> np.ndarray:
        found = np.asarray(output[self.output.name], np.float64).reshape(self.count, self.numbers)[:, :2]
        if np.abs(found).max(initial=0) <= 2:
            found = found * np.array(self.size[::-1])
        return np.concatenate([found, np.ones((self.count, 1))], axis=1)

    def predictions(self, output: Any, labels: Labels = None, limit: int | None = None) -> list[Prediction]:
        if self.says_nothing(output):
            return []
        points = self.points(output)
        return [self._at(points, i, output, labels) for i in range(self.count)][:limit]

    def _at(self, points: np.ndarray, index: int, output: Any, labels: Labels) -> Prediction:
        place, slot = tuple(points[index].tolist()), self.slot(index)
        value = float(self._values(output)[index].sum())
        return Prediction(
            f"keypoint:{index}", self.label(index, labels), value, index, slot, points=(place,), layer=self.layer
        )

    def _values(self, output: Any) -> np.ndarray:
        """(K, 2) x and y as the model outputs them."""
        return np.asarray(output[self.output.name]).reshape(self.count, self.numbers)[:, :2]

    def chosen(self, target: int, output: Any, labels: Labels = None) -> list[Prediction]:
        if target != TOP1:
            self._check(target)
            return [self._at(self.points(output), target, output, labels)]
        if self.says_nothing(output):
            return []
        mean = float(self._values(output).mean())
        return [Prediction("top1", f"all {self.count} keypoints", mean, None, self.slot(TOP1), layer=self.layer)]

    def _asked(self, index: int, axis: str | None, output: Any, labels: Labels) -> Prediction:
        if axis is None:
            return self._at(self.points(output), index, output, labels)
        at = "xy".index(axis)
        value, place = float(self._values(output)[index, at]), tuple(self.points(output)[index].tolist())
        name, slot = f"keypoint:{index}.{axis}", self._slot_at(index, axis)
        return Prediction(name, self.label(index, labels), value, None, slot, points=(place,), layer=self.layer)

    def title(self, target: int, output: Any, labels: Labels = None) -> str:
        return f"all {self.count} keypoints" if target == TOP1 else self.label(target, labels)

    def says_nothing(self, output: Any) -> bool:
        if not self.beside:
            return False
        return not bool(np.asarray(output[self.beside]).reshape(-1)[0] >= self.sure_from)

    @property
    def nothing(self) -> str:
        return f"the model finds nothing: its output {self.beside!r} is below {self.sure_from:g}"

    @property
    def words(self) -> tuple[str, ...]:
        return ("keypoint:N", "keypoint:N.x", "keypoint:N.y", "all")

    @property
    def unit(self) -> str:
        return "x + y"


def _peaks(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(K, 3) x, y in pixels of the input and the maximum of every map (K, h, w); moved by a quarter of a place to the
    higher neighbour, as Xiao et al. do (1804.06208)."""
    count, height, width = maps.shape
    best = maps.reshape(count, -1).argmax(axis=1)
    row, column = np.divmod(best, width)
    padded, each = np.pad(maps, ((0, 0), (1, 1), (1, 1)), mode="edge"), np.arange(count)
    right = padded[each, row + 1, column + 2] - padded[each, row + 1, column]
    down = padded[each, row + 2, column + 1] - padded[each, row, column + 1]
    x, y = column + 0.25 * np.sign(right), row + 0.25 * np.sign(down)
    return np.stack([x * size[1] / width, y * size[0] / height, maps.reshape(count, -1).max(axis=1)], axis=1)


def _real(op: Builder, value: Value, known: Quantisation) -> Value:
    """The numbers that an output stands for, in float32."""
    found = op.cast(value, _FLOAT)
    if known == Quantisation():
        return found
    return op.Mul(op.Sub(found, op.scalar(known.zero, found)), op.scalar(known.scale, found))
