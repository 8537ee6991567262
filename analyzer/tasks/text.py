"""Text recognition: scores of characters, step by step along a line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from analyzer.errors import NotFoundError
from analyzer.tasks.base import TOP1, Agreement, Labels, Prediction, Task, quoted


@dataclass(frozen=True)
class Text(Task):
    """A character at every step, decoded greedily: repetitions and blanks are dropped (CTC, Graves et al. 2006).

    Attributes:
        steps: the axis of the steps; the classes are the last axis.
        blank: the class that stands for no character; None where every step is one.
    """

    steps: int = 1
    blank: int | None = 0

    kind: ClassVar[str] = "text recognition"
    role: ClassVar[str] = "characters"
    by_class: ClassVar[bool] = False
    method: ClassVar[str] = "layer-cam"  # a character is local, and averages over the line are not

    @property
    def classes(self) -> int | None:
        size = self.logits.shape[-1] if self.logits.shape else None
        return size if isinstance(size, int) else None

    def slot(self, target: int, reference: bool = False) -> str | int:
        name, axis = quoted(self.logits.name), len(self.logits.shape or (0, 0, 0)) - 1
        won = f"{name}.argmax({axis})"
        if target == TOP1:
            highest = f"{name}.max({axis})"
            return f"{highest}.sum()" if self.blank is None else f"{highest}.where({won} != {self.blank})"
        return f"{name}[..., {target}].where({won} == {target})"

    def predictions(self, output: np.ndarray, labels: Labels = None, limit: int | None = None) -> list[Prediction]:
        name = quoted(self.logits.name)
        found = []
        for number, (step, index, score) in enumerate(self.characters(output)[:limit]):
            place = [":"] * len(self.logits.shape or (0, 0, 0))
            place[self.steps], place[-1] = str(step), str(index)
            slot = f"{name}[{', '.join(place)}]"
            found.append(Prediction(f"character:{number}", self.label(index, labels), score, index, slot))
        return found

    def characters(self, output: np.ndarray) -> list[tuple[int, int, float]]:
        """(step, class, score) of every character of one picture."""
        if self._indexed:
            best = output.reshape(-1).astype(np.int64)
            scores = np.ones(len(best))
        else:
            rows = np.moveaxis(output, self.steps, 0).reshape(output.shape[self.steps], -1)
            best, scores = rows.argmax(axis=1), rows.max(axis=1)
        runs = np.flatnonzero(np.diff(best, prepend=-1)) if self.blank is not None else np.arange(len(best))
        ends = [*runs[1:].tolist(), len(best)]
        found = []
        for start, end in zip(runs.tolist(), ends, strict=True):
            if best[start] != self.blank:
                step = start + int(scores[start:end].argmax())
                found.append((step, int(best[start]), float(scores[step])))
        return found

    def text(self, output: np.ndarray, labels: Labels = None) -> str:
        """What is read; class indices with spaces between them where there are no labels."""
        found = [self.label(index, labels) for _, index, _ in self.characters(output)]
        return ("" if labels is not None else " ").join(found)

    def title(self, target: int, output: np.ndarray, labels: Labels = None) -> str:
        return f"text {self.text(output, labels)!r}" if target == TOP1 else super().title(target, output, labels)

    def says_nothing(self, output: np.ndarray) -> bool:
        return not self.characters(output)

    def resolve(self, word: str, output: np.ndarray, labels: Labels = None) -> list[Prediction] | None:
        if word == "text":
            text = self.text(output, labels)
            score = float(np.mean([c[2] for c in self.characters(output)])) if text else 0.0
            return [Prediction("text", text, score, None, self.slot(TOP1))] if text else []
        kind, colon, number = word.partition(":")
        if kind != "character" or not colon or not number.isdigit():
            return super().resolve(word, output, labels)
        found = self.predictions(output, labels)
        if int(number) >= len(found):
            raise NotFoundError(
                f"there is no character {number}: the model reads {len(found)} characters", "they are counted from 0"
            )
        return [found[int(number)]]

    @property
    def words(self) -> tuple[str, ...]:
        return ("text", "character:N", "all")

    def label(self, index: int, labels: Labels) -> str:
        if labels is None or self.classes is None or len(labels) == self.classes:
            return super().label(index, labels)
        place = index - 1 if self.blank == 0 else index
        if place == len(labels):
            return " "  # PaddleOCR adds a space after the characters of its file
        return labels[place] if 0 <= place < len(labels) else str(index)

    @property
    def label_counts(self) -> tuple[int, ...]:
        return (self.classes, self.classes - 1, self.classes - 2) if self.classes else ()

    @property
    def unit(self) -> str:
        return self._score_unit

    @property
    def nothing(self) -> str:
        return "the model reads no character"

    def agreement(self, reference: np.ndarray, candidate: np.ndarray) -> Agreement:
        """Whether the same text is read."""
        a, b = ([index for _, index, _ in self.characters(o)] for o in (reference, candidate))
        return Agreement("equal text", float(a == b), a == b)
