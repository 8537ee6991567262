"""Segmentation: a class for every pixel, by scores over channels or by one mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from analyzer.gradient.registry import cotangent_type
from analyzer.graph import Builder, Value
from analyzer.graph.nodes import fixed_sizes, known_shape
from analyzer.tasks.base import COMPARABLE, TOP1, Agreement, Labels, Prediction, Task, label_of_two

_BACKGROUND = {"background", "bg", "void", "other", "others", "unlabeled", "none"}
AGREEING = 0.9  # IoU from which two masks agree


@dataclass(frozen=True)
class Segmentation(Task):
    """A score per class and position. The score of a class is the sum of its logits over the positions where it
    wins (Vinogradova et al. 2020, 2002.11434), per position of the map; what is shown is its share of the positions.

    Attributes:
        channel: the axis of the classes in `logits`.
        background: the class that is explained only when asked for; None if there is none.
        certain: whether that class is known to be the background; otherwise, it is listed with the others.
    """

    channel: int = 1
    background: int | None = 0
    certain: bool = False

    kind: ClassVar[str] = "segmentation"
    role: ClassVar[str] = "class scores of every pixel"

    @property
    def classes(self) -> int | None:
        shape = self.logits.shape
        size = None if shape is None else shape[self.channel]
        return size if isinstance(size, int) else None

    def top(self, op: Builder) -> Value:
        seen = op.ReduceMax(self.shown(op), [1], keepdims=0)
        return op.Where(op.Greater(seen, op.scalar(0, seen)), super().top(op), op.constant(np.array([TOP1], np.int64)))

    def spread(self, op: Builder, chosen: Value) -> tuple[Value, Value]:
        logits = op.cast(self.logits, cotangent_type(self.logits))  # sums of half precision overflow
        won = self._won(op, self._scores(op, logits))
        positions = op.size(logits, self.space)
        shape = [1] * op.rank(logits)
        if self.batched:
            shape[0] = -1
        shape[self.channel] = self.classes or -1
        mine = op.Mul(op.Reshape(op.cast(chosen, logits.dtype), shape), won)
        cotangent = op.Div(self._merged(op, mine), positions)
        if self.batched:
            return logits, cotangent
        return op.Unsqueeze(logits, [0]), op.Unsqueeze(cotangent, [0])

    def probability(self, op: Builder, tensor: Value, cotangent: Value) -> Value:
        axis = self.channel + (0 if self.batched else 1)
        rows = op.Sigmoid(tensor) if self._sigmoid else op.Softmax(tensor, axis=axis)
        axes = list(range(1, op.rank(tensor)))
        return op.ReduceSum(op.Mul(rows, cotangent), axes, keepdims=0)

    def shown(self, op: Builder) -> Value:
        logits = op.cast(self.logits, cotangent_type(self.logits))
        shares = self._rows(op, op.ReduceMean(self._won(op, self._scores(op, logits)), list(self.space), keepdims=0))
        width = op.dim(shares, 1)
        if self.background is None or width is None:
            return shares
        weights = np.ones((1, width), np.float32)
        weights[0, self.background] = 0
        return op.Mul(shares, op.cast(op.constant(weights), shares.dtype))

    def _scores(self, op: Builder, logits: Value) -> Value:
        """A score per class and position."""
        return logits

    def _merged(self, op: Builder, cotangent: Value) -> Value:
        """The cotangent of `logits` from that of `_scores`."""
        return cotangent

    def _won(self, op: Builder, scores: Value) -> Value:
        """1 where a class has the highest score, 0 elsewhere; as `scores`."""
        comparable = op.cast(scores, COMPARABLE.get(str(scores.dtype), np.dtype(np.float32)))
        winner = op.ArgMax(comparable, axis=self.channel, keepdims=1)
        line = [1] * op.rank(scores)
        line[self.channel] = -1
        indices = op.constant(np.arange(self.classes or 0, dtype=np.int64).reshape(line), "classes")
        return op.cast(op.Equal(winner, indices), scores.dtype)

    def read(self, output: np.ndarray, count: int) -> np.ndarray:
        pixels = self._pixels(output)
        pixels = pixels.reshape(len(pixels) if self.batched else 1, -1)
        width = self.classes or int(pixels.max()) + 1
        shares = [np.bincount(np.clip(row, 0, width - 1), minlength=width) / row.size for row in pixels]
        return np.asarray(np.stack(shares), np.float32)

    def _pixels(self, output: np.ndarray) -> np.ndarray:
        """(N, …) the class of every position."""
        if self._indexed:
            return output.astype(np.int64)
        return np.asarray(self._shaped(output).argmax(axis=self.channel))

    def _shaped(self, output: np.ndarray) -> np.ndarray:
        """The output with the axes of the logits."""
        shape = known_shape(self.logits)
        sizes = fixed_sizes(shape[int(self.batched) :])
        if output.ndim == len(shape) or sizes is None:
            return output
        return output.reshape([-1, *sizes] if self.batched else sizes)

    def best(self, scores: np.ndarray) -> np.ndarray:
        if self.background is None or scores.shape[-1] <= self.background:
            return super().best(scores)
        seen = scores.copy()
        seen[..., self.background] = 0
        return np.where(seen.any(axis=-1), seen.argmax(axis=-1), self.background)

    def predictions(self, output: np.ndarray, labels: Labels = None, limit: int | None = None) -> list[Prediction]:
        shares = self.read(output, 1)[0]
        left_out = self.background if self.certain else None
        order = [i for i in np.argsort(-shares, kind="stable").tolist() if shares[i] > 0 and i != left_out]
        return [Prediction(str(i), self.label(i, labels), float(shares[i]), i, i) for i in order[:limit]]

    def says_nothing(self, output: np.ndarray) -> bool:
        return bool(self.best(self.read(output, 1))[0] == self.background)

    @property
    def unit(self) -> str:
        return "share of pixels"

    @property
    def nothing(self) -> str:
        return "every pixel is background, so there is nothing to explain; -t 0 explains the background"

    @property
    def label_counts(self) -> tuple[int, ...]:
        return (self.classes,) if self.classes else ()

    def agreement(self, reference: np.ndarray, candidate: np.ndarray) -> Agreement:
        """The mean intersection over union of the classes that either finds."""
        a, b = self._pixels(reference), self._pixels(candidate)
        if a.shape != b.shape:
            return Agreement("mask IoU", 0.0, False)
        found = sorted({*np.unique(a).tolist(), *np.unique(b).tolist()})
        ious = [((a == c) & (b == c)).sum() / ((a == c) | (b == c)).sum() for c in found]
        return Agreement("mask IoU", float(np.mean(ious)), bool(np.mean(ious) >= AGREEING))

    def mask(self, output: np.ndarray) -> np.ndarray | None:
        pixels = np.squeeze(self._pixels(output))
        return pixels if pixels.ndim == 2 else None


@dataclass(frozen=True)
class Mask(Segmentation):
    """One channel: the probability, or the logit, that a pixel belongs to the mask (1) or not (0)."""

    role: ClassVar[str] = "a mask"

    @property
    def classes(self) -> int | None:
        return 2

    @property
    def threshold(self) -> float:
        """Outputs above it are the mask."""
        return 0.5 if self.stripped else 0.0

    def _scores(self, op: Builder, logits: Value) -> Value:
        return op.Concat(op.Neg(logits), logits, axis=self.channel)

    def _merged(self, op: Builder, cotangent: Value) -> Value:
        background, mask = (op.Slice(cotangent, [i], [i + 1], [self.channel]) for i in (0, 1))
        return op.Sub(mask, background)

    def probability(self, op: Builder, tensor: Value, cotangent: Value) -> Value:
        signed = op.Mul(op.Sigmoid(op.Mul(tensor, op.Sign(cotangent))), op.Abs(cotangent))
        return op.ReduceSum(signed, list(range(1, op.rank(tensor))), keepdims=0)

    def _pixels(self, output: np.ndarray) -> np.ndarray:
        return np.asarray(self._shaped(output) > self.threshold, np.int64)

    def label(self, index: int, labels: Labels) -> str:
        return label_of_two(index, labels, ("background", "mask"))

    @property
    def label_counts(self) -> tuple[int, ...]:
        return (1, 2)

    @property
    def nothing(self) -> str:
        return "no pixel is in the mask, so there is nothing to explain; -t 0 explains the background"


def background_of(labels: Labels) -> int | None:
    """Class 0, unless labels give it another name than that of a background."""
    if not labels:
        return 0
    named = [i for i, name in enumerate(labels) if name.strip().lower().strip("_") in _BACKGROUND]
    return named[0] if named else None
