"""Classification: a score per class. Softmax or logits, several labels at once, or a single number."""

from __future__ import annotations

import numpy as np

from analyzer.analysis.scores import REAL
from analyzer.graph import Builder, Value
from analyzer.tasks.base import COMPARABLE, Labels, Prediction, Task, label_of_two, quoted, ranked


def sigmoid(scores: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(−x))"""
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-scores)))


class Classification(Task):
    """One class out of several."""

    kind, role, probable = "classification", "class scores", True

    def read(self, output: np.ndarray, count: int) -> np.ndarray:
        if not self._indexed:
            return super().read(output, count)
        scores = np.zeros((count, self.classes or int(output.max()) + 1), np.float32)
        scores[np.arange(count), output.reshape(count).astype(np.int64)] = 1
        return scores

    def shown(self, op: Builder) -> Value:
        return self.flat(op) if self._indexed else super().shown(op)

    def predictions(self, output: np.ndarray, labels: Labels = None, limit: int | None = None) -> list[Prediction]:
        scores = self.read(output, 1)[0]
        order = ranked(scores)[: 1 if self._indexed else limit]
        return [Prediction(str(i), self.label(i, labels), float(scores[i]), i, i) for i in order.tolist()]

    def certainty(self, found: Prediction, output: np.ndarray) -> float:
        return float(self.probabilities(self.read(output, 1).astype(np.float64))[0, int(found.slot)])

    def resolve(self, word: str, output: np.ndarray, labels: Labels = None) -> list[Prediction] | None:
        if word != "positive":
            return super().resolve(word, output, labels)
        return [p for p in self.predictions(output, labels) if p.score > self.threshold]

    @property
    def words(self) -> tuple[str, ...]:
        return ("positive", "all")

    @property
    def nothing(self) -> str:
        return "no class is positive"

    @property
    def threshold(self) -> float:
        """Scores above it are positive: a probability of ½, or a logit of 0."""
        return 0.5 if self.unit == "probability" else 0.0

    @property
    def unit(self) -> str:
        return self._score_unit

    @property
    def label_counts(self) -> tuple[int, ...]:
        return (self.classes,) if self.classes else ()


class MultiLabel(Classification):
    """Any number of classes at once, each with a probability of its own."""

    kind = "multi-label classification"

    def _squashed(self, scores: np.ndarray) -> np.ndarray:
        return sigmoid(scores)

    def _distributed(self, scores: np.ndarray) -> bool:
        return False


class Binary(Classification):
    """One number: the probability, or the logit, of the positive class (1); the negative class (0) has its negative."""

    kind, role = "binary classification", "the score of one class"

    @property
    def classes(self) -> int | None:
        return 2

    def spread(self, op: Builder, chosen: Value) -> tuple[Value, Value]:
        logit = self._rows(op, self.logits)
        signs = op.cast(op.constant(np.array([[-1.0], [1.0]], np.float32)), logit.dtype)
        return logit, op.MatMul(op.cast(chosen, logit.dtype), signs)

    def expression(self, index: int) -> str:
        return f"{'' if index else '-'}{quoted(self.logits.name)}[:, 0]"

    def shown(self, op: Builder) -> Value:
        shown = self._rows(op, op.cast(self.output, COMPARABLE.get(str(self.output.dtype), np.dtype(np.float32))))
        zero, scale = self.quantisation
        shown = op.Mul(op.Sub(shown, zero), scale) if self.quantisation != REAL else shown
        negative = op.Sub(op.scalar(1, shown), shown) if self.unit == "probability" else op.Neg(shown)
        return op.Concat(negative, shown, axis=1)

    def probability(self, op: Builder, tensor: Value, cotangent: Value) -> Value:
        return op.Sigmoid(op.ReduceSum(op.Mul(tensor, cotangent), [1], keepdims=0))

    def _squashed(self, scores: np.ndarray) -> np.ndarray:
        return sigmoid(scores)

    def read(self, output: np.ndarray, count: int) -> np.ndarray:
        shown = output.reshape(count if self.batched else 1, -1)[:, :1]
        return np.concatenate([1 - shown if self.unit == "probability" else -shown, shown], axis=1)

    def label(self, index: int, labels: Labels) -> str:
        return label_of_two(index, labels, ("negative class", "positive class"))

    @property
    def label_counts(self) -> tuple[int, ...]:
        return (1, 2)
