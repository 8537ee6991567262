"""What an audit measures of answers, by their kind: classes, detections, masks, texts, embeddings.

Every kind has a score in [0, 1] that says how much of the answer for a picture is left in another answer, such as that
for the same picture with pixels deleted. Deletion, insertion and average drop are of this score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from analyzer.images.resample import resize
from analyzer.metrics.boxes import iou
from analyzer.metrics.consistency import shifted
from analyzer.metrics.detections import Detections, matched
from analyzer.metrics.similarity import cosine_of
from analyzer.metrics.text import text_similarity
from analyzer.tasks import Task
from analyzer.tasks.base import Labels, Prediction
from analyzer.tasks.classification import Classification
from analyzer.tasks.detection.boxed import ALIKE, Boxed
from analyzer.tasks.embedding import Embedding
from analyzer.tasks.segmentation import Segmentation
from analyzer.tasks.text import Text
from analyzer.validation.checks import CLASSES, DETECTIONS, EMBEDDINGS, MASKS, SHIFT, TEXTS, VALUES

SMALLER = 0.8  # of the picture's width and height, of the check of sizes
DOUBLED = 0.3  # IoU from which a second detection of a class is of the same thing; suppression leaves few above it

Read = Callable[[np.ndarray], Any]  # of one input: the model's answer, as its task reads it


class Answers:
    """The answers of a model: numbers without a known meaning, of which little can be judged."""

    kind: ClassVar[str] = VALUES

    def __init__(self, task: Task, read: Read, space: tuple[int, int], labels: Labels = None) -> None:
        """`space` has the input's axes of height and width."""
        self.task, self.read, self.space, self.labels = task, read, space, labels

    def first(self, answer: Any) -> Prediction | None:
        """What the model is surest of; None where it names nothing."""
        return None

    def target(self, answer: Any) -> Any:
        """What explains it."""
        return "top1"

    def region(self, answer: Any, size: tuple[int, int]) -> np.ndarray | None:
        """A box (4,), or a mask (H, W), of what is explained, in pixels of the input; None for what has no place."""
        return None

    def left(self, before: Any, after: Any) -> float | None:
        """How much of the answer `before` is left `after`, in [0, 1]; None where that is not known."""
        return None

    def steady(self, before: Any, array: np.ndarray) -> dict[str, float]:
        """What stays of an answer when the picture moves by a few pixels, or shrinks."""
        return {}

    def _moves(self, array: np.ndarray) -> list[tuple[int, int, Any]]:
        """(pixels, which of the two axes, the answer) of the picture moved in four directions."""
        return [
            (pixels, at, self.read(shifted(array, pixels, axis)))
            for at, axis in enumerate(self.space)
            for pixels in (-SHIFT, SHIFT)
        ]


class Classes(Answers):
    """One class per picture, or several; the audit measures their probabilities itself."""

    kind = CLASSES


class Texts(Answers):
    kind = TEXTS

    def first(self, answer: Any) -> Prediction | None:
        return next(iter(self.task.resolve("text", answer, self.labels) or ()), None)

    def left(self, before: Any, after: Any) -> float:
        """1 − edit distance / length of the longer text."""
        assert isinstance(self.task, Text)
        a, b = ([index for _, index, _ in self.task.characters(answer)] for answer in (before, after))
        return text_similarity(a, b)

    def steady(self, before: Any, array: np.ndarray) -> dict[str, float]:
        return {"answer_kept": float(np.mean([self.left(before, after) for _, _, after in self._moves(array)]))}


class Embeddings(Answers):
    kind = EMBEDDINGS

    def left(self, before: Any, after: Any) -> float:
        """The cosine of the two vectors, 0 where it is negative."""
        return max(0.0, cosine_of(np.asarray(before, np.float64), np.asarray(after, np.float64)))

    def steady(self, before: Any, array: np.ndarray) -> dict[str, float]:
        return {"answer_kept": float(np.mean([self.left(before, after) for _, _, after in self._moves(array)]))}


