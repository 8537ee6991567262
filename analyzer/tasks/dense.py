"""Dense prediction: a value for every pixel, such as a depth, a restored picture or a heatmap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from analyzer.tasks.base import TOP1, Agreement, Labels, Task, quoted

AGREEING = 0.05  # relative error up to which two maps agree


@dataclass(frozen=True)
class Dense(Task):
    """By default, the mean of all values is explained; a number is a channel, whose mean is explained.

    Attributes:
        channel: the axis of the channels; None where there is none.
    """

    channel: int | None = 1

    kind: ClassVar[str] = "dense prediction"
    role: ClassVar[str] = "values of every pixel"
    by_class: ClassVar[bool] = False

    def slot(self, target: int, reference: bool = False) -> str | int:
        name = quoted(self.logits.name)
        if target == TOP1 or self.channel is None:
            return f"{name}.mean()"
        place = [":"] * self.channel + [str(target)]
        return f"{name}[{', '.join(place)}].mean()"

    def title(self, target: int, output: np.ndarray, labels: Labels = None) -> str:
        return f"mean of {self.output.name}" + ("" if target == TOP1 else f", channel {target}")

    @property
    def words(self) -> tuple[str, ...]:
        return ()

    def resolve(self, word: str, output: np.ndarray, labels: Labels = None) -> None:
        return None

    @property
    def unit(self) -> str:
        return "mean value"

    def agreement(self, reference: np.ndarray, candidate: np.ndarray) -> Agreement:
        """The relative L2 distance of the maps."""
        if reference.shape != candidate.shape:
            return Agreement("relative error", float("inf"), False)
        a, b = reference.astype(np.float64), candidate.astype(np.float64)
        error = float(np.linalg.norm(a - b) / max(float(np.linalg.norm(a)), 1e-12))
        return Agreement("relative error", error, error <= AGREEING)
