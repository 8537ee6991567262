"""Regression: values, such as an age, an angle or coordinates."""

from __future__ import annotations

import numpy as np

from analyzer.graph import Builder, Value
from analyzer.tasks.base import Agreement, Labels, Prediction, Task

AGREEING = 0.05  # relative error up to which two values agree


class Regression(Task):
    """One or more values; by default, the first one is explained."""

    kind, role = "regression", "values"

    def shown(self, op: Builder) -> Value:
        """The first value, whatever the others are: 1 there and 0 elsewhere."""
        flat = self.flat(op)
        first = np.zeros((1, op.dim(flat, 1) or 1), np.float32)
        first[0, 0] = 1
        return op.Add(op.Mul(op.cast(flat, np.dtype(np.float32)), 0.0), op.constant(first))

    def best(self, scores: np.ndarray) -> np.ndarray:
        return np.zeros(len(scores), np.int64)

    def predictions(self, output: np.ndarray, labels: Labels = None, limit: int | None = None) -> list[Prediction]:
        values = self.read(output, 1)[0]
        return [Prediction(str(i), self.label(i, labels), float(v), i, i) for i, v in enumerate(values[:limit])]

    def label(self, index: int, labels: Labels) -> str:
        if labels is not None:
            return super().label(index, labels)
        return self.output.name if self.classes == 1 else f"value {index}"

    @property
    def unit(self) -> str:
        return "value"

    def agreement(self, reference: np.ndarray, candidate: np.ndarray) -> Agreement:
        """The largest relative error."""
        a, b = (o.reshape(-1).astype(np.float64) for o in (reference, candidate))
        if a.shape != b.shape:
            return Agreement("relative error", float("inf"), False)
        error = float((np.abs(a - b) / np.maximum(np.abs(a), 1e-6)).max(initial=0.0))
        return Agreement("relative error", error, error <= AGREEING)