class Masks(Answers):
    kind = MASKS

    def first(self, answer: Any) -> Prediction | None:
        found, top = self.task.predictions(answer, self.labels), self._top(answer)
        return next((one for one in found if one.index == top), None)

    def target(self, answer: Any) -> int:
        return self._top(answer)

    def region(self, answer: Any, size: tuple[int, int]) -> np.ndarray | None:
        mask = self.task.mask(answer)
        return None if mask is None else _enlarged(mask == self._top(answer), size)

    def left(self, before: Any, after: Any) -> float | None:
        """IoU of the pixels of the class that is explained."""
        a, b = self.task.mask(before), self.task.mask(after)
        return None if a is None or b is None else _mask_iou(*(mask == self._top(before) for mask in (a, b)))

    def steady(self, before: Any, array: np.ndarray) -> dict[str, float]:
        size = (array.shape[self.space[0]], array.shape[self.space[1]])
        own, kept = self.region(before, size), []
        if own is None or min(size) <= 4 * SHIFT:
            return {}
        for pixels, at, after in self._moves(array):
            mask = self.task.mask(after)
            if mask is not None:
                back = shifted(_enlarged(mask == self._top(before), size), -pixels, at)
                seen = slice(SHIFT, -SHIFT)
                kept.append(_mask_iou(own[seen, seen], back[seen, seen]))
        return {"answer_kept": float(np.mean(kept))}

    def _top(self, answer: Any) -> int:
        return int(self.task.best(self.task.read(answer, 1))[0])


