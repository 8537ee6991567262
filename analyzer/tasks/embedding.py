"""Embedding: a vector that is compared with others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from analyzer.tasks.base import TOP1, Agreement, Labels, Task, quoted

AGREEING = 0.99  # cosine similarity from which two embeddings agree


@dataclass(frozen=True)
class Embedding(Task):
    """By default, its similarity with the reference picture; without one, its squared length before normalization,
    that is, all features by their strength (of the normalized vector, every gradient would be 0).

    `logits` is the vector before it is normalized.
    """

    kind: ClassVar[str] = "embedding"
    role: ClassVar[str] = "an embedding"
    by_class: ClassVar[bool] = False

    def slot(self, target: int, reference: bool = False) -> str | int:
        if target != TOP1:
            return f"{quoted(self.output.name)}[:, {target}]"
        if reference:
            return f"{quoted(self.output.name)}.cosine(reference)"
        name = quoted(self.logits.name)
        return f"({name} * {name}).sum()"

    def title(self, target: int, output: np.ndarray, labels: Labels = None) -> str:
        return "embedding" if target == TOP1 else f"dimension {target}"

    @property
    def words(self) -> tuple[str, ...]:
        return ()

    def resolve(self, word: str, output: np.ndarray, labels: Labels = None) -> None:
        return None

    def agreement(self, reference: np.ndarray, candidate: np.ndarray) -> Agreement:
        """The cosine of the two."""
        a, b = (o.reshape(-1).astype(np.float64) for o in (reference, candidate))
        with np.errstate(all="ignore"):
            cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))) if a.shape == b.shape else 0.0
        return Agreement("cosine", cosine, cosine >= AGREEING)
