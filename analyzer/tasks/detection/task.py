"""Detection as a task: what is found, where, and what stands for it in the graph."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from analyzer.analysis.scores import REAL, Quantisation
from analyzer.errors import InputError, NotFoundError
from analyzer.graph import Builder, Value
from analyzer.metrics.boxes import iou, suppressed, suppressed_rotated
from analyzer.metrics.detections import Detections
from analyzer.tasks.base import LAYERS, TOP1, Labels, Prediction
from analyzer.tasks.detection.boxed import ALIKE, Boxed
from analyzer.tasks.detection.codings import Corners, rotated_corners
from analyzer.tasks.detection.decoder import Candidates, Decoder, packed, unpacked
from analyzer.tasks.detection.usual import usual_of
from analyzer.tasks.keypoints.names import name_of, number_of
from analyzer.tasks.segmentation import background_of

MOST = 300  # detections of one picture
_CONSIDERED = 3000  # candidates above the threshold that suppression looks at, the surest
SIDES = ("left", "top", "right", "bottom")
_NONE = Decoder("", (), Corners(), (0, 0), 0)
_POINT = re.compile(r"keypoint:([\w .-]+)")


@dataclass(frozen=True)
class Detection(Boxed):
    """Candidates with a box and a score per class. A class, in the sense of the graph, is a score of a candidate, so
    that whichever detection is explained, the graph is the same: candidate · classes + class.

    Attributes:
        decoder: the format.
        quantisations: (output, what its numbers stand for) of the outputs that are read.
        threshold_, iou_: as people set them; None for the decoder's.
    """

    decoder: Decoder = _NONE
    quantisations: tuple[tuple[str, Quantisation], ...] = ()
    threshold_: float | None = None
    iou_: float | None = None

    kind: ClassVar[str] = "detection"
    role: ClassVar[str] = "scores of candidates"
    probable: ClassVar[bool] = True

    # ---- Inside a graph ----

    def flat(self, op: Builder) -> Value:
        return op.Reshape(self.decoder.logits_in(op), [0, -1], allowzero=0)

    def shown(self, op: Builder) -> Value:
        return op.Reshape(self.decoder.scores_in(op), [0, -1], allowzero=0)

    def layers_in(self, op: Builder) -> Value | None:
        if not any(level.layers for level in self.decoder.levels):
            return None
        return self.decoder.layers_in(op, self.layers)

    def level_in(self, op: Builder, chosen: Value) -> Value:
        layers = self.layers_in(op)
        if layers is not None:
            layers = op.Pad(layers, [0, 0, 0, 1])  # there may be none
            row = op.Unsqueeze(op.Div(op.Max(chosen, np.int64(0)), np.int64(self.decoder.classes)), [1])
            return op.Squeeze(op.GatherElements(layers, row, axis=1), [1])
        at = [self.layers.index(level.layer) for level in self.decoder.levels]
        counts = [level.count for level in self.decoder.levels]
        of_candidate = op.constant(np.repeat(at, counts).astype(np.int64), "levels")
        candidate = op.Div(op.Max(chosen, np.int64(0)), np.int64(self.decoder.classes))
        return op.Gather(of_candidate, candidate, axis=0)

    @property
    def layers(self) -> tuple[str, ...]:
        own = [layer for level in self.decoder.levels for _, layer in level.layers]
        if own:
            return tuple(dict.fromkeys(own))
        levels = [level for level in self.decoder.levels if level.count or not self._candidates]
        return tuple(dict.fromkeys(level.layer for level in levels)) if all(level.layer for level in levels) else ()

    @property
    def classes(self) -> int | None:
        return self._candidates * self.decoder.classes if self._candidates else None

    @cached_property
    def _candidates(self) -> int:
        return sum(level.count for level in self.decoder.levels)

    # ---- What is to be explained ----

    @property
    def reading(self) -> dict[str, Quantisation]:
        known = dict(self.quantisations)
        return {name: known.get(name, REAL) for name in self.decoder.outputs}

    @property
    def threshold(self) -> float:
        return self.decoder.threshold if self.threshold_ is None else self.threshold_

    @property
    def iou(self) -> float | None:
        return self.decoder.iou if self.iou_ is None else self.iou_

    def layer_of(self, slot: int) -> str:
        """The feature map of a candidate's level; "" where all have one."""
        place = slot // self.decoder.classes
        for level in self.decoder.levels:
            place -= level.count
            if place < 0 or not level.count:
                return level.layer
        return ""

    # ---- What the model says ----

    def read(self, output: Any, count: int) -> np.ndarray:
        rows = [self.decoder.scores({n: self.of(a, i, count) for n, a in output.items()}) for i in range(count)]
        return np.stack(rows).reshape(count, -1)

    def answer(self, said: Mapping[str, np.ndarray], index: int = 0, count: int = 1) -> Any:
        layers = {LAYERS: self.of(said[LAYERS], index, count)} if LAYERS in said else {}
        return super().answer(said, index, count) | layers

    def predictions(self, output: Any, labels: Labels = None, limit: int | None = None) -> list[Prediction]:
        found = self.decoder.candidates(output)
        return self._named(output, found, self._kept(found)[:limit], labels)

    def certainty(self, found: Prediction, output: Any) -> float:
        """The highest score of its class among candidates whose box is the same: an IoU of at least 0.5."""
        now = self.decoder.candidates(output)
        assert found.box is not None and isinstance(found.slot, int)
        same = iou(np.array([found.box]), now.boxes)[0] >= ALIKE
        if now.labels is not None:
            same &= now.labels == found.index
        scores = now.scores[same, found.slot % self.decoder.classes]
        return float(np.max(scores, initial=0.0))

    def _kept(self, found: Candidates, threshold: float | None = None) -> np.ndarray:
        """(n, 2) candidate and column of its score, of what is detected, the surest first: of each candidate its surest
        class."""
        scores = np.where(np.isfinite(found.scores), found.scores, -np.inf)
        surest = scores.argmax(axis=1)[:, None]
        scores = np.where(np.arange(scores.shape[1]) == surest, scores, -np.inf)
        least = self.threshold if threshold is None else threshold
        pairs = np.argwhere(scores >= least)
        values = scores[pairs[:, 0], pairs[:, 1]]
        pairs = pairs[np.argsort(-values, kind="stable")[:_CONSIDERED]]
        if self.iou is not None and len(pairs):
            values, classes = scores[pairs[:, 0], pairs[:, 1]], self._classes_of(found, pairs)
            boxes, suppress = (
                (found.boxes, suppressed) if found.rotated is None else (found.rotated, suppressed_rotated)
            )
            pairs = pairs[suppress(boxes[pairs[:, 0]], values, classes, self.iou)]
        return pairs[:MOST]

    def _classes_of(self, found: Candidates, pairs: np.ndarray) -> np.ndarray:
        return pairs[:, 1] if found.labels is None else found.labels[pairs[:, 0]]

    def _named(self, output: Any, found: Candidates, pairs: np.ndarray, labels: Labels) -> list[Prediction]:
        classes, predictions = self._classes_of(found, pairs), []
        masks = self.decoder.masks_of(output, pairs[:, 0], found.boxes[pairs[:, 0]])
        corners = None if found.rotated is None else rotated_corners(found.rotated[pairs[:, 0]])
        layers = output.get(LAYERS)
        for number, ((place, column), index) in enumerate(zip(pairs.tolist(), classes.tolist(), strict=True)):
            slot = place * self.decoder.classes + column
            predictions.append(
                Prediction(
                    f"detection:{number}",
                    self.class_label(index, labels),
                    float(found.scores[place, column]),
                    index,
                    slot,
                    box=tuple(found.boxes[place].tolist()),
                    points=None if found.points is None else tuple(map(tuple, found.points[place].tolist())),
                    layer=self.layer_of(slot) if layers is None else self.layers[int(layers[0, place])],
                    scaled=self.decoder.scaled,
                    mask=masks[number],
                    corners=None if corners is None else tuple(map(tuple, corners[number].tolist())),
                )
            )
        return predictions

    @property
    def usual(self) -> tuple[str, Mapping[str, Any]]:
        return usual_of(self.decoder.family)

    def says_nothing(self, output: Any) -> bool:
        return not bool((self.decoder.scores(output) >= self.threshold).any())

    def nearest(self, output: Any, labels: Labels = None, target: int = TOP1) -> Prediction | None:
        found = self.decoder.candidates(output)
        scores = np.where(np.isfinite(found.scores), found.scores, -np.inf)
        if target != TOP1:
            index = np.arange(scores.shape[1]) if found.labels is None else found.labels[:, None]
            scores = np.where(index == self.numbered(target, labels), scores, -np.inf)
        if not scores.size or scores.max() == -np.inf:
            return None
        highest = np.argwhere(scores == scores.max())[:1]
        return self._named(output, found, highest, labels)[0]

    def chosen(self, target: int, output: Any, labels: Labels = None) -> list[Prediction]:
        found = self.predictions(output, labels)
        if target != TOP1:
            target -= self._shift(labels) if labels is not None else 0
            self._check(target)
            found = [p for p in found if p.index == target]
        return found[:1]

    def _check(self, index: int) -> None:
        """InputError where the model has no such class."""
        if self._one_label_each or index < self.decoder.classes:
            return
        raise InputError(f"class {index} does not exist: the model finds {self.decoder.classes} classes, from 0")

    @property
    def _one_label_each(self) -> bool:
        return any(level.labels is not None for level in self.decoder.levels)

    def resolve(self, word: str, output: Any, labels: Labels = None) -> list[Prediction] | None:
        if point := _POINT.fullmatch(word):
            return [self._keypoint(point[1], output)]
        return super().resolve(word, output, labels)

    def _keypoint(self, name: str, output: Any) -> Prediction:
        """A keypoint of the strongest detection: how sure the model is that it is seen."""
        found = self.predictions(output, limit=1)
        if found and not found[0].points:
            raise InputError("this detector finds no keypoints", f"choose one of {', '.join(self.words)}")
        if not found:
            raise NotFoundError(f"there is no keypoint:{name}: {self.nothing}")
        points, place = found[0].points or (), found[0].slot
        index = number_of(name, len(points), None)
        assert isinstance(place, int)
        slot = self.decoder.visibility(place // self.decoder.classes, index)
        label = name_of(index, len(points), None)
        return replace(
            found[0], target=f"keypoint:{index}", label=label, score=points[index][2], index=None, slot=slot,
            box=None, points=(points[index],),
        )  # fmt: skip

    def side(self, found: Prediction, side: str) -> Prediction:
        if side not in SIDES:
            raise InputError(f"a box has no side {side!r}", f"its sides are {', '.join(SIDES)}")
        assert isinstance(found.slot, int) and found.box is not None
        slot = self.decoder.side(found.slot // self.decoder.classes, SIDES.index(side))
        name = f"{found.target}.{side}"
        return replace(found, target=name, score=found.box[SIDES.index(side)], index=None, slot=slot)

    def numbered(self, number: int, labels: Labels) -> int:
        return number - self._shift(labels)

    def class_of(self, index: int) -> int:
        return index % self.decoder.classes if self.decoder.classes else index

    def label(self, index: int, labels: Labels) -> str:
        return self.class_label(self.class_of(index), labels)

    def class_label(self, index: int, labels: Labels) -> str:
        """The name of a class."""
        if labels is None and self.decoder.classes == 1 and not self._one_label_each:
            return self.decoder.thing
        return super().label(index + self._shift(labels), labels)

    def _shift(self, labels: Labels) -> int:
        """1 where labels begin with a background that the scores do not have."""
        if labels is None or len(labels) != (self.decoder.named or self.decoder.classes) + 1:
            return 0
        return int(self.decoder.background == 0 or background_of(labels) == 0)

    @property
    def label_counts(self) -> tuple[int, ...]:
        if self._one_label_each:
            return ()
        return (self.decoder.classes, self.decoder.classes + 1)

    @property
    def nothing(self) -> str:
        return f"nothing is detected with a score of {self.threshold:g} or more"

    def described(self) -> str:
        overlap = "" if self.iou is None else f", overlaps above {self.iou:g} dropped per class"
        return f"{self.kind} ({self.decoder.family}): {self.evidence}; scores from {self.threshold:g}{overlap}"

    # ---- Comparing ----

    def judged(self, output: Any) -> Detections:
        found = self.decoder.candidates(output)
        pairs = self._kept(found, self.threshold / 2)
        places, columns = pairs[:, 0], pairs[:, 1]
        return Detections(found.boxes[places], found.scores[places, columns], self._classes_of(found, pairs))

    # ---- As data ----

    def as_data(self) -> dict[str, Any]:
        return super().as_data() | {"decoder": packed(self.decoder), "quantisations": packed(self.quantisations)}

    @classmethod
    def restored(cls, data: dict[str, Any]) -> dict[str, Any]:
        quantisations = tuple((name, Quantisation(*known)) for name, known in data["quantisations"])
        return data | {"decoder": unpacked(data["decoder"]), "quantisations": quantisations}