class Found(Answers):
    """Detections."""

    kind = DETECTIONS

    def first(self, answer: Any) -> Prediction | None:
        return next(iter(self.task.predictions(answer, self.labels, 1)), None)

    def target(self, answer: Any) -> Any:
        first = self.first(answer)
        return "top1" if first is None else first.target

    def region(self, answer: Any, size: tuple[int, int]) -> np.ndarray | None:
        first = self.first(answer)
        return None if first is None or first.box is None or first.scaled else np.asarray(first.box, np.float64)

    def left(self, before: Any, after: Any) -> float:
        """The score of the surest detection's partner: of its class, with an IoU of at least 0.5; 0 without one."""
        a, b = self._judged(before), self._judged(after)
        first = int(a.scores.argmax())
        alike = (iou(a.boxes[[first]], b.boxes)[0] >= ALIKE) & (b.classes == a.classes[first])
        return float(b.scores[alike].max(initial=0))

    def partner(self, before: Any, after: Any) -> Any:
        """The target of the detection `after` that overlaps the surest `before` most, of those of its class."""
        first, others = self.first(before), self.task.predictions(after, self.labels)
        if first is None or first.box is None:
            return self.target(after)
        near = [o for o in others if o.index == first.index and o.box is not None]
        if not near:
            return None
        overlaps = iou(np.array([first.box]), np.array([o.box for o in near]))[0]
        return near[int(overlaps.argmax())].target if overlaps.max() > 0 else None

    def steady(self, before: Any, array: np.ndarray) -> dict[str, float]:
        """The shares of the detections that are missed and doubled; of those missed too if the picture is smaller."""
        own, moved = self._judged(before), []
        for pixels, at, after in self._moves(array):
            offset = np.roll([0.0, float(pixels)], at)  # x, y; the first axis is the height
            moved.append(self._changes(own, self._judged(after), offset, 1.0))
        smaller = self._changes(own, self._judged(self.read(shrunk(array, self.space))), np.zeros(2), SMALLER)
        missed, doubled = np.mean(moved, axis=0)
        return {"missed": float(missed), "doubled": float(doubled), "missed_when_smaller": smaller[0]}

    def disturbed(self, before: Any, array: np.ndarray) -> dict[str, list[Prediction]]:
        """{what was done, and how much is missed: the detections, in pixels of `array`}: of the four moves the one by
        which most is missed, and of the smaller picture."""
        own, moves = self._judged(before), []
        for pixels, at, after in self._moves(array):
            offset = np.roll([0.0, float(pixels)], at)
            moves.append((*self._changes(own, self._judged(after), offset, 1.0), pixels, at, offset, after))
        missed, doubled, pixels, at, offset, after = max(moves, key=lambda move: move[:2])
        where = (("up", "left"), ("down", "right"))[pixels > 0][at]
        said = f"{SHIFT} pixels {where}: {missed:.0%} missed" + (f", {doubled:.0%} doubled" if doubled else "")
        smaller = self.read(shrunk(array, self.space))
        missed, _ = self._changes(own, self._judged(smaller), np.zeros(2), SMALLER)
        return {
            said: self._back(after, offset, 1.0),
            f"at {SMALLER:.0%}: {missed:.0%} missed": self._back(smaller, np.zeros(2), SMALLER),
        }

    def _back(self, answer: Any, offset: np.ndarray, scale: float) -> list[Prediction]:
        """The detections where they are in the picture that was moved by `offset` (x, y) and scaled."""
        found = []
        for one in self.task.predictions(answer, self.labels):
            if one.box is not None and not one.scaled:
                box = (np.array(one.box).reshape(2, 2) - offset) / scale
                found.append(replace(one, box=tuple(box.ravel().tolist()), mask=None, points=None, corners=None))
        return found

    def _judged(self, answer: Any) -> Detections:
        assert isinstance(self.task, Boxed)
        return self.task.judged(answer)

    def _changes(self, a: Detections, b: Detections, offset: np.ndarray, scale: float) -> tuple[float, float]:
        """(missed, doubled), as shares of a's detections; b's boxes are moved and scaled back.

        As in `Boxed.matching`, a partner may be half as sure as a detection must be.
        """
        b = Detections((b.boxes - np.tile(offset, 2)) / scale, b.scores, b.classes)
        found, sure = matched(a, b, ALIKE), a.scores >= self.task.threshold
        paired = found.pairs[sure[found.pairs[:, 0]], 0]
        added = found.added[b.scores[found.added] >= self.task.threshold]
        again = (iou(a.boxes[paired], b.boxes[added]) >= DOUBLED) & np.equal.outer(a.classes[paired], b.classes[added])
        count = max(1, int(sure.sum()))
        return float(sure[found.missed].sum() / count), float(again.any(axis=1).sum() / count)


_KINDS: tuple[tuple[type[Task], type[Answers]], ...] = (
    (Classification, Classes),
    (Boxed, Found),
    (Segmentation, Masks),
    (Text, Texts),
    (Embedding, Embeddings),
)


def answers_of(task: Task, read: Read, space: tuple[int, int], labels: Labels = None) -> Answers:
    """How the answers of a task are judged."""
    how = next((how for kind, how in _KINDS if isinstance(task, kind)), Answers)
    return how(task, read, space, labels)


def shrunk(array: np.ndarray, space: tuple[int, int]) -> np.ndarray:
    """The picture at `SMALLER` its size in the top left corner; the rest has its mean color."""
    picture = np.moveaxis(array[0], [axis - 1 for axis in space], (0, 1))
    height, width = (round(SMALLER * size) for size in picture.shape[:2])
    result = np.empty_like(picture)
    result[:] = picture.mean(axis=(0, 1)).astype(array.dtype)
    given = picture if array.dtype == np.uint8 else picture.astype(np.float32)
    result[:height, :width] = resize(given, (height, width)).astype(array.dtype)
    return np.ascontiguousarray(np.moveaxis(result, (0, 1), [axis - 1 for axis in space]))[None]


def _enlarged(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask at another size, by the nearest pixel."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, mask.shape, strict=True))
    return mask[np.ix_(rows, columns)]


def _mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """|a ∩ b| / |a ∪ b| of two masks; 1 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0
